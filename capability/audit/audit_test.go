package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

func TestAppendThenRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := mustOpen(t, dir, Options{})
	want := Entry{Op: "mint", Domain: "d", Actor: "operator", Agent: "a1", Target: "a2", Cap: "c1", Parent: "c0", Spec: "fs:/x<>&:ro",
		Code: "CAPABILITY_DENIED", Errno: "EPERM", Reason: "a \"reason\"\nof two lines \xff and \u2028 \x1b[31m", Count: 3, Correlation: "r1"}
	mustAppend(t, l, want)
	must(t, l.Sync())
	got := query(t, dir, Filter{})
	if len(got) != 2 || got[0].Op != OpStart {
		t.Fatalf("read %v", got)
	}
	e := got[1]
	if e.Seq != 2 || e.Time.IsZero() || e.Mono < got[0].Mono || !strings.Contains(e.Line, `fs:/x<>&:ro`) || strings.Contains(e.Line, "\x1b") {
		t.Errorf("read %+v", e)
	}
	e.Seq, e.Time, e.Mono, e.Hash, e.Line = 0, time.Time{}, 0, Hash{}, ""
	want.Reason = strings.ReplaceAll(want.Reason, "\xff", "\ufffd")
	if e != want {
		t.Errorf("read\n%+v, want\n%+v", e, want)
	}
	if h := l.Head(); h.Seq != 2 || h.Hash != got[1].Hash {
		t.Errorf("head %+v", h)
	}
	r := mustVerify(t, dir, VerifyOptions{Head: l.Head().Hash})
	if r.Entries != 2 || r.First != 1 || r.Last != 2 || r.Segments != 1 || r.Closed || r.Unsynced != 0 {
		t.Errorf("report %+v", r)
	}
	must(t, l.Close())
	must(t, l.Close())
	if err := l.Append(want); !errors.Is(err, errdefs.WrongState) {
		t.Errorf("append to a closed log: %v", err)
	}
	if err := l.Sync(); !errors.Is(err, errdefs.WrongState) {
		t.Errorf("sync of a closed log: %v", err)
	}
	if r := mustVerify(t, dir, VerifyOptions{}); !r.Closed || r.Entries != 3 {
		t.Errorf("closed: %+v", r)
	}
	l = mustOpen(t, dir, Options{})
	if last := query(t, dir, Filter{Last: 1}); last[0].Op != OpStart || last[0].Code != "" || last[0].Seq != 4 {
		t.Errorf("taken up with %v", last)
	}
	must(t, l.Close())
}

// The chain can be checked with a shell: the hash is of text alone.
func TestHashIsOfText(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, Options{}, 3)
	data, err := os.ReadFile(segmentPath(dir, 1))
	must(t, err)
	prev := strings.Repeat("0", 64)
	for line := range strings.Lines(string(data)) {
		body, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), `,"hash":"`)
		sum := sha256.Sum256([]byte(prev + body + "}"))
		if prev = strings.TrimSuffix(rest, `"}`); prev != hex.EncodeToString(sum[:]) {
			t.Fatalf("%s\nhas hash %x", line, sum)
		}
	}
}

func TestFieldsAreBounded(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{})
	huge := strings.Repeat("é", 1<<20)
	mustAppend(t, l, Entry{Op: "x", Domain: huge, Actor: huge, Agent: huge, Target: huge, Cap: huge, Parent: huge, Spec: huge,
		Code: huge, Errno: huge, Reason: strings.Repeat("\x01", 1<<20), Correlation: huge})
	must(t, l.Sync())
	e := query(t, dir, Filter{Ops: []string{"x"}})[0]
	for _, f := range append(fieldsOf(&e), &e.Correlation) {
		if len(*f) > MaxField+40 || len(*f) > 1 && !strings.HasSuffix(*f, "bytes more]") {
			t.Errorf("a field of %d bytes ends in %q", len(*f), (*f)[max(0, len(*f)-30):])
		}
	}
	if err := l.Append(Entry{}); !errors.Is(err, errdefs.InvalidArgument) {
		t.Errorf("an entry without operation: %v", err)
	}
	mustAppend(t, l, Entry{Op: "ok"})
	must(t, l.Close())
	mustVerify(t, dir, VerifyOptions{})
}

