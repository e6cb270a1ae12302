package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
	"golang.org/x/sys/unix"
)

func smallDir(t testing.TB, body string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte(body), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestStoreKeepsAndForgets(t *testing.T) {
	s := newStore(t)
	img := mustImport(t, s, "one", smallDir(t, "1"), ImportOptions{})
	if img.Files != 2 || img.Kind != KindDir || !img.Created.Equal(stamp) || digestHex(img.Digest) == "" {
		t.Errorf("image %+v", img)
	}
	mustImport(t, s, "two", smallDir(t, "2"), ImportOptions{})
	list, err := s.List()
	if err != nil || len(list) != 2 || list[0].Name != "one" || list[1].Name != "two" {
		t.Errorf("list %v, %v", list, err)
	}
	if got, err := s.Get("one"); err != nil || fmt.Sprint(got) != fmt.Sprint(img) {
		t.Errorf("got %+v, %v; want %+v", got, err, img)
	}
	f, _, err := s.Open("one")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if fi, _ := f.Stat(); fi.Size() != img.Size || fi.Mode().Perm() != 0o400 {
		t.Errorf("blob has %d bytes and mode %v, want %d and read-only", fi.Size(), fi.Mode(), img.Size)
	}
	if _, err := f.Write([]byte("x")); err == nil {
		t.Error("the image can be written through the file that Open returns")
	}

	err = s.Remove("one", func(i Image) []string {
		if i.Digest != img.Digest {
			t.Errorf("asked about %s, want %s", i.Digest, img.Digest)
		}
		return []string{"a1", "a2", "a3", "a4", "a5", "a6", "a7"}
	})
	wantError(t, err, errdefs.ImageInUse, "a1, a2, a3, a4, a5 and 2 more")
	if err := s.Remove("one", func(Image) []string { return nil }); err != nil {
		t.Fatal(err)
	}
	_, err = s.Get("one")
	wantError(t, err, errdefs.ImageNotFound, "one")
	wantError(t, s.Remove("one", nil), errdefs.ImageNotFound, "one")
	if got := leftovers(t, s, blobsDir); len(got) != 1 {
		t.Errorf("blobs %v, want that of the other image", got)
	}
	if b, err := io.ReadAll(f); err != nil || digest(b) != img.Digest {
		t.Errorf("an open image changed when it was removed: %v", err)
	}
}

func TestNamesShareBytes(t *testing.T) {
	s := newStore(t)
	dir := smallDir(t, "same")
	a := mustImport(t, s, "a", dir, ImportOptions{})
	b := mustImport(t, s, "b", dir, ImportOptions{})
	if a.Digest != b.Digest || len(leftovers(t, s, blobsDir)) != 1 {
		t.Errorf("digests %s and %s, blobs %v", a.Digest, b.Digest, leftovers(t, s, blobsDir))
	}
	if err := s.Remove("a", nil); err != nil {
		t.Fatal(err)
	}
	if f, _, err := s.Open("b"); err != nil {
		t.Errorf("the other name lost its bytes: %v", err)
	} else {
		f.Close()
	}
}

func TestNamesAreChecked(t *testing.T) {
	s := newStore(t)
	dir := smallDir(t, "x")
	for _, name := range []string{"", "host", "../x", "a/b", ".hidden", "a b", strings.Repeat("x", 64)} {
		_, err := s.Import(context.Background(), name, dir, ImportOptions{})
		wantError(t, err, errdefs.InvalidArgument, "")
		wantError(t, s.Remove(name, nil), errdefs.InvalidArgument, "")
	}
	mustImport(t, s, "taken", dir, ImportOptions{})
	_, err := s.Import(context.Background(), "taken", dir, ImportOptions{})
	wantError(t, err, errdefs.ImageExists, "taken")
	other := mustImport(t, s, "taken", smallDir(t, "y"), ImportOptions{Replace: true})
	if got := leftovers(t, s, blobsDir); len(got) != 1 || got[0] != digestHex(other.Digest)+blobSuffix {
		t.Errorf("blobs %v after a replacement", got)
	}
	_, err = s.Import(context.Background(), "new", filepath.Join(dir, "nothing"), ImportOptions{})
	wantError(t, err, errdefs.NotFound, "no such file")
	_, err = s.Import(context.Background(), "new", "/dev/null", ImportOptions{})
	wantError(t, err, errdefs.ImageInvalid, "neither a directory nor a regular file")
}

func TestDamageIsSeenAndCanBeRemoved(t *testing.T) {
	s := newStore(t)
	mustImport(t, s, "record", smallDir(t, "1"), ImportOptions{})
	blob := mustImport(t, s, "blob", smallDir(t, "2"), ImportOptions{})
	mustImport(t, s, "good", smallDir(t, "3"), ImportOptions{})
	for _, damage := range []string{"{", `{"version":99}`, `{"version":1,"image":{"digest":"sha256:../../x","size":1}}`} {
		if err := os.WriteFile(s.recordPath(namesDir, "record"), []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := s.Get("record")
		wantError(t, err, errdefs.ImageInvalid, "damaged")
	}
	if err := os.Truncate(s.blobPath(blob.Digest), 4096); err != nil {
		t.Fatal(err)
	}
	_, _, err := s.Open("blob")
	wantError(t, err, errdefs.ImageInvalid, "missing or damaged")
	if list, err := s.List(); len(list) != 2 || errdefs.CodeOf(err) != errdefs.ImageInvalid {
		t.Errorf("list %v, %v", list, err)
	}
	for _, name := range []string{"record", "blob"} {
		if err := s.Remove(name, nil); err != nil {
			t.Error(err)
		}
	}
	// A damaged blob is also healed by importing the same again.
	mustImport(t, s, "blob", smallDir(t, "4"), ImportOptions{})
	img := mustImport(t, s, "again", smallDir(t, "2"), ImportOptions{})
	if f, _, err := s.Open("again"); err != nil || img.Digest == "" {
		t.Error(err)
	} else {
		f.Close()
	}
}

func TestOpenSweepsWhatACrashLeft(t *testing.T) {
	s := newStore(t)
	img := mustImport(t, s, "kept", smallDir(t, "1"), ImportOptions{})
	for _, p := range []string{"tmp/image-1.erofs", "tmp/record-2", "blobs/" + strings.Repeat("0", 64) + ".erofs"} {
		if err := os.WriteFile(filepath.Join(s.dir, p), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	live, err := s.createTemp("image-*")
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenStore(s.dir, ktime.Real)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got := leftovers(t, s, tmpDir); len(got) != 1 || got[0] != filepath.Base(live.Name()) {
		t.Errorf("tmp has %v, want the import that is under way", got)
	}
	if got := leftovers(t, s, blobsDir); len(got) != 1 || got[0] != digestHex(img.Digest)+blobSuffix {
		t.Errorf("blobs has %v", got)
	}
	live.Close()
	if fi, err := os.Stat(s.dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("store directory: %v, %v", fi.Mode(), err)
	}
}

func TestImportsAndRemovalsAtOnce(t *testing.T) {
	s := newStore(t)
	other, err := OpenStore(s.dir, ktime.Real) // as another process would
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	same := smallDir(t, "shared by all")
	var wg sync.WaitGroup
	for g := range 8 {
		st := []*Store{s, other}[g%2]
		wg.Go(func() {
			for i := range 10 {
				name := fmt.Sprintf("n%d", (g+i)%4)
				_, err := st.Import(context.Background(), name, same, ImportOptions{Replace: g%3 == 0})
				if err != nil && !errors.Is(err, errdefs.ImageExists) {
					t.Error(err)
				}
				if f, _, err := st.Open(name); err == nil {
					f.Close()
				} else if !errors.Is(err, errdefs.ImageNotFound) {
					t.Error(err)
				}
				if err := st.Remove(name, nil); err != nil && !errors.Is(err, errdefs.ImageNotFound) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, dir := range []string{blobsDir, namesDir, tmpDir} {
		if got := leftovers(t, s, dir); len(got) != 0 {
			t.Errorf("%s has %v", dir, got)
		}
	}
}

func TestOneOfTwoImportsOfANameWins(t *testing.T) {
	s := newStore(t)
	dirs := []string{smallDir(t, "1"), smallDir(t, "2")}
	errs := make([]error, 2)
	var wg sync.WaitGroup
	for i := range dirs {
		wg.Go(func() { _, errs[i] = s.Import(context.Background(), "x", dirs[i], ImportOptions{}) })
	}
	wg.Wait()
	if (errs[0] == nil) == (errs[1] == nil) {
		t.Fatalf("errors %v", errs)
	}
	wantError(t, errors.Join(errs...), errdefs.ImageExists, "x")
	if got := leftovers(t, s, blobsDir); len(got) != 1 {
		t.Errorf("blobs %v", got)
	}
}

func TestCancelledImportLeavesNothing(t *testing.T) {
	s := newStore(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 8<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	_, err := s.Import(ctx, "x", dir, ImportOptions{Progress: func(Phase, int64, int64) { cancel() }})
	if !errors.Is(err, errdefs.Cancelled) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if got := append(leftovers(t, s, tmpDir), leftovers(t, s, blobsDir)...); len(got) != 0 {
		t.Errorf("left %v", got)
	}
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m,nr_inodes=64"); err != nil {
		t.Skipf("a small file system cannot be mounted here: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	s, err := OpenStore(filepath.Join(dir, "store"), ktime.NewFake(stamp))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	big := bytes.Repeat([]byte("x"), 6<<20)
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "big"), big, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"directory":  src,
		"compressed": layout(testImage{layers: [][]byte{layerOf(t, entry{name: "big", body: string(big)})}}).dir(t),
	} {
		_, err := s.Import(context.Background(), "x", path, ImportOptions{})
		wantError(t, err, errdefs.DiskFull, "no space left")
		if got := append(leftovers(t, s, tmpDir), leftovers(t, s, blobsDir)...); len(got) != 0 {
			t.Errorf("%s: left %v", name, got)
		}
	}
	mustImport(t, s, "small", smallDir(t, "fits"), ImportOptions{})
}
