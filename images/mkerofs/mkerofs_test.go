package mkerofs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	goerofs "github.com/erofs/go-erofs"
	gverofs "gvisor.dev/gvisor/pkg/erofs"
	"pgregory.net/rapid"
)

type text string

func (s text) Open() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(string(s))), nil }

func file(s string) *Node {
	return &Node{Mode: ModeRegular | 0o644, Size: int64(len(s)), Content: text(s), Mtime: 1700000000, MtimeNsec: 7}
}

func symlink(target string) *Node { return &Node{Mode: ModeSymlink | 0o777, Target: target} }

func build(t testing.TB, root *Node) []byte {
	t.Helper()
	var b bytes.Buffer
	st, err := Write(context.Background(), &b, root, nil)
	if err != nil {
		t.Fatal(err)
	}
	if st.Bytes != int64(b.Len()) || b.Len()%BlockSize != 0 {
		t.Fatalf("stats say %d bytes, the image has %d", st.Bytes, b.Len())
	}
	return b.Bytes()
}

func save(t testing.TB, img []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "image.erofs")
	if err := os.WriteFile(name, img, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// dump renders a tree, one line for each name. Hard links show by the first
// name of their inode.
func dump(root *Node) []string {
	var out []string
	first := map[*Node]string{}
	links := map[*Node]int{}
	var count func(n *Node)
	count = func(n *Node) {
		links[n]++
		for _, c := range n.Children {
			count(c)
		}
	}
	count(root)
	var walk func(n *Node, p string)
	walk = func(n *Node, p string) {
		if first[n] == "" {
			first[n] = p
		}
		nlink := links[n]
		body := ""
		switch n.Type() {
		case ModeRegular:
			if n.Size > 0 {
				body = string(n.Content.(text))
			}
		case ModeSymlink:
			body = n.Target
		case ModeDir:
			nlink = 2
			for _, c := range n.Children {
				if c.IsDir() {
					nlink++
				}
			}
		}
		out = append(out, line(p, n.Mode, n.UID, n.GID, n.Mtime, n.MtimeNsec, nlink, first[n], body))
		for _, name := range sortedNames(n)[:len(n.Children)+2] {
			if c := n.Children[name]; c != nil {
				walk(c, path.Join(p, name))
			}
		}
	}
	walk(root, "/")
	sort.Strings(out)
	return out
}

func line(p string, mode, uid, gid uint32, mtime int64, nsec uint32, nlink int, first, body string) string {
	return fmt.Sprintf("%q mode=%o owner=%d:%d mtime=%d.%d nlink=%d first=%q body=%q", p, mode, uid, gid, mtime, nsec, nlink, first, body)
}

// dumpGvisor renders an image the same way, through gVisor's reader, and
// demands that every regular file can be mapped.
func dumpGvisor(t testing.TB, name string) []string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	img, err := gverofs.OpenImage(f)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	var out []string
	first := map[uint64]string{}
	var walk func(nid uint64, p string)
	walk = func(nid uint64, p string) {
		n, err := img.Inode(nid)
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		if first[nid] == "" {
			first[nid] = p
		}
		body := ""
		switch {
		case n.IsRegular():
			if off, err := n.DataOffset(); err != nil || off%BlockSize != 0 {
				t.Errorf("%s cannot be mapped: offset %d, %v", p, off, err)
			}
			ranges, err := n.DataRanges()
			if err != nil {
				t.Fatalf("%s: %v", p, err)
			}
			body = string(ranges[0].Bytes) + string(ranges[1].Bytes)
		case n.IsSymlink():
			if body, err = n.Readlink(); err != nil {
				t.Fatalf("%s: %v", p, err)
			}
		}
		out = append(out, line(p, uint32(n.Mode()), n.UID(), n.GID(), int64(n.Mtime()), n.MtimeNsec(), int(n.Nlink()), first[nid], body))
		if !n.IsDir() {
			return
		}
		last := ""
		if err := n.IterDirents(func(name string, typ uint8, child uint64) error {
			if name <= last {
				t.Errorf("%s: %q is listed after %q", p, name, last)
			}
			last = name
			got, err := n.Lookup(name)
			if err != nil || got != child {
				t.Errorf("%s: looking up %q gives %d, %v; listed as %d", p, name, got, err, child)
			}
			if name != "." && name != ".." {
				walk(child, path.Join(p, name))
			}
			return nil
		}); err != nil {
			t.Fatalf("%s: %v", p, err)
		}
	}
	walk(img.RootNid(), "/")
	sort.Strings(out)
	return out
}

