package images

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"aios.dev/aios/ktime"
)

// benchTree is a directory like the root of a distribution: many small files,
// some large ones.
func benchTree(b *testing.B) (dir string, size int64) {
	dir = b.TempDir()
	rnd := rand.NewChaCha8([32]byte{})
	body := make([]byte, 8<<20)
	rnd.Read(body)
	add := func(name string, n int) {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), body[:n], 0o644); err != nil {
			b.Fatal(err)
		}
		size += int64(n)
	}
	for i := range 4000 {
		add(fmt.Sprintf("usr/share/d%d/f%d", i/40, i), 200+i*5)
	}
	for i := range 8 {
		add(fmt.Sprintf("usr/lib/lib%d.so", i), len(body))
	}
	return dir, size
}

func BenchmarkImportDirectory(b *testing.B) {
	dir, size := benchTree(b)
	benchImport(b, dir, size)
}

func BenchmarkImportLayers(b *testing.B) {
	for name, pack := range map[string]func([]byte) []byte{"plain": func(p []byte) []byte { return p }, "gzip": gz, "zstd": zst} {
		b.Run(name, func(b *testing.B) {
			text := bytes.Repeat([]byte("some text that packs about as well as programs do, 0123456789\n"), 1000)
			var entries []entry
			size := int64(0)
			for i := range 1000 {
				body := fmt.Sprint(i, string(text[:len(text)-i]))
				entries = append(entries, entry{name: fmt.Sprintf("usr/f%d", i), body: body})
				size += int64(len(body))
			}
			benchImport(b, layout(testImage{layers: [][]byte{layerOf(b, entries...)}, pack: pack}).dir(b), size)
		})
	}
}

func benchImport(b *testing.B, path string, size int64) {
	s, err := OpenStore(filepath.Join(b.TempDir(), "store"), ktime.Real)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Import(context.Background(), "x", path, ImportOptions{Replace: true}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHostImage is what a start pays for the host image when its skeleton
// is in the store.
func BenchmarkHostImage(b *testing.B) {
	s, err := OpenStore(filepath.Join(b.TempDir(), "store"), ktime.Real)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	b.ReportAllocs()
	for b.Loop() {
		_, f, err := s.HostImage(context.Background(), HostOptions{})
		if err != nil {
			b.Skipf("this machine has no host image: %v", err)
		}
		f.Close()
	}
}
