package mkerofs

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
)

// BenchmarkWrite lays out and writes 20,000 small files to nowhere: the cost
// of the format itself.
func BenchmarkWrite(b *testing.B) {
	root := NewDir(0o755)
	body := strings.Repeat("x", 6000)
	for d := range 200 {
		dir := NewDir(0o755)
		root.Children[fmt.Sprintf("dir%d", d)] = dir
		for f := range 100 {
			dir.Children[fmt.Sprintf("file%d", f)] = file(body)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		st, err := Write(context.Background(), io.Discard, root, nil)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(st.Bytes)
	}
}
