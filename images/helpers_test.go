package images

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
	goerofs "github.com/erofs/go-erofs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	gverofs "gvisor.dev/gvisor/pkg/erofs"
)

var stamp = time.Unix(1_700_000_000, 0)

func newStore(t testing.TB) *Store {
	t.Helper()
	s, err := OpenStore(filepath.Join(t.TempDir(), "store"), ktime.NewFake(stamp))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// entry makes a tar header; the type follows from what is set.
type entry struct {
	name  string
	typ   byte // 0: a directory when the name ends in a slash, else a file
	body  string
	link  string
	mode  int64
	uid   int
	major int64
	minor int64
	pax   map[string]string
}

func layerOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{
			Name: e.name, Typeflag: e.typ, Linkname: e.link, Mode: e.mode, Uid: e.uid, Gid: e.uid, Size: int64(len(e.body)),
			Devmajor: e.major, Devminor: e.minor, ModTime: stamp, Format: tar.FormatPAX, PAXRecords: e.pax,
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(e.name, "/") {
				h.Typeflag = tar.TypeDir
			}
		}
		if h.Mode == 0 {
			h.Mode = 0o644
			if h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatalf("%q: %v", e.name, err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gz(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

func zst(b []byte) []byte {
	w, _ := zstd.NewWriter(nil)
	return w.EncodeAll(b, nil)
}

func digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// testImage is an OCI image under construction.
type testImage struct {
	layers  [][]byte // plain tars
	pack    func([]byte) []byte
	arch    string
	config  map[string]any
	ref     string
	omitRef bool // no platform in the index
}

// parts is a layout: file names to contents.
type parts map[string][]byte

func (p parts) blob(b []byte) map[string]any {
	p["blobs/sha256/"+digest(b)[7:]] = b
	return map[string]any{"digest": digest(b), "size": len(b)}
}

func (p parts) json(v any) map[string]any {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return p.blob(b)
}

// layout returns the files of an OCI layout with these images.
func layout(images ...testImage) parts {
	p := parts{layoutFile: []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	var manifests []any
	for _, img := range images {
		if img.arch == "" {
			img.arch = runtime.GOARCH
		}
		if img.pack == nil {
			img.pack = gz
		}
		var diffs []string
		layers := []any{}
		for _, l := range img.layers {
			diffs = append(diffs, digest(l))
			d := p.blob(img.pack(l))
			d["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip"
			layers = append(layers, d)
		}
		config := p.json(map[string]any{"os": "linux", "architecture": img.arch, "config": img.config, "rootfs": map[string]any{"type": "layers", "diff_ids": diffs}})
		config["mediaType"] = "application/vnd.oci.image.config.v1+json"
		m := p.json(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": layers})
		m["mediaType"] = "application/vnd.oci.image.manifest.v1+json"
		if !img.omitRef {
			m["platform"] = map[string]any{"os": "linux", "architecture": img.arch}
		}
		if img.ref != "" {
			m["annotations"] = map[string]any{"org.opencontainers.image.ref.name": img.ref}
		}
		manifests = append(manifests, m)
	}
	b, _ := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": manifests})
	p[indexFile] = b
	return p
}

// dir writes the parts as files.
func (p parts) dir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range p {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// tar returns the parts as an archive.
func (p parts) tar(t testing.TB) []byte {
	t.Helper()
	var entries []entry
	for name, b := range p {
		entries = append(entries, entry{name: name, body: string(b)})
	}
	return layerOf(t, entries...)
}

func fileOf(t testing.TB, b []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func mustImport(t testing.TB, s *Store, name, path string, opts ImportOptions) Image {
	t.Helper()
	img, err := s.Import(context.Background(), name, path, opts)
	if err != nil {
		t.Fatalf("import %s: %v (%s)", name, err, errdefs.FixOf(err))
	}
	return img
}

// contents renders the named image: path → what is there. Files with several
// names show them by "=first name".
func contents(t testing.TB, s *Store, name string) map[string]string {
	t.Helper()
	f, _, err := s.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return contentsOf(t, f)
}

// contentsOf reads through go-erofs, which walks, and gVisor, which knows modes
// in full and must be able to map every file.
func contentsOf(t testing.TB, f *os.File) map[string]string {
	t.Helper()
	fsys, err := goerofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	dup, err := os.Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	gv, err := gverofs.OpenImage(dup)
	if err != nil {
		t.Fatal(err)
	}
	defer gv.Close()
	out := map[string]string{}
	first := map[int64]string{}
	if err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*goerofs.Stat)
		inode, err := gv.Inode(uint64(st.Ino))
		if err != nil {
			return err
		}
		s := fmt.Sprintf("%o %d:%d", inode.Mode(), inode.UID(), inode.GID())
		switch {
		case info.Mode().IsRegular():
			if at, ok := first[st.Ino]; ok {
				out[p] = "=" + at
				return nil
			}
			first[st.Ino] = p
			b, err := fs.ReadFile(fsys, p)
			if err != nil {
				return err
			}
			if _, err := inode.DataOffset(); err != nil {
				return err
			}
			if ranges, err := inode.DataRanges(); err != nil || string(ranges[0].Bytes) != string(b) {
				t.Errorf("%s: the two readers differ (%v)", p, err)
			}
			s += fmt.Sprintf(" %q", b)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := fs.ReadLink(fsys, p)
			if err != nil {
				return err
			}
			s += " -> " + target
		case info.Mode()&fs.ModeDevice != 0:
			s += fmt.Sprintf(" dev %#x", st.Rdev)
		}
		out[p] = s
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func wantContents(t testing.TB, got, want map[string]string) {
	t.Helper()
	for p, w := range want {
		if got[p] != w {
			t.Errorf("%s: %q, want %q", p, got[p], w)
		}
	}
	for p, g := range got {
		if _, ok := want[p]; !ok && p != "." {
			t.Errorf("%s: %q, want nothing", p, g)
		}
	}
}

func wantError(t testing.TB, err error, code errdefs.Code, text string) {
	t.Helper()
	if errdefs.CodeOf(err) != code || err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("got %s: %v; want %s with %q", errdefs.CodeOf(err), err, code, text)
	} else if errdefs.FixOf(err) == "" {
		t.Errorf("%v: says no fix", err)
	}
}

// leftovers returns the names of files in a part of the store.
func leftovers(t testing.TB, s *Store, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.dir, dir))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func fsck(t testing.TB, s *Store, name string) {
	t.Helper()
	bin, err := exec.LookPath("fsck.erofs")
	if err != nil {
		return
	}
	img, err := s.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(bin, "--extract", s.blobPath(img.Digest)).CombinedOutput(); err != nil {
		t.Errorf("fsck.erofs: %v\n%s", err, out)
	}
}

// mtimeOf returns the time of modification of a file of an image, in ns.
func mtimeOf(t testing.TB, f *os.File, name string) int64 {
	t.Helper()
	fsys, err := goerofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := fs.Stat(fsys, name)
	if err != nil {
		t.Fatal(err)
	}
	st := fi.Sys().(*goerofs.Stat)
	return int64(st.Mtime)*1e9 + int64(st.MtimeNs)
}

// dockerArchive returns what docker save would, in its older form.
func dockerArchive(t testing.TB, layers ...[]byte) []byte {
	t.Helper()
	var diffs, names []string
	var entries []entry
	for i, l := range layers {
		diffs = append(diffs, digest(l))
		names = append(names, fmt.Sprintf("layer%d/layer.tar", i))
		entries = append(entries, entry{name: names[i], body: string(l)})
	}
	config, _ := json.Marshal(map[string]any{"os": "linux", "architecture": runtime.GOARCH, "config": map[string]any{"Env": []string{"A=b"}}, "rootfs": map[string]any{"type": "layers", "diff_ids": diffs}})
	manifest, _ := json.Marshal([]any{map[string]any{"Config": "config.json", "RepoTags": []string{"example:1"}, "Layers": names}})
	entries = append(entries, entry{name: "config.json", body: string(config)}, entry{name: "manifest.json", body: string(manifest)})
	return layerOf(t, entries...)
}

// newStoreIn and fileOfIn reuse one place for the many rounds of a property.
func newStoreIn(t testing.TB, base string) *Store {
	t.Helper()
	s, err := OpenStore(filepath.Join(base, "store"), ktime.NewFake(stamp))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func fileOfIn(t testing.TB, base string, b []byte) string {
	t.Helper()
	name := filepath.Join(base, "archive")
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}
