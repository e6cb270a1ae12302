package images

import (
	"archive/tar"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aios.dev/aios/errdefs"
)

// fuzzLimits keeps a round short.
var fuzzLimits = Limits{Entries: 200, FileSize: 1 << 20, TotalSize: 4 << 20, Layers: 8}

// tricky are layers that steer the fuzzer to the interesting places.
func tricky(t testing.TB) [][]byte {
	return [][]byte{
		layerOf(t),
		layerOf(t, entry{name: "d/"}, entry{name: "d/f", body: "x"}, entry{name: "h", typ: tar.TypeLink, link: "d/f"}, entry{name: "d/.wh.x"}, entry{name: "d/.wh..wh..opq"}),
		layerOf(t, entry{name: "l", typ: tar.TypeSymlink, link: "../../../../tmp"}, entry{name: "l/escaped", body: "x"}, entry{name: "/abs", body: "x"}, entry{name: "../up", body: "x"}),
		layerOf(t, entry{name: "null", typ: tar.TypeChar, major: 1, minor: 3}, entry{name: "p", typ: tar.TypeFifo}, entry{name: strings.Repeat("long/", 40) + "f", body: "x"}),
	}
}

// checkImport imports into a store in its own directory and demands that the
// importer returns a coded error or a readable image, leaves nothing half done,
// and has touched nothing beside the store.
func checkImport(t *testing.T, path string) {
	s := newStore(t)
	beside := filepath.Dir(s.dir)
	_, err := s.Import(context.Background(), "x", path, ImportOptions{Limits: fuzzLimits})
	if err != nil {
		if code := errdefs.CodeOf(err); code != errdefs.ImageInvalid {
			t.Errorf("%s: %v", code, err)
		}
	} else {
		f, _, err := s.Open("x")
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	if got := leftovers(t, s, tmpDir); len(got) != 0 {
		t.Errorf("left %v", got)
	}
	if entries, _ := os.ReadDir(beside); len(entries) != 1 {
		t.Errorf("%d entries beside the store", len(entries))
	}
	for _, p := range []string{"/tmp/escaped", "/abs", "/escaped"} {
		if _, err := os.Lstat(p); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was made on the host", p)
		}
	}
}

// FuzzLayer feeds any bytes as the tar of a layer, with right digests.
func FuzzLayer(f *testing.F) {
	for _, l := range tricky(f) {
		for packing := range uint8(3) {
			f.Add(l, packing)
		}
	}
	packings := []func([]byte) []byte{gz, zst, func(b []byte) []byte { return b }}
	f.Fuzz(func(t *testing.T, l []byte, packing uint8) {
		checkImport(t, layout(testImage{layers: [][]byte{l, l}, pack: packings[packing%3]}).dir(t))
	})
}

// FuzzArchive feeds any bytes as an image archive.
func FuzzArchive(f *testing.F) {
	for _, l := range tricky(f) {
		f.Add(dockerArchive(f, l))
		f.Add(gz(dockerArchive(f, l)))
		f.Add(layout(testImage{layers: [][]byte{l}}).tar(f))
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkImport(t, fileOf(t, b)) })
}

// FuzzLayout feeds any bytes as the index and the manifest of a layout.
func FuzzLayout(f *testing.F) {
	l := layerOf(f, entry{name: "f", body: "f"})
	p := layout(testImage{layers: [][]byte{l}})
	for name, b := range p {
		if strings.HasPrefix(name, "blobs/") && strings.Contains(string(b), "schemaVersion") {
			f.Add(p[indexFile], b)
		}
	}
	f.Add([]byte(`{"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json"}]}`), []byte("{}"))
	f.Fuzz(func(t *testing.T, index, manifest []byte) {
		p := layout(testImage{layers: [][]byte{l}})
		p[indexFile] = index
		p["blobs/sha256/"+digest(manifest)[7:]] = manifest
		checkImport(t, p.dir(t))
	})
}