func compare(t testing.TB, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d names, want %d", len(got), len(want))
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("\n got %.600s\nwant %.600s", got[i], want[i])
		}
	}
}

func fsck(t testing.TB, name string) {
	t.Helper()
	bin, err := exec.LookPath("fsck.erofs")
	if err != nil {
		return
	}
	if out, err := exec.Command(bin, "--extract", name).CombinedOutput(); err != nil {
		t.Errorf("fsck.erofs: %v\n%s", err, out)
	}
}

// sample is a tree with everything that is hard.
func sample() *Node {
	root := NewDir(0o755)
	big := NewDir(0o1777)
	for i := range 1500 { // many blocks of directory entries
		big.Children[fmt.Sprintf("entry-%04d-%s", i, strings.Repeat("x", i%200))] = file(fmt.Sprint(i))
	}
	shared := file("shared by three names")
	shared.UID, shared.GID, shared.Mode = 100000, 4000000000, ModeRegular|0o4755
	old := file("before 1970")
	old.Mtime = -5
	root.Children = map[string]*Node{
		"big": big, "empty": NewDir(0o700), "zero": file(""), "old": old,
		"small": file("x"), "block": file(strings.Repeat("b", BlockSize)),
		"large": file(strings.Repeat("0123456789abcdef", 200000)),
		"one":   shared, "two": shared, "sub": {Mode: ModeDir | 0o755, Children: map[string]*Node{"three": shared}},
		"link": symlink("small"), "long-link": symlink("/" + strings.Repeat("l", MaxTargetLen-1)),
		"edge-link": symlink(strings.Repeat("e", BlockSize-inodeSize)),
		"null":      {Mode: ModeChar | 0o666, Rdev: MakeRdev(1, 3)}, "disk": {Mode: ModeBlock | 0o660, Rdev: MakeRdev(259, 70000)},
		"pipe": {Mode: ModeFIFO | 0o600}, "sock": {Mode: ModeSocket | 0o600},
		"!before-the-dot": file("!"), strings.Repeat("n", MaxNameLen): file("long name"),
		"\xff\xfe not UTF-8": file("bytes"),
	}
	deep := NewDir(0o755)
	root.Children["deep"] = deep
	for range 300 {
		next := NewDir(0o755)
		deep.Children["d"] = next
		deep = next
	}
	return root
}

func TestGvisorReadsWhatWasWritten(t *testing.T) {
	root := sample()
	name := save(t, build(t, root))
	fsck(t, name)
	compare(t, dumpGvisor(t, name), dump(root))
}

