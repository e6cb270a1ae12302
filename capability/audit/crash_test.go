package audit

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/errdefs"
)

const (
	childDir  = "AUDIT_TEST_DIR"
	childFrom = "AUDIT_TEST_FROM"
	childKeep = "AUDIT_TEST_KEEP"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
	}
	os.Exit(m.Run())
}

func childOptions(dir, keep string) Options {
	n, _ := strconv.Atoi(keep)
	return Options{SegmentBytes: 8 << 10, Keep: n, BatchInterval: 2 * time.Millisecond, KeyFile: dir + ".key"}
}

// child appends numbered entries until it is killed, and says which are synced.
func child(dir string) {
	l, err := Open(dir, childOptions(dir, os.Getenv(childKeep)))
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	from, _ := strconv.Atoi(os.Getenv(childFrom))
	for i := from; ; i++ {
		if err := l.Append(Entry{Op: "test", Reason: strconv.Itoa(i)}); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		if rand.IntN(20) == 0 {
			if err := l.Sync(); err != nil {
				fmt.Println("error:", err)
				os.Exit(1)
			}
			fmt.Println(i)
		}
	}
}

// TestKill kills a writer again and again. Whatever it said was synced is
// there, the log verifies before and after it is taken up, and it says that it
// was not closed.
func TestKill(t *testing.T) {
	for _, keep := range []int{10000, 3} {
		t.Run(fmt.Sprint("keep ", keep), func(t *testing.T) { kill(t, keep, 40) })
	}
}

func kill(t *testing.T, keep, rounds int) {
	exe, err := os.Executable()
	must(t, err)
	dir := t.TempDir()
	verifyOpt := VerifyOptions{KeyFile: dir + ".key"}
	next, synced := 0, -1
	var starts, torn int
	for round := range rounds {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), childDir+"="+dir, fmt.Sprintf("%s=%d", childFrom, next), fmt.Sprintf("%s=%d", childKeep, keep))
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		lines := bufio.NewScanner(out)
		// At least once something was synced; then at any moment.
		for first := true; lines.Scan(); first = false {
			n, err := strconv.Atoi(lines.Text())
			if err != nil {
				t.Fatalf("round %d: the writer says %q", round, lines.Text())
			}
			synced = n
			if first {
				time.AfterFunc(time.Duration(rand.IntN(20000))*time.Microsecond, func() { cmd.Process.Kill() })
			}
		}
		if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("round %d: the writer ended with %v", round, err)
		}
		r := mustVerify(t, dir, verifyOpt)
		if r.Closed {
			t.Fatal("the log of a killed writer counts as closed")
		}
		if r.Torn > 0 {
			torn++
		}
		starts++
		next = last(t, dir) + 1
		if next <= synced {
			t.Fatalf("round %d: %d was synced, the log ends at %d", round, synced, next-1)
		}
	}
	l, err := Open(dir, childOptions(dir, fmt.Sprint(keep)))
	must(t, err)
	must(t, l.Close())
	r := mustVerify(t, dir, verifyOpt)
	seen := map[int]bool{}
	first := -1
	for _, e := range query(t, dir, Filter{Ops: []string{"test"}}) {
		n, err := strconv.Atoi(e.Reason)
		must(t, err)
		if seen[n] {
			t.Fatalf("entry %d is there twice", n)
		}
		seen[n] = true
		if first < 0 {
			first = n
		}
		if n > first && !seen[n-1] {
			t.Fatalf("entry %d is missing", n-1)
		}
	}
	if keep > 1000 && (first != 0 || r.Trimmed != 0) {
		t.Fatalf("the log begins with %d: %+v", first, r)
	}
	if keep == 3 && r.Trimmed == 0 {
		t.Fatalf("nothing was trimmed: %+v", r)
	}
	resumed := query(t, dir, Filter{Ops: []string{OpStart}, Text: "was not closed"})
	if keep > 1000 && len(resumed) != starts {
		t.Fatalf("%d of %d starts say that the log was not closed", len(resumed), starts)
	}
	t.Logf("%d kills, %d entries, %d segments, %d torn lines", rounds, r.Last, r.Segments, torn)
}

// last is the highest number in the log.
func last(t *testing.T, dir string) int {
	n := -1
	for _, e := range query(t, dir, Filter{Ops: []string{"test"}}) {
		i, err := strconv.Atoi(e.Reason)
		must(t, err)
		n = max(n, i)
	}
	return n
}

