package sentry

import (
	"bytes"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/state/stateio"
	"gvisor.dev/gvisor/pkg/timing"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/pages"
)

// memoryLoad is memory that is read while the kernel is.
type memoryLoad struct {
	s      *Kernel
	loader *kernel.AsyncMFLoader
	pages  int
}

// loadPages begins to read the pages of the domain.
func (s *Kernel) loadPages(from Restored, timer *timing.Timer) (*memoryLoad, error) {
	x, about, err := readIndex(from.Memory)
	if err != nil {
		return nil, err
	}
	var packs []io.ReaderAt
	for _, f := range from.Packs {
		packs = append(packs, f)
	}
	r, err := pages.NewReader(x, packs)
	if err != nil {
		return nil, err
	}
	metadata := io.NopCloser(bytes.NewReader(about))
	loader := kernel.NewAsyncMFLoader(metadata, newPagesFile(r, s.machine.file), s.k.MemoryFile(), timer.Fork("pages"))
	loader.KickoffPrivate(nil) // All memory is in one file.
	return &memoryLoad{s, loader, x.Pages()}, nil
}

// fewPages is how many are all read before any program goes on. If there are more,
// who touches one that was not read yet waits for it.
const fewPages = 64 << 20 / pages.Size

// wait returns when programs can go on.
func (m *memoryLoad) wait() error {
	failed := func(err error) error {
		return errdefs.Wrap(err, errdefs.CheckpointDamaged, "read the checkpoint")
	}
	if err := m.loader.WaitMetadata(); err != nil || m.pages <= fewPages {
		if err == nil {
			err = m.loader.Wait()
		}
		return failed(err)
	}
	go func() {
		if err := m.loader.Wait(); err != nil { // Nobody may run with other memory.
			m.s.log.boot.Error("the memory of the domain cannot be read", "err", failed(err))
			m.s.cfg.Exit(1)
		}
	}()
	return nil
}

// pagesFile gives gVisor the pages of a checkpoint. They are written to the file that
// memory is in, and not to where it is mapped: each page would be a fault there, which is
// dearer than all the rest of reading it, and few are ever looked at through the
// kernel's own mapping.
type pagesFile struct {
	from    *pages.Reader
	to      io.WriterAt
	jobs    chan pagesJob
	done    chan stateio.Completion
	workers sync.WaitGroup
}

// pagesJob is one read: pages from an offset on, to ranges of the file.
type pagesJob struct {
	id    int
	off   int64
	total uint64
	to    []memmap.FileRange
}

// pagesReaders is how many read pages at a time.
const pagesReaders = 2

func newPagesFile(from *pages.Reader, to *os.File) *pagesFile {
	f := &pagesFile{
		from: from, to: to,
		jobs: make(chan pagesJob, pagesReaders), done: make(chan stateio.Completion, pagesReaders),
	}
	for range pagesReaders {
		f.workers.Go(func() {
			for j := range f.jobs {
				n, err := f.read(j)
				f.done <- stateio.Completion{ID: j.id, N: n, Err: err}
			}
		})
	}
	return f
}

// read does what is asked for, and returns how many bytes of it.
func (f *pagesFile) read(j pagesJob) (n uint64, err error) {
	to, at := j.to, uint64(0) // How much of the first of them there is already.
	err = f.from.Each(j.off/pages.Size, int64(j.total/pages.Size), func(b []byte) error {
		for len(b) > 0 {
			k := min(uint64(len(b)), to[0].Length()-at)
			if _, err := f.to.WriteAt(b[:k], int64(to[0].Start+at)); err != nil {
				return errdefs.Wrap(err, errdefs.HostIO, "restore memory")
			}
			b, n = b[k:], n+k
			if at += k; at == to[0].Length() {
				to, at = to[1:], 0
			}
		}
		return nil
	})
	return n, err
}

// Close implements stateio.AsyncReader.
func (f *pagesFile) Close() error {
	close(f.jobs)
	f.workers.Wait()
	return nil
}

// MaxReadBytes implements stateio.AsyncReader.
func (*pagesFile) MaxReadBytes() uint64 { return pagesAtOnce }

// MaxRanges implements stateio.AsyncReader.
func (*pagesFile) MaxRanges() int { return pagesRanges }

// MaxParallel implements stateio.AsyncReader.
func (*pagesFile) MaxParallel() int { return pagesReaders }

// NeedRegisterDestinationFD implements stateio.AsyncReader: there is one file, and it is
// known. But only who says yes is told ranges of it.
func (*pagesFile) NeedRegisterDestinationFD() bool { return true }

// RegisterDestinationFD implements stateio.AsyncReader.
func (*pagesFile) RegisterDestinationFD(int32, uint64, []stateio.ClientFileRangeSetting) (stateio.DestinationFile, error) {
	return nil, nil
}

// AddRead implements stateio.AsyncReader.
func (f *pagesFile) AddRead(id int, off int64, _ stateio.DestinationFile, to memmap.FileRange, _ []byte) {
	f.jobs <- pagesJob{id, off, to.Length(), []memmap.FileRange{to}}
}

// AddReadv implements stateio.AsyncReader.
func (f *pagesFile) AddReadv(id int, off int64, total uint64, _ stateio.DestinationFile, to []memmap.FileRange, _ []unix.Iovec) {
	f.jobs <- pagesJob{id, off, total, to}
}

// Wait implements stateio.AsyncReader.
func (f *pagesFile) Wait(cs []stateio.Completion, min int) ([]stateio.Completion, error) {
	return stateio.CompletionChanWait(f.done, cs, min)
}
