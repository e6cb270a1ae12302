package sentry

import (
	"bytes"
	"io"
	"testing"
)

// countingReader notes the longest piece that it is asked for.
type countingReader struct {
	io.Reader
	most int
}

func (r *countingReader) Read(p []byte) (int, error) {
	r.most = max(r.most, len(p))
	return r.Reader.Read(p)
}

func TestRandomnessComesInPieces(t *testing.T) {
	want := bytes.Repeat([]byte("random"), 100_000)
	r := &countingReader{Reader: bytes.NewReader(want)}
	got := make([]byte, len(want))
	if n, err := (random{r}).Read(got); n != len(want) || err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes, %v", n, len(want), err)
	}
	if r.most > randomPiece {
		t.Errorf("%d bytes at once", r.most)
	}
	if n, err := (random{r}).Read(got); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
}
