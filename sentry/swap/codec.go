package swap

import (
	"hash/crc32"
	"sync"

	"github.com/klauspost/compress/zstd"

	"aios.dev/aios/errdefs"
)

// coders compress and decompress single pages. Both may be used by many at once.
var coders = sync.OnceValues(func() (*zstd.Encoder, *zstd.Decoder) {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2), zstd.WithWindowSize(PageSize),
		zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithZeroFrames(false))
	if err != nil {
		panic(err) // The options are wrong.
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(PageSize), zstd.WithDecoderMaxWindow(PageSize))
	if err != nil {
		panic(err)
	}
	return e, d
})

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sum(page []byte) uint32 { return crc32.Checksum(page, castagnoli) }

// worth is how long a compressed page may be: one that is longer is kept as it is.
const worth = PageSize - grain

// compress returns page, compressed into buf if that is worth it.
func compress(page, buf []byte) []byte {
	e, _ := coders()
	if out := e.EncodeAll(page, buf[:0]); len(out) <= worth {
		return out
	}
	return page
}

// decompress undoes it.
func decompress(data, page []byte) error {
	if len(data) == PageSize {
		copy(page, data)
		return nil
	}
	_, d := coders()
	out, err := d.DecodeAll(data, page[:0])
	if err == nil && (len(out) != PageSize || &out[0] != &page[0]) {
		err = errdefs.Newf(errdefs.Internal, "a page of %d bytes", len(out))
	}
	return errdefs.Wrap(err, errdefs.SwapDamaged, "decompress a page")
}

// isZero reports whether nothing is in page.
func isZero(page []byte) bool {
	for _, b := range page {
		if b != 0 {
			return false
		}
	}
	return true
}
