package crash

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// archive makes a tar of members.
func archive(t interface{ Fatal(...any) }, members map[string][]byte, order ...string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range order {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(members[name]))})
		if err == nil {
			_, err = w.Write(members[name])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func open(t *testing.T, dir string, limits Limits) *Store {
	t.Helper()
	s, err := OpenStore(dir, ktime.Real, limits)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAddAndOpen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, DefaultLimits)
	core := bytes.Repeat([]byte("memory\x00"), 100_000)
	c, err := s.Add(Crash{Kind: KindAgent, Agent: "a1", Why: "it was asked for"},
		bytes.NewReader(archive(t, map[string][]byte{ManifestName: []byte(`{"a":1}`), "core.7": core}, ManifestName, "core.7")))
	if err != nil {
		t.Fatal(err)
	}
	if c.Bytes == 0 || c.Bytes > uint64(len(core)) {
		t.Errorf("%d bytes of %d were kept: not compressed?", c.Bytes, len(core))
	}
	for _, s := range []*Store{s, open(t, dir, DefaultLimits)} { // A daemon that starts anew knows the same.
		got, err := s.Find(c.ID)
		if err != nil || got.Agent != "a1" || string(got.Manifest) != `{"a":1}` || len(got.Members) != 2 {
			t.Fatalf("Find: %+v, %v", got, err)
		}
		r, size, err := s.Open(c.ID, "core.7")
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(r)
		if err != nil || size != uint64(len(core)) || !bytes.Equal(raw, core) {
			t.Errorf("member has %d bytes of %d, and is not what was added (%v)", len(raw), size, err)
		}
		r.Close()
		if _, _, err := s.Open(c.ID, "core.8"); !errors.Is(err, errdefs.NotFound) {
			t.Errorf("a member that is not there: %v", err)
		}
	}
	if err := s.Remove(c.ID); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("a dump that was removed leaves %v", left)
	}
}

// What a kernel process sends is not trusted.
func TestAddRefuses(t *testing.T) {
	whole := archive(t, map[string][]byte{"core.1": make([]byte, 5000)}, "core.1")
	var link bytes.Buffer
	w := tar.NewWriter(&link)
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "core.1", Linkname: "/etc/shadow"})
	w.Close()
	noise := make([]byte, 200_000)
	rand.Read(noise)
	for name, stream := range map[string][]byte{
		"cut off":       whole[:1000],
		"not a tar":     []byte("hello, this is no archive at all, and it is longer than a block, padded" + fmt.Sprint(make([]int, 600))),
		"link":          link.Bytes(),
		"outside":       archive(t, nil, "../x"),
		"too many":      archive(t, nil, "a", "b", "c", "d"),
		"too large":     archive(t, map[string][]byte{"a": make([]byte, 300_000)}, "a"),
		"too much disk": archive(t, map[string][]byte{"a": noise}, "a"),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, Limits{Crashes: 3, Bytes: 100_000, Members: 3, Content: 250_000})
			if _, err := s.Add(Crash{Kind: KindAgent}, bytes.NewReader(stream)); err == nil {
				t.Error("was stored")
			}
			if left, _ := os.ReadDir(dir); len(left) != 0 || len(s.List()) != 0 {
				t.Errorf("left behind: %v %v", left, s.List())
			}
		})
	}
}

// Whatever is added and removed, the store stays within its bounds, keeps the
// newest, and counts what it let go.
func TestBounds(t *testing.T) {
	top := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(top, "")
		if err != nil {
			t.Fatal(err)
		}
		limits := Limits{Crashes: rapid.IntRange(1, 4).Draw(t, "crashes"), Bytes: 4000, Members: 4, Content: 1 << 20}
		clock := ktime.NewFake(time.Unix(1000, 0))
		s, err := OpenStore(dir, clock, limits)
		if err != nil {
			t.Fatal(err)
		}
		added, removed := 0, 0
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			clock.Advance(time.Second)
			if list := s.List(); len(list) > 0 && rapid.Bool().Draw(t, "remove") {
				if err := s.Remove(list[rapid.IntRange(0, len(list)-1).Draw(t, "which")].ID); err != nil {
					t.Fatal(err)
				}
				removed++
				continue
			}
			noise := make([]byte, rapid.IntRange(0, 2500).Draw(t, "size"))
			rand.Read(noise)
			c, err := s.Add(Crash{Kind: KindKernel}, bytes.NewReader(archive(t, map[string][]byte{"log": noise}, "log")))
			if err != nil {
				t.Fatal(err)
			}
			added++
			if list := s.List(); list[len(list)-1].ID != c.ID {
				t.Fatalf("the newest is not kept: %v", list)
			}
		}
		list, u := s.List(), s.Usage()
		if len(list) > limits.Crashes || u.Bytes > limits.Bytes {
			t.Fatalf("%d dumps of %d bytes exceed %+v", len(list), u.Bytes, limits)
		}
		if added != len(list)+removed+int(u.Removed) {
			t.Fatalf("%d added, %d kept, %d removed by hand, %d counted", added, len(list), removed, u.Removed)
		}
		again, err := OpenStore(dir, clock, limits)
		if err != nil || len(again.List()) != len(list) || again.Usage().Removed != u.Removed {
			t.Fatalf("opened again: %v, %v", again.List(), err)
		}
	})
}

// Halves of dumps are not found, and do not stay.
func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"c1.part", "c2.tar.zst", "c3.json", "c4.json.part"} {
		os.WriteFile(filepath.Join(dir, name), []byte("{}"), 0o600)
	}
	s := open(t, dir, DefaultLimits)
	if left, _ := os.ReadDir(dir); len(left) != 0 || len(s.List()) != 0 {
		t.Errorf("left: %v, known: %v", left, s.List())
	}
}
