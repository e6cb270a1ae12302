package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

func open(t testing.TB, dir string, o Options) *Journal {
	t.Helper()
	j, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

// settle waits until everything that was appended is in the files or lost.
func settle(t testing.TB, j *Journal) {
	t.Helper()
	for last := j.Last(); ; {
		written, changed := j.Written()
		if written >= last {
			return
		}
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			t.Fatalf("written %d of %d", written, last)
		}
	}
}

// readAll reads what there is, and how much is missing.
func readAll(t testing.TB, j *Journal, from uint64) (got []Record, lost uint64) {
	t.Helper()
	r := j.Read(from)
	defer r.Close()
	for {
		rec, g, err := r.Read()
		switch {
		case err == io.EOF:
			return got, lost
		case err != nil:
			t.Fatal(err)
		case g != nil:
			lost += g.Lost
		default:
			got = append(got, rec)
		}
	}
}

func data(n uint64) []byte { return fmt.Appendf(nil, "record %d", n) }

func fill(j *Journal, n int) {
	for range n {
		j.Append(int64(j.Last()+1), data(j.Last()+1))
	}
}

// check fails unless records are whole and ascend.
func check(t testing.TB, got []Record) {
	t.Helper()
	last := uint64(0)
	for _, r := range got {
		if r.Cursor <= last || !bytes.Equal(r.Data, data(r.Cursor)) || r.Time != int64(r.Cursor) {
			t.Fatalf("after %d: %+v %q", last, r, r.Data)
		}
		last = r.Cursor
	}
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, Options{SegmentBytes: 300})
	fill(j, 40)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, dir, Options{SegmentBytes: 300})
	fill(j, 10)
	settle(t, j)
	got, lost := readAll(t, j, 1)
	check(t, got)
	if len(got) != 50 || lost != 0 || got[49].Cursor != 50 {
		t.Fatalf("%d records, %d lost, the last is %d", len(got), lost, got[len(got)-1].Cursor)
	}
	if got, _ := readAll(t, j, 33); len(got) != 18 || got[0].Cursor != 33 {
		t.Errorf("from 33: %d records", len(got))
	}
}

// A writer that was killed may have given out numbers that it never wrote: they
// are not used again, and nobody is told that they are lost.
func TestNumbersAreNotUsedTwice(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, Options{})
	fill(j, 5)
	settle(t, j)
	copied := t.TempDir() // As a killed process leaves it.
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	k := open(t, copied, Options{})
	if k.Last() < 5+Leap {
		t.Fatalf("goes on at %d", k.Last()+1)
	}
	fill(k, 1)
	settle(t, k)
	got, lost := readAll(t, k, 1)
	check(t, got)
	if len(got) != 6 || lost != 0 {
		t.Errorf("%d records, %d lost", len(got), lost)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	k = open(t, copied, Options{})
	fill(k, 1)
	settle(t, k)
	if got, lost := readAll(t, k, 3); len(got) != 5 || lost != 0 {
		t.Errorf("later: %d records, %d lost", len(got), lost)
	}
}

// Wherever the file ends, what is before is read, and what follows is whole.
func TestTornTail(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, Options{})
	fill(j, 6)
	j.Close()
	path := segmentPath(dir, 1)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h, _ := readHeader(bytes.NewReader(whole))
	head, _ := appendHeader(nil, h)
	one := len(appendRecord(nil, Record{Cursor: 1, Data: data(1)}))
	for size := len(head); size <= len(whole); size++ {
		dir := t.TempDir()
		if err := os.WriteFile(segmentPath(dir, 1), whole[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		j := open(t, dir, Options{})
		fill(j, 1)
		settle(t, j)
		got, lost := readAll(t, j, 1)
		check(t, got)
		if want := (size-len(head))/one + 1; len(got) != want || lost != 0 {
			t.Fatalf("cut at %d: %d records instead of %d, %d lost", size, len(got), want, lost)
		}
		j.Close()
	}
}

// Any byte that changes costs records, which are counted, and no more.
func TestDamage(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		j := open(t, dir, Options{SegmentBytes: 400})
		fill(j, 60)
		settle(t, j)
		defer j.Close()
		j.mu.Lock()
		s := j.segments[rapid.IntRange(0, len(j.segments)-1).Draw(rt, "segment")]
		j.mu.Unlock()
		raw, err := os.ReadFile(s.path)
		if err != nil {
			t.Fatal(err)
		}
		at := rapid.IntRange(0, len(raw)-1).Draw(rt, "at")
		raw[at] ^= byte(1 << rapid.IntRange(0, 7).Draw(rt, "bit"))
		if err := os.WriteFile(s.path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		got, lost := readAll(t, j, 1)
		check(t, got)
		if uint64(len(got))+lost != 60 {
			rt.Fatalf("%d records and %d lost are not 60", len(got), lost)
		}
	})
}