// TestTornEnds cuts the part that was never promised at many places.
func TestTornEnds(t *testing.T) {
	_, killed, key := logs(t)
	h, err := parseHead(killed[headName])
	must(t, err)
	name := segmentName(h.Segment)
	tail := killed[name]
	for size := h.Size; size < int64(len(tail)); size += 1 + int64(len(tail))/97 {
		s := killed.clone()
		s[name] = tail[:size]
		delete(s, segmentName(h.Segment+1))
		dir := t.TempDir()
		s.place(t, dir)
		r := mustVerify(t, dir, VerifyOptions{KeyFile: key})
		l := mustOpen(t, dir, Options{KeyFile: key})
		must(t, l.Close())
		start := query(t, dir, Filter{After: r.Last, Limit: 1})[0]
		if start.Op != OpStart || start.Seq != r.Last+1 || start.Code != string(errdefs.AuditGap) ||
			strings.Contains(start.Reason, "cut off") != (r.Torn > 0) || strings.Contains(start.Reason, "kept") != (r.Unsynced > 0) {
			t.Fatalf("size %d (synced %d): %+v then %v", size, h.Size, r, start)
		}
		mustVerify(t, dir, VerifyOptions{KeyFile: key})
	}
	// A segment whose header was on its way.
	for _, text := range []string{"", `{"audit":1,"log"`} {
		s := killed.clone()
		s[name] = tail[:h.Size]
		s[segmentName(h.Segment+1)] = []byte(text)
		dir := t.TempDir()
		s.place(t, dir)
		mustVerify(t, dir, VerifyOptions{KeyFile: key})
		l := mustOpen(t, dir, Options{KeyFile: key})
		must(t, l.Close())
		mustVerify(t, dir, VerifyOptions{KeyFile: key})
	}
}

func TestOpenRefusesWhatIsBroken(t *testing.T) {
	closed, killed, key := logs(t)
	h, err := parseHead(killed[headName])
	must(t, err)
	name := segmentName(h.Segment)
	for what, change := range map[string]func(s snapshot){
		"synced tail cut":    func(s snapshot) { s[name] = s[name][:h.Size-1] },
		"synced line edited": func(s snapshot) { s[name][h.Size-10] ^= 1 },
		"last segment gone":  func(s snapshot) { delete(s, name); delete(s, segmentName(h.Segment+1)) },
		"head gone":          func(s snapshot) { delete(s, headName) },
		"head edited":        func(s snapshot) { s[headName][20] ^= 1 },
		"segment from elsewhere": func(s snapshot) {
			s[segmentName(h.Segment+3)] = s[segmentName(1)]
		},
	} {
		s := killed.clone()
		change(s)
		dir := t.TempDir()
		s.place(t, dir)
		_, err := Open(dir, Options{KeyFile: key})
		if !errors.Is(err, errdefs.AuditBroken) {
			t.Errorf("%s: %v", what, err)
		}
		l, err := Open(dir, Options{KeyFile: key, SetAside: true})
		if err != nil {
			t.Errorf("%s: not set aside: %v", what, err)
			continue
		}
		must(t, l.Close())
		mustVerify(t, dir, VerifyOptions{KeyFile: key})
		e := query(t, dir, Filter{Limit: 1})[0]
		if e.Op != OpGap || e.Seq != 1 || !strings.Contains(e.Reason, "set aside") {
			t.Errorf("%s: begins with %v", what, e)
		}
		if _, err := os.Stat(dir + "/" + e.Target + "/" + segmentName(1)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	dir := t.TempDir()
	s := closed.clone()
	ch, _ := parseHead(s[headName])
	s[segmentName(ch.Segment)] = append(s[segmentName(ch.Segment)], '{')
	s.place(t, dir)
	if _, err := Open(dir, Options{KeyFile: key}); !errors.Is(err, errdefs.AuditBroken) {
		t.Errorf("bytes behind a closed log: %v", err)
	}
	closed.place(t, dir)
	if _, err := Open(dir, Options{}); !errors.Is(err, errdefs.AuditBroken) {
		t.Errorf("opened without the key: %v", err)
	}
	if _, err := Open(dir, Options{KeyFile: key + "2"}); !errors.Is(err, errdefs.AuditBroken) {
		t.Errorf("opened with the key gone: %v", err)
	}
	if _, err := os.Stat(key + "2"); err == nil {
		t.Error("a key was made for a log that has another")
	}
	if _, err := Open(dir, Options{Keep: 1}); !errors.Is(err, errdefs.InvalidArgument) {
		t.Errorf("keep 1: %v", err)
	}
}

func TestOneWriter(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{})
	if _, err := Open(dir, Options{}); !errors.Is(err, errdefs.WrongState) || errdefs.FixOf(err) == "" {
		t.Errorf("a second writer: %v", err)
	}
	must(t, l.Close())
	must(t, mustOpen(t, dir, Options{}).Close())
}
