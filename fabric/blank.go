package fabric

import (
	"sync"

	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/usage"
)

// blank is a chunk of zeros, which all who have lost regions with Spec.Zeros map,
// to be read, in place of every chunk of them. Its lock is a leaf.
type blank struct {
	mu sync.Mutex
	fr memmap.FileRange // +checklocks:mu
}

func (b *blank) translate(mf *pgalloc.MemoryFile, required memmap.MappableRange) ([]memmap.Translation, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fr.Length() == 0 {
		fr, err := mf.Allocate(chunkSize, pgalloc.AllocOpts{Kind: usage.System})
		if err != nil {
			return nil, &memmap.BusError{Err: linuxerr.ENOMEM}
		}
		b.fr = fr // For as long as there is a store.
	}
	var out []memmap.Translation
	for i := required.Start >> chunkBits; i<<chunkBits < required.End; i++ {
		src := memmap.MappableRange{Start: i << chunkBits, End: (i + 1) << chunkBits}.Intersect(required)
		out = append(out, memmap.Translation{Source: src, File: mf, Offset: b.fr.Start + src.Start - i<<chunkBits, Perms: hostarch.Read})
	}
	return out, nil
}