func TestConcurrentAppend(t *testing.T) {
	dir := t.TempDir()
	opt := quick()
	opt.QueueEntries = 16
	l := mustOpen(t, dir, opt)
	var wg sync.WaitGroup
	const workers, each = 8, 200
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				if err := l.Append(Entry{Op: "mint", Agent: fmt.Sprint(w), Reason: fmt.Sprint(i)}); err != nil {
					t.Error(err)
				}
				if i%50 == 0 {
					if err := l.Sync(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for range 5 {
		mustVerify(t, dir, VerifyOptions{}) // A log that is being written.
	}
	wg.Wait()
	must(t, l.Close())
	next := map[string]int{}
	for _, e := range query(t, dir, Filter{Ops: []string{"mint"}}) {
		if e.Reason != fmt.Sprint(next[e.Agent]) {
			t.Fatalf("agent %s: %s instead of %d", e.Agent, e.Reason, next[e.Agent])
		}
		next[e.Agent]++
	}
	if len(next) != workers || next["3"] != each {
		t.Errorf("read %v", next)
	}
	if r := mustVerify(t, dir, VerifyOptions{}); r.Segments < 10 {
		t.Errorf("report %+v", r)
	}
}

func TestRotateAndTrim(t *testing.T) {
	dir := t.TempDir()
	opt := quick()
	opt.Keep = 3
	write(t, dir, opt, 300)
	write(t, dir, opt, 300)
	segments, err := listSegments(dir)
	must(t, err)
	if len(segments) != 3 || segments[0] < 20 {
		t.Fatalf("segments %v", segments)
	}
	r := mustVerify(t, dir, VerifyOptions{})
	if r.First != r.Trimmed+1 || r.First < 400 || r.Last < 604 || r.Segments != 3 {
		t.Errorf("report %+v", r)
	}
	trims := query(t, dir, Filter{Ops: []string{OpTrim}})
	if len(trims) == 0 || trims[len(trims)-1].Target != segmentName(segments[0]-1) {
		t.Errorf("trims %v", trims)
	}
	// A segment that the writer did not trim is missed.
	must(t, os.Remove(segmentPath(dir, segments[0])))
	if r := verify(t, dir, VerifyOptions{}); r.OK() || r.Broken.Reason != Deleted {
		t.Errorf("the oldest segment deleted: %v", r.Broken)
	}
}

func TestTrimGoesOnAfterFailure(t *testing.T) {
	dir := t.TempDir()
	opt := quick()
	opt.Keep = 2
	d := &faultyDisk{}
	opt.disk = d
	d.set(func(op string) error {
		if op == "remove" {
			return errTest
		}
		return nil
	})
	l := mustOpen(t, dir, opt)
	fill := func() {
		for i := range 100 {
			mustAppend(t, l, mint(i))
			if i%10 == 9 {
				must(t, l.Sync())
			}
		}
	}
	fill()
	mustVerify(t, dir, VerifyOptions{})
	if e := query(t, dir, Filter{Ops: []string{OpTrim}, Last: 1}); len(e) != 1 || !strings.Contains(e[0].Reason, "injected") {
		t.Errorf("trim says %v", e)
	}
	d.set(nil)
	fill()
	mustVerify(t, dir, VerifyOptions{})
	if segments, _ := listSegments(dir); len(segments) != 2 {
		t.Errorf("segments %v", segments)
	}
	// One that somebody deleted does not stop the log.
	segments, _ := listSegments(dir)
	must(t, os.Remove(segmentPath(dir, segments[1])))
	if r := verify(t, dir, VerifyOptions{}); r.OK() {
		t.Error("a deleted segment is not missed")
	}
	said := 0
	for i := range 40 {
		mustAppend(t, l, mint(i))
		must(t, l.Sync())
		said += len(query(t, dir, Filter{Ops: []string{OpTrim}, Text: "damaged or missing"}))
	}
	if said == 0 {
		t.Error("nothing says that a segment was missing")
	}
	must(t, l.Close())
}

func TestRepeatedRefusalsAreCounted(t *testing.T) {
	dir := t.TempDir()
	clock := ktime.NewFake(time.Unix(1000, 0))
	l := mustOpen(t, dir, Options{Clock: clock})
	refusal := Entry{Op: OpDenied, Agent: "a1", Target: "/etc/shadow", Errno: "EACCES"}
	for i := range 1000 {
		refusal.Correlation = fmt.Sprint(i)
		mustAppend(t, l, refusal)
	}
	other := refusal
	other.Target = "/etc/passwd"
	mustAppend(t, l, other, Entry{Op: "mint"}, Entry{Op: "mint"})
	read := func() []Entry { return query(t, dir, Filter{Ops: []string{OpDenied}}) }
	advance(t, clock, 100*time.Millisecond, func() bool { return len(read()) == 3 })
	got := read()
	if got[0].Correlation != "0" || got[0].Count > 1 || got[1].Target != other.Target || got[2].Count != 999 || got[2].Target != refusal.Target {
		t.Errorf("read %v", got)
	}
	// The window goes on while it repeats, and Sync leaves no count behind.
	mustAppend(t, l, refusal)
	must(t, l.Sync())
	if got = read(); len(got) != 4 || got[3].Count != 1 {
		t.Errorf("read %v", got)
	}
	// A flood of different refusals cannot fill the log.
	for i := range 10000 {
		mustAppend(t, l, Entry{Op: OpDenied, Agent: "flood", Target: fmt.Sprint("/", i), Count: 2})
	}
	must(t, l.Sync())
	var sum uint64
	flood := query(t, dir, Filter{Agent: "flood"})
	for _, e := range flood {
		sum += max(e.Count, 1)
	}
	if len(flood) != maxKindsPerAgent+1 || flood[len(flood)-1].Reason != manyKinds || sum != 20000 {
		t.Errorf("%d lines with %d refusals, last %v", len(flood), sum, flood[len(flood)-1])
	}
	advance(t, clock, time.Second, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.repeats.kinds) == 0 && len(l.repeats.perAgent) == 0
	})
	must(t, l.Close())
}