func TestRetention(t *testing.T) {
	dir := t.TempDir()
	clock := ktime.NewFake(time.Unix(1e9, 0))
	j := open(t, dir, Options{SegmentBytes: 500, KeepBytes: 2000, KeepAge: time.Hour, Clock: clock})
	fill(j, 200)
	settle(t, j)
	st := j.Stats()
	if st.Bytes > 2500 || st.First == 1 || st.Segments < 2 {
		t.Fatalf("by bytes: %+v", st)
	}
	got, lost := readAll(t, j, 1)
	check(t, got)
	if lost != st.First-1 || uint64(len(got))+lost != 200 {
		t.Errorf("%d records, %d lost, the first is %d", len(got), lost, st.First)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix)); len(files) != st.Segments {
		t.Errorf("%d files of %d segments", len(files), st.Segments)
	}
	clock.Advance(2 * time.Hour)
	fill(j, 60)
	settle(t, j)
	clock.Advance(2 * time.Hour)
	fill(j, 60)
	settle(t, j)
	if first := j.First(); first <= 200 {
		t.Errorf("by age: the first is %d", first)
	}
}

func TestAfter(t *testing.T) {
	clock := ktime.NewFake(time.Unix(1000, 0))
	j := open(t, t.TempDir(), Options{SegmentBytes: 200, Clock: clock})
	for range 20 {
		j.Append(clock.Now().UnixNano(), []byte("some data that fills a segment"))
		settle(t, j)
		clock.Advance(time.Minute)
	}
	at := time.Unix(1000, 0).Add(10 * time.Minute).UnixNano()
	r := j.Read(j.After(at))
	defer r.Close()
	seen := 0
	for {
		rec, _, err := r.Read()
		if err != nil {
			break
		}
		if rec.Time >= at {
			seen++
		}
	}
	if seen != 10 {
		t.Errorf("%d records since then, not 10", seen)
	}
	if j.After(0) != 1 {
		t.Errorf("since ever: %d", j.After(0))
	}
}

// fullDisk refuses when it is told to, after some bytes.
type fullDisk struct {
	mu   sync.Mutex
	room int
}

type fullFile struct {
	file
	d *fullDisk
}

func (d *fullDisk) set(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.room = n
}

func (d *fullDisk) create(path string) (file, error) {
	f, err := hostDisk{}.create(path)
	return &fullFile{f, d}, err
}

func (d *fullDisk) remove(path string) error { return hostDisk{}.remove(path) }

func (f *fullFile) Write(p []byte) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	n := min(len(p), f.d.room)
	f.d.room -= n
	f.file.Write(p[:n])
	if n < len(p) {
		return n, syscall.ENOSPC
	}
	return n, nil
}

// While the disk is full, records are lost, and said to be; then it goes on, also
// when the clock was set back meanwhile.
func TestDiskFull(t *testing.T) {
	for _, how := range []string{"waited", "clock set back"} {
		t.Run(how, func(t *testing.T) { testDiskFull(t, how) })
	}
}

func testDiskFull(t *testing.T, how string) {
	fake := ktime.NewFake(time.Unix(1e9, 0))
	clock := fullClock{ktime.NewJumping(fake), fake}
	disk := &fullDisk{room: 1 << 20}
	var failed []error
	recovered := make(chan uint64, 10)
	dir := t.TempDir()
	j := open(t, dir, Options{Clock: clock, disk: disk,
		Failed: func(err error) { failed = append(failed, err) }, Recovered: func(n uint64) { recovered <- n }})
	fill(j, 10)
	settle(t, j)
	disk.set(40)
	for range 7 {
		fill(j, 1)
		settle(t, j)
	}
	st := j.Stats()
	if st.Lost == 0 || !errors.Is(st.Failure, errdefs.DiskFull) || len(failed) != 1 {
		t.Fatalf("%+v, failures %v", st, failed)
	}
	disk.set(1 << 20)
	fill(j, 3) // Within the time that it is left alone.
	settle(t, j)
	if how == "waited" {
		clock.Advance(2 * retryAfter)
	} else {
		clock.Jump(-time.Hour) // What it waited for would be an hour away.
	}
	fill(j, 10)
	settle(t, j)
	got, lost := readAll(t, j, 1)
	check(t, got)
	said := <-recovered
	if st := j.Stats(); st.Failure != nil || st.Lost != lost || said != lost || uint64(len(got))+lost != 30 {
		t.Errorf("%d records, %d lost, said %d: %+v", len(got), lost, said, st)
	}
	j.Close()
	j = open(t, dir, Options{Clock: clock})
	if again, lostAgain := readAll(t, j, 1); len(again) != len(got) || lostAgain != lost {
		t.Errorf("later: %d records, %d lost", len(again), lostAgain)
	}
}

