package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"aios.dev/aios/errdefs"
)

// snapshot is a log in memory: names and contents.
type snapshot map[string][]byte

func take(t testing.TB, dir string) snapshot {
	t.Helper()
	s := snapshot{}
	names, err := filepath.Glob(filepath.Join(dir, "audit-*.log"))
	must(t, err)
	for _, name := range append(names, headPath(dir)) {
		data, err := os.ReadFile(name)
		must(t, err)
		s[filepath.Base(name)] = data
	}
	return s
}

// place replaces the log in dir by s.
func (s snapshot) place(t rapid.TB, dir string) {
	old, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, name := range old {
		if s[filepath.Base(name)] == nil {
			os.Remove(name)
		}
	}
	for name, data := range s {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func (s snapshot) clone() snapshot {
	c := snapshot{}
	for name, data := range s {
		c[name] = slices.Clone(data)
	}
	return c
}

func (s snapshot) equal(o snapshot) bool {
	if len(s) != len(o) {
		return false
	}
	for name, data := range s {
		if got, ok := o[name]; !ok || !bytes.Equal(got, data) {
			return false
		}
	}
	return true
}

// synced reports whether o has everything that the head of s promises, head
// included.
func (s snapshot) synced(o snapshot) bool {
	h, err := parseHead(s[headName])
	if err != nil || !bytes.Equal(s[headName], o[headName]) {
		return false
	}
	for name, data := range s {
		if name > segmentName(h.Segment) {
			continue
		}
		if name == segmentName(h.Segment) {
			data = data[:h.Size]
			if len(o[name]) < len(data) || !bytes.Equal(o[name][:h.Size], data) {
				return false
			}
		} else if !bytes.Equal(o[name], data) {
			return false
		}
	}
	return true
}

// logs returns a log that was closed, and one whose writer was killed with
// entries behind the head, and their key.
func logs(t *testing.T) (closed, killed snapshot, key string) {
	t.Helper()
	opt := quick()
	opt.SegmentBytes = 1 << 10
	opt.KeyFile = filepath.Join(t.TempDir(), "key")
	dir := t.TempDir()
	l := mustOpen(t, dir, opt)
	for i := range 12 {
		mustAppend(t, l, mint(i))
		must(t, l.Sync())
	}
	early := take(t, dir)
	h, err := parseHead(early[headName])
	must(t, err)
	for i := 12; ; i++ {
		mustAppend(t, l, mint(i))
		must(t, l.Sync())
		killed = take(t, dir)
		if int64(len(killed[segmentName(h.Segment)])) > h.Size {
			break
		}
		early = killed
		h, err = parseHead(early[headName])
		must(t, err)
	}
	killed[headName] = early[headName]
	must(t, l.Close())
	return take(t, dir), killed, opt.KeyFile
}

// TestEveryByteCounts changes each byte of a log in turn.
func TestEveryByteCounts(t *testing.T) {
	closed, _, key := logs(t)
	dir := t.TempDir()
	for name, data := range closed {
		closed.place(t, dir)
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
		must(t, err)
		defer f.Close()
		for i, b := range data {
			x := []byte{1, 0x20, 0x80}[i%3]
			_, err = f.WriteAt([]byte{b ^ x}, int64(i))
			must(t, err)
			if r := verify(t, dir, VerifyOptions{KeyFile: key}); r.OK() {
				t.Fatalf("%s: byte %d changed from %q to %q and not found", name, i, b, b^x)
			}
			_, err = f.WriteAt([]byte{b}, int64(i))
			must(t, err)
		}
	}
}

// TestTamperingIsFound does to logs what comes to mind.
func TestTamperingIsFound(t *testing.T) {
	closed, killed, key := logs(t)
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		orig := closed
		if rapid.Bool().Draw(t, "killed") {
			orig = killed
		}
		s := orig.clone()
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			tamper(t, s)
		}
		s.place(t, dir)
		r, err := Verify(dir, VerifyOptions{KeyFile: key})
		if errors.Is(err, errdefs.NotFound) && len(s) == 0 {
			return // Nothing is left to be verified.
		}
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case s.equal(orig):
			if !r.OK() {
				t.Fatalf("nothing was changed: %v", r.Broken)
			}
		case !r.OK():
			if r.Broken.Detail == "" || !errors.Is(r.Err(), errdefs.AuditBroken) {
				t.Fatalf("no explanation: %+v", r.Broken)
			}
		case orig.synced(s) && !r.Closed:
			// Only what was never promised is different: cut back, or a line
			// that is incomplete.
			if head := orig[headName]; !bytes.Equal(head, s[headName]) {
				t.Fatal("another head passed")
			}
			for name, data := range s {
				whole := data[:bytes.LastIndexByte(data, '\n')+1]
				if !bytes.HasPrefix(orig[name], whole) {
					t.Fatalf("%s has lines that were never written, and passed", name)
				}
			}
		default:
			t.Fatalf("not found: %+v", r)
		}
	})
}

