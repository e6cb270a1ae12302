package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"aios.dev/aios/ktime"
)

// quick are options for logs of several small segments.
func quick() Options {
	return Options{SegmentBytes: 4 << 10, Keep: 100, BatchInterval: time.Millisecond, RepeatWindow: -1}
}

func mustOpen(t testing.TB, dir string, opt Options) *Log {
	t.Helper()
	l, err := Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func mustAppend(t testing.TB, l *Log, entries ...Entry) {
	t.Helper()
	for _, e := range entries {
		if err := l.Append(e); err != nil {
			t.Fatal(err)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mint(i int) Entry {
	return Entry{Op: "mint", Domain: "default", Actor: "operator", Agent: fmt.Sprintf("a%012x", i%7),
		Cap: fmt.Sprintf("c%012x", i), Spec: "fs:/data:ro", Correlation: fmt.Sprintf("r%d", i/3)}
}

// write fills a log with n entries and closes it.
func write(t testing.TB, dir string, opt Options, n int) {
	t.Helper()
	l := mustOpen(t, dir, opt)
	for i := range n {
		mustAppend(t, l, mint(i))
		if i%10 == 9 {
			must(t, l.Sync())
		}
	}
	must(t, l.Close())
}

func verify(t testing.TB, dir string, opt VerifyOptions) Report {
	t.Helper()
	r, err := Verify(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustVerify(t testing.TB, dir string, opt VerifyOptions) Report {
	t.Helper()
	r := verify(t, dir, opt)
	if !r.OK() {
		t.Fatalf("a sound log is broken: %v", r.Broken)
	}
	return r
}

func query(t testing.TB, dir string, f Filter) []Entry {
	t.Helper()
	var out []Entry
	for e, err := range Query(dir, f) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// faultyDisk fails when told to, with half of a write done.
type faultyDisk struct {
	hostDisk
	mu    sync.Mutex
	fault func(op string) error // nil: none
	stall chan struct{}         // when set, writes wait for it
}

func (d *faultyDisk) set(fault func(string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = fault
}

func (d *faultyDisk) check(op string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fault == nil {
		return nil
	}
	return d.fault(op)
}

func (d *faultyDisk) openSegment(path string, fresh bool) (segmentFile, error) {
	if err := d.check("open"); err != nil {
		return nil, err
	}
	f, err := d.hostDisk.openSegment(path, fresh)
	return &faultyFile{f, d}, err
}

func (d *faultyDisk) replace(path string, data []byte) error {
	if err := d.check("head"); err != nil {
		return err
	}
	return d.hostDisk.replace(path, data)
}

func (d *faultyDisk) remove(path string) error {
	if err := d.check("remove"); err != nil {
		return err
	}
	return d.hostDisk.remove(path)
}

func (d *faultyDisk) syncDir(dir string) error {
	if err := d.check("syncdir"); err != nil {
		return err
	}
	return d.hostDisk.syncDir(dir)
}

type faultyFile struct {
	segmentFile
	d *faultyDisk
}

func (f *faultyFile) WriteAt(b []byte, at int64) (int, error) {
	f.d.mu.Lock()
	stall := f.d.stall
	f.d.mu.Unlock()
	if stall != nil {
		<-stall
	}
	if err := f.d.check("write"); err != nil {
		n, _ := f.segmentFile.WriteAt(b[:len(b)/2], at)
		return n, err
	}
	return f.segmentFile.WriteAt(b, at)
}

func (f *faultyFile) Sync() error {
	if err := f.d.check("sync"); err != nil {
		return err
	}
	return f.segmentFile.Sync()
}

var errFull = &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}

var errTest = errors.New("injected")

// advance moves a fake clock until done, since timers are set by the writer
// goroutine in its own time.
func advance(t testing.TB, c *ktime.Fake, step time.Duration, done func() bool) {
	t.Helper()
	for range 2000 {
		if done() {
			return
		}
		c.Advance(step)
		time.Sleep(time.Millisecond)
	}
	t.Fatal("it did not happen")
}

func headPath(dir string) string { return filepath.Join(dir, headName) }

func fieldsOf(e *Entry) []*string {
	f := e.fields()
	return f[:]
}