func TestGoErofsReadsWhatWasWritten(t *testing.T) {
	root := sample()
	delete(root.Children, "\xff\xfe not UTF-8") // io/fs paths are UTF-8
	img := build(t, root)
	fsys, err := goerofs.Open(bytes.NewReader(img))
	if err != nil {
		t.Fatal(err)
	}
	names := 0
	if err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("%.80s: %w", p, err)
		}
		names++
		n := root
		for _, part := range strings.Split(p, "/") {
			if part != "." {
				n = n.Children[part]
			}
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*goerofs.Stat)
		if st.UID != n.UID || st.GID != n.GID || int64(st.Mtime) != n.Mtime || (n.Type() == ModeChar || n.Type() == ModeBlock) && st.Rdev != n.Rdev {
			t.Errorf("%.80s: %+v, want %+v", p, st, n)
		}
		if n.Type() == ModeRegular && n.Size > 0 {
			got, err := fs.ReadFile(fsys, p)
			if err != nil || string(got) != string(n.Content.(text)) {
				t.Errorf("%.80s: %d bytes, %v; want %d", p, len(got), err, n.Size)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if want := len(dump(root)); names != want {
		t.Errorf("%d names, want %d", names, want)
	}
}

func TestSameTreeSameBytes(t *testing.T) {
	root := sample()
	a := build(t, root)
	if !bytes.Equal(a, build(t, root)) || !bytes.Equal(a, build(t, sample())) {
		t.Error("the same tree gave other bytes")
	}
	root.Children["small"].Mtime++
	if bytes.Equal(a, build(t, root)) {
		t.Error("another time of modification gave the same bytes")
	}
}

func TestRandomTrees(t *testing.T) {
	name := filepath.Join(t.TempDir(), "image.erofs")
	rapid.Check(t, func(rt *rapid.T) {
		root := NewDir(0o755)
		dirs, files := []*Node{root}, []*Node{}
		for i := range rapid.IntRange(0, 60).Draw(rt, "entries") {
			in := dirs[rapid.IntRange(0, len(dirs)-1).Draw(rt, "in")]
			entry := fmt.Sprintf("%s%d", strings.Repeat("n", rapid.IntRange(0, 200).Draw(rt, "name")), i)
			switch rapid.IntRange(0, 3).Draw(rt, "kind") {
			case 0:
				d := NewDir(0o755)
				dirs = append(dirs, d)
				in.Children[entry] = d
			case 1:
				f := file(strings.Repeat("f", rapid.IntRange(0, 9000).Draw(rt, "size")))
				files = append(files, f)
				in.Children[entry] = f
			case 2:
				in.Children[entry] = symlink(strings.Repeat("t", rapid.IntRange(1, MaxTargetLen).Draw(rt, "target")))
			case 3:
				if len(files) > 0 {
					in.Children[entry] = files[rapid.IntRange(0, len(files)-1).Draw(rt, "link")]
				}
			}
		}
		if err := os.WriteFile(name, build(t, root), 0o600); err != nil {
			t.Fatal(err)
		}
		compare(t, dumpGvisor(t, name), dump(root))
	})
}

func TestRefusesWhatTheFormatCannotHold(t *testing.T) {
	dirWith := func(name string, n *Node) *Node {
		d := NewDir(0o755)
		d.Children[name] = n
		return d
	}
	loop := NewDir(0o755)
	loop.Children["self"] = loop
	deep := NewDir(0o755)
	for range MaxDepth + 1 {
		deep = dirWith("d", deep)
	}
	for what, tc := range map[string]struct {
		root *Node
		want string
	}{
		"file as root":   {file("x"), "must be a directory"},
		"dot":            {dirWith("..", file("x")), "cannot be a file name"},
		"slash":          {dirWith("a/b", file("x")), "slash"},
		"long name":      {dirWith(strings.Repeat("n", 256), file("x")), "at most 255"},
		"empty target":   {dirWith("l", symlink("")), "1 to 4095"},
		"long target":    {dirWith("l", symlink(strings.Repeat("t", 4096))), "1 to 4095"},
		"directory loop": {loop, "two names"},
		"too deep":       {deep, "deeper than"},
		"no type":        {dirWith("x", &Node{}), "unknown file type"},
		"no content":     {dirWith("x", &Node{Mode: ModeRegular, Size: 1}), "without content"},
		"nil":            {dirWith("x", nil), "no node"},
		"short content":  {dirWith("x", &Node{Mode: ModeRegular, Size: 9, Content: text("short")}), "ended 4 bytes early"},
	} {
		if _, err := Write(context.Background(), io.Discard, tc.root, nil); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", what, err, tc.want)
		}
	}
}

func TestStopsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	root := NewDir(0o755)
	root.Children["large"] = file(strings.Repeat("x", 8<<20))
	var last int64
	_, err := Write(ctx, io.Discard, root, func(done, total int64) {
		if done <= last || done > total {
			t.Errorf("progress went from %d to %d of %d", last, done, total)
		}
		last = done
		cancel()
	})
	if !errors.Is(err, context.Canceled) || last == 0 {
		t.Errorf("got %v after %d bytes", err, last)
	}
}