// fullClock is a clock that can be set and moved on.
type fullClock struct {
	*ktime.Jumping
	fake *ktime.Fake
}

func (c fullClock) Advance(d time.Duration) { c.fake.Advance(d) }

// slowDisk holds every write until it is let go.
type slowDisk struct {
	hostDisk
	gate chan struct{}
}

type slowFile struct {
	file
	gate chan struct{}
}

func (d *slowDisk) create(path string) (file, error) {
	f, err := d.hostDisk.create(path)
	return &slowFile{f, d.gate}, err
}

func (f *slowFile) Write(p []byte) (int, error) {
	<-f.gate
	return f.file.Write(p)
}

// A disk that hangs holds nobody up: what there is no room for is lost, exactly
// counted.
func TestDiskHangs(t *testing.T) {
	gate := make(chan struct{}, 1)
	gate <- struct{}{} // The header.
	j := open(t, t.TempDir(), Options{BufferBytes: 1000, disk: &slowDisk{gate: gate}})
	fill(j, 500)
	lost := j.Stats().Lost
	if lost == 0 {
		t.Fatal("nothing is lost")
	}
	close(gate)
	settle(t, j)
	fill(j, 5)
	settle(t, j)
	got, missing := readAll(t, j, 1)
	check(t, got)
	if missing != j.Stats().Lost || uint64(len(got))+missing != 505 || missing < lost {
		t.Errorf("%d records, %d missing, %d lost", len(got), missing, j.Stats().Lost)
	}
}

// Many readers follow one writer.
func TestFollow(t *testing.T) {
	j := open(t, t.TempDir(), Options{SegmentBytes: 4 << 10})
	const total = 3000
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			r := j.Read(1)
			defer r.Close()
			for want := uint64(1); want <= total; {
				_, changed := j.Written()
				rec, _, err := r.Read()
				if err == io.EOF {
					<-changed
					continue
				}
				if err != nil || rec.Cursor != want {
					t.Errorf("%v at %d: %v", rec, want, err)
					return
				}
				want++
			}
		})
	}
	for i := range total {
		fill(j, 1)
		if i%100 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	wg.Wait()
}

func TestCursors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "durable.json")
	clock := ktime.NewFake(time.Unix(1e9, 0))
	c, err := OpenCursors(path, clock)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Create("a", 7, []byte(`{"topics":["agent.*"]}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Create("a", 7, nil); !errors.Is(err, errdefs.AlreadyExists) {
		t.Errorf("twice: %v", err)
	}
	again := func() Position {
		d, err := OpenCursors(path, clock)
		if err != nil {
			t.Fatal(err)
		}
		p, _ := d.Get("a")
		return p
	}
	if p := again(); p.Next != 7 || !bytes.Contains(p.Spec, []byte("agent.*")) {
		t.Errorf("%+v", p)
	}
	c.Ack("a", 9)
	c.Ack("a", 8)
	if p, _ := c.Get("a"); p.Next != 10 {
		t.Errorf("%+v", p)
	}
	clock.Advance(saveDelay)
	for range 100 {
		if again().Next == 10 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if p := again(); p.Next != 10 {
		t.Errorf("not written: %+v", p)
	}
	if err := c.Remove("a"); err != nil {
		t.Fatal(err)
	}
	if err := c.Ack("a", 11); !errors.Is(err, errdefs.NotFound) {
		t.Errorf("removed: %v", err)
	}
	if p := again(); p.Name != "" {
		t.Errorf("it is back: %+v", p)
	}
	os.WriteFile(path, []byte("[{}]"), 0o600)
	if _, err := OpenCursors(path, clock); err == nil || errdefs.FixOf(err) == "" {
		t.Errorf("damaged: %v", err)
	}
}

func BenchmarkAppend(b *testing.B) {
	j := open(b, b.TempDir(), Options{KeepBytes: 64 << 20})
	body := make([]byte, 200)
	b.SetBytes(200)
	for i := 0; b.Loop(); i++ {
		j.Append(1, body)
		if i%1000 == 0 {
			settle(b, j)
		}
	}
}