// tamper changes one thing of s.
func tamper(t *rapid.T, s snapshot) {
	names := make([]string, 0, len(s))
	for name := range s {
		names = append(names, name)
	}
	if len(names) == 0 {
		return
	}
	slices.Sort(names)
	name := rapid.SampledFrom(names).Draw(t, "file")
	data := s[name]
	lines := bytes.SplitAfter(data, []byte("\n"))
	pos := func(label string) int { return rapid.IntRange(0, len(data)).Draw(t, label) }
	line := func(label string) int { return rapid.IntRange(0, len(lines)-1).Draw(t, label) }
	switch rapid.SampledFrom([]string{"edit", "cut", "insert", "truncate", "drop line", "copy line", "swap lines", "drop file", "swap files", "cut lines"}).Draw(t, "what") {
	case "edit":
		if len(data) > 0 {
			data[rapid.IntRange(0, len(data)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
		}
	case "cut":
		from := pos("from")
		s[name] = slices.Delete(data, from, rapid.IntRange(from, len(data)).Draw(t, "to"))
	case "insert":
		s[name] = slices.Insert(data, pos("at"), rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "bytes")...)
	case "truncate":
		s[name] = data[:pos("at")]
	case "drop line":
		i := line("line")
		s[name] = bytes.Join(slices.Concat(lines[:i], lines[i+1:]), nil)
	case "cut lines":
		s[name] = bytes.Join(lines[:line("line")], nil)
	case "copy line":
		s[name] = bytes.Join(slices.Insert(slices.Clone(lines), line("to"), lines[line("from")]), nil)
	case "swap lines":
		i, j := line("one"), line("other")
		lines[i], lines[j] = lines[j], lines[i]
		s[name] = bytes.Join(lines, nil)
	case "drop file":
		delete(s, name)
	case "swap files":
		other := rapid.SampledFrom(names).Draw(t, "other")
		s[name], s[other] = s[other], s[name]
	}
}

func TestReasons(t *testing.T) {
	closed, killed, key := logs(t)
	edit := func(s snapshot, name string, f func([]string) []string) {
		s[name] = []byte(strings.Join(f(strings.SplitAfter(string(s[name]), "\n")), ""))
	}
	first, second := segmentName(1), segmentName(2)
	for name, tc := range map[string]struct {
		of     snapshot
		change func(s snapshot)
		want   Reason
		file   string
		line   int
	}{
		"edited": {closed, func(s snapshot) {
			edit(s, first, func(l []string) []string {
				l[2] = strings.Replace(l[2], "operator", "0perator", 1)
				return l
			})
		}, Edited, first, 3},
		"renumbered": {closed, func(s snapshot) {
			edit(s, first, func(l []string) []string { l[1] = strings.Replace(l[1], `"seq":1,`, `"seq":9,`, 1); return l })
		}, Edited, first, 2},
		"line deleted": {closed, func(s snapshot) {
			edit(s, first, func(l []string) []string { return slices.Delete(l, 2, 3) })
		}, Deleted, first, 3},
		"lines swapped": {closed, func(s snapshot) {
			edit(s, first, func(l []string) []string { l[1], l[2] = l[2], l[1]; return l })
		}, Reordered, first, 2},
		"line repeated": {closed, func(s snapshot) {
			edit(s, first, func(l []string) []string { return slices.Insert(l, 2, l[1]) })
		}, Reordered, first, 3},
		"segment deleted":  {closed, func(s snapshot) { delete(s, second) }, Deleted, second, 0},
		"first deleted":    {closed, func(s snapshot) { delete(s, first) }, Deleted, second, 0},
		"head deleted":     {closed, func(s snapshot) { delete(s, headName) }, Deleted, headName, 0},
		"segments swapped": {closed, func(s snapshot) { s[first], s[second] = s[second], s[first] }, Reordered, first, 1},
		"synced tail cut": {killed, func(s snapshot) {
			h, _ := parseHead(s[headName])
			s[segmentName(h.Segment)] = s[segmentName(h.Segment)][:h.Size-1]
			delete(s, segmentName(h.Segment+1))
		}, Truncated, "", -1},
		"appended to a closed log": {closed, func(s snapshot) {
			h, _ := parseHead(s[headName])
			line, _, _ := new(hasher).appendLine(nil, h.Hash, Entry{Seq: h.Seq + 1, Op: "mint"})
			s[segmentName(h.Segment)] = append(s[segmentName(h.Segment)], line...)
		}, Forged, "", -1},
		"head of no key": {closed, func(s snapshot) {
			h, _ := parseHead(s[headName])
			s[headName], _ = h.encode(nil)
		}, Forged, headName, 0},
		"head of another key": {closed, func(s snapshot) {
			h, _ := parseHead(s[headName])
			s[headName], _ = h.encode([]byte("another"))
		}, Forged, headName, 0},
	} {
		s := tc.of.clone()
		tc.change(s)
		dir := t.TempDir()
		s.place(t, dir)
		r := verify(t, dir, VerifyOptions{KeyFile: key})
		if r.OK() || r.Broken.Reason != tc.want || tc.file != "" && (r.Broken.File != tc.file || r.Broken.Line != tc.line) {
			t.Errorf("%s: %+v, want %s in %s:%d", name, r.Broken, tc.want, tc.file, tc.line)
		}
	}
}

// TestRewrittenLog makes a log that is sound in itself in place of another.
func TestRewrittenLog(t *testing.T) {
	dir, key := t.TempDir(), filepath.Join(t.TempDir(), "key")
	opt := quick()
	opt.KeyFile = key
	l := mustOpen(t, dir, opt)
	mustAppend(t, l, mint(1))
	must(t, l.Sync())
	kept := l.Head().Hash
	for i := range 100 {
		mustAppend(t, l, mint(i))
	}
	must(t, l.Close())
	if r := mustVerify(t, dir, VerifyOptions{KeyFile: key, Head: kept}); !r.Authenticated {
		t.Error("the head has a MAC, but was not authenticated")
	}
	must(t, os.RemoveAll(dir))
	write(t, dir, quick(), 101)
	mustVerify(t, dir, VerifyOptions{}) // Nobody can tell.
	if r := verify(t, dir, VerifyOptions{KeyFile: key}); r.OK() || r.Broken.Reason != Forged {
		t.Errorf("not found by the key: %+v", r)
	}
	if r := verify(t, dir, VerifyOptions{Head: kept}); r.OK() || r.Broken.Reason != Forged {
		t.Errorf("not found by the head kept elsewhere: %+v", r)
	}
	if _, err := Open(dir, opt); !errors.Is(err, errdefs.AuditBroken) {
		t.Errorf("opened for writing: %v", err)
	}
	must(t, os.RemoveAll(dir))
	must(t, mustOpen(t, dir, opt).Close())
	if e := query(t, dir, Filter{Limit: 1})[0]; e.Code != string(errdefs.AuditGap) || !strings.Contains(e.Reason, "is gone") {
		t.Errorf("a log in place of one that was deleted begins with %v", e)
	}
	if _, err := Verify(dir, VerifyOptions{KeyFile: key + "-none"}); !errors.Is(err, errdefs.NotFound) {
		t.Errorf("verified with a key that is not there: %v", err)
	}
	if _, err := Verify(t.TempDir(), VerifyOptions{}); !errors.Is(err, errdefs.NotFound) {
		t.Errorf("verified nothing: %v", err)
	}
}

func FuzzParseLine(f *testing.F) {
	var h hasher
	line, _, _ := h.appendLine(nil, Hash{}, Entry{Seq: 1, Op: "mint", Reason: "\"\\\u2028"})
	f.Add(bytes.TrimSpace(line))
	f.Add([]byte(`{"seq":1,"hash":"` + strings.Repeat("0", 64) + `"}`))
	f.Add([]byte(`{,"hash":"` + strings.Repeat("f", 64) + `"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := ParseLine(line)
		if err != nil {
			if !errors.Is(err, errdefs.AuditBroken) {
				t.Fatalf("the error has no code: %v", err)
			}
			return
		}
		if e.Line != string(line) || e.Seq == 0 || !bytes.HasSuffix(line, []byte(e.Hash.String()+hashEnd)) {
			t.Fatalf("read %+v", e)
		}
		if _, err := json.Marshal(e); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzVerify(f *testing.F) {
	dir := f.TempDir()
	opt := quick()
	opt.SegmentBytes = 512
	write(f, dir, opt, 4)
	s := take(f, dir)
	f.Add(s[segmentName(1)], s[segmentName(2)], s[headName])
	f.Add([]byte(nil), []byte("x"), s[headName])
	f.Fuzz(func(t *testing.T, one, two, head []byte) {
		dir := t.TempDir()
		snapshot{segmentName(1): one, segmentName(2): two, headName: head}.place(t, dir)
		r, err := Verify(dir, VerifyOptions{})
		if err != nil {
			t.Fatalf("could not read: %v", err)
		}
		if !r.OK() {
			return
		}
		// It hangs together; then it can also be read and gone on with.
		n := len(query(t, dir, Filter{}))
		if uint64(n) != r.Entries {
			t.Fatalf("%d entries read, %d verified", n, r.Entries)
		}
		if !bytes.Equal(head, s[headName]) && bytes.Equal(one, s[segmentName(1)]) && bytes.Equal(two, s[segmentName(2)]) {
			h, err := parseHead(head)
			if err != nil || h.Log == "" {
				t.Fatalf("a head passed that does not parse: %v", err)
			}
		}
		l, err := Open(dir, Options{})
		if err != nil {
			t.Fatalf("sound, but does not open: %v", err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		mustVerify(t, dir, VerifyOptions{})
	})
}