func TestQuery(t *testing.T) {
	dir := t.TempDir()
	clock := ktime.NewFake(time.Unix(1000, 0).UTC())
	opt := quick()
	opt.Clock = clock
	l := mustOpen(t, dir, opt)
	for i := range 100 {
		e := mint(i)
		switch i {
		case 50:
			e = Entry{Op: "token.issue", Cap: "t1", Target: "a000000000003", Reason: "Für ALLE"}
		case 51:
			e = Entry{Op: "token.revoke", Parent: "t1", Domain: "other"}
		}
		mustAppend(t, l, e)
		must(t, l.Sync())
		clock.Advance(time.Second)
	}
	at := func(s int64) time.Time { return time.Unix(1000+s, 0) }
	for name, tc := range map[string]struct {
		f    Filter
		want int
	}{
		"all":             {Filter{}, 101},
		"since":           {Filter{Since: at(90)}, 10},
		"until":           {Filter{Until: at(10)}, 11}, // The start, too.
		"agent":           {Filter{Agent: "a000000000003"}, 15},
		"domain":          {Filter{Domain: "other"}, 1},
		"op":              {Filter{Ops: []string{"token.revoke", "none"}}, 1},
		"ops":             {Filter{Ops: []string{"token.*"}}, 2},
		"cap or parent":   {Filter{Cap: "t1"}, 2},
		"correlation":     {Filter{Correlation: "r3"}, 3},
		"text":            {Filter{Text: "für alle"}, 1},
		"after":           {Filter{After: 95}, 6},
		"limit":           {Filter{Limit: 7}, 7},
		"last":            {Filter{Last: 40}, 40},
		"last and limit":  {Filter{Last: 40, Limit: 4}, 4},
		"not JSON's text": {Filter{Agent: "a\"b"}, 0},
	} {
		got := query(t, dir, tc.f)
		if len(got) != tc.want {
			t.Errorf("%s: %d entries, want %d", name, len(got), tc.want)
		}
		if !slices.IsSortedFunc(got, func(a, b Entry) int { return int(a.Seq) - int(b.Seq) }) {
			t.Errorf("%s: not in order", name)
		}
	}
	if got := query(t, dir, Filter{Last: 3}); got[2].Seq != 101 || got[0].Seq != 99 {
		t.Errorf("the last are %v", got)
	}
	if e := query(t, dir, Filter{Limit: 1})[0]; e.String() == "" || !strings.Contains(e.String(), `reason="a new log"`) {
		t.Errorf("reads %q", e)
	}
	// A damaged line is an error in its place.
	data, err := os.ReadFile(segmentPath(dir, 1))
	must(t, err)
	must(t, os.WriteFile(segmentPath(dir, 1), []byte(strings.Replace(string(data), `{"seq":3,`, `["seq":3,`, 1)), 0o600))
	var bad, good int
	for _, err := range Query(dir, Filter{}) {
		if errors.Is(err, errdefs.AuditBroken) {
			bad++
		} else if err == nil {
			good++
		}
	}
	if bad != 1 || good != 100 {
		t.Errorf("%d bad, %d good", bad, good)
	}
}

func TestFollow(t *testing.T) {
	dir := t.TempDir()
	opt := quick()
	opt.Keep = 1000
	l := mustOpen(t, dir, opt)
	for i := range 50 {
		mustAppend(t, l, mint(i))
	}
	got := make(chan Entry, 2000)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer close(got)
		for e, err := range l.Follow(ctx, Filter{Ops: []string{"mint"}, Last: 10}) {
			if err != nil {
				t.Error(err)
			}
			got <- e
		}
	}()
	first := <-got
	for i := range 500 {
		mustAppend(t, l, mint(50+i))
		if i%100 == 0 {
			must(t, l.Sync())
		}
	}
	must(t, l.Close())
	last := first
	for e := range got { // Ends because the log was closed.
		if e.Seq != last.Seq+1 {
			t.Fatalf("entry %d follows %d", e.Seq, last.Seq)
		}
		last = e
	}
	if last.Seq != 551 {
		t.Errorf("the last is %d", last.Seq)
	}
	l = mustOpen(t, dir, opt)
	n := 0
	for range l.Follow(ctx, Filter{Limit: 3}) {
		n++
	}
	if n != 3 {
		t.Errorf("%d entries, limit 3", n)
	}
	go cancel()
	for range l.Follow(ctx, Filter{After: 1 << 40}) {
		t.Error("an entry of the future")
	}
}

func TestFollowSaysWhatItMissed(t *testing.T) {
	dir := t.TempDir()
	opt := quick()
	opt.Keep = 2
	l := mustOpen(t, dir, opt)
	from, _ := l.position()
	for i := range 200 {
		mustAppend(t, l, mint(i))
		must(t, l.Sync())
	}
	to, _ := l.position()
	var gaps int
	l.between(&search{}, from, to, func(_ Entry, err error) bool {
		if errors.Is(err, errdefs.AuditGap) {
			gaps++
		}
		return true
	})
	if want := int(to.Segment) - 2; gaps != want || want < 3 {
		t.Errorf("%d gaps, want %d", gaps, want)
	}
}
