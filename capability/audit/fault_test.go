package audit

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// faulty opens a log on a disk that can be made to fail.
func faulty(t *testing.T, opt Options) (*Log, *faultyDisk, string) {
	d := &faultyDisk{}
	opt.disk = d
	dir := t.TempDir()
	return mustOpen(t, dir, opt), d, dir
}

func TestDiskFull(t *testing.T) {
	for _, op := range []string{"write", "sync", "head"} {
		t.Run(op, func(t *testing.T) {
			opt := quick()
			opt.Retry = 5 * time.Millisecond
			l, d, dir := faulty(t, opt)
			mustAppend(t, l, mint(1))
			must(t, l.Sync())
			d.set(func(o string) error {
				if o == op {
					return errFull
				}
				return nil
			})
			mustAppend(t, l, mint(2)) // Taken: kept until there is room.
			err := l.Sync()
			if !errors.Is(err, errdefs.DiskFull) || !strings.Contains(errdefs.FixOf(err), dir) || !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("sync to a full disk: %v, fix %q", err, errdefs.FixOf(err))
			}
			for range 3 {
				if err := l.Append(mint(3)); !errors.Is(err, errdefs.DiskFull) {
					t.Fatalf("append to a full disk: %v", err)
				}
			}
			if l.Err() == nil {
				t.Error("the log does not say that the disk refuses")
			}
			mustVerify(t, dir, VerifyOptions{})
			d.set(nil)
			for l.Err() != nil {
				time.Sleep(time.Millisecond)
			}
			mustAppend(t, l, mint(4))
			must(t, l.Close())
			mustVerify(t, dir, VerifyOptions{})
			var got []string
			for _, e := range query(t, dir, Filter{After: 1}) {
				got = append(got, e.Op+e.Cap)
				if e.Op == OpGap && (e.Count != 3 || !strings.Contains(e.Reason, "no space")) {
					t.Errorf("the gap says %v", e)
				}
			}
			want := fmt.Sprint([]string{"mint" + mint(1).Cap, "mint" + mint(2).Cap, OpGap, "mint" + mint(4).Cap, OpStop})
			if fmt.Sprint(got) != want {
				t.Errorf("the log has %v,\nwant %v", got, want)
			}
		})
	}
}

// TestRandomFaults lets every operation on the disk fail now and then, with
// half of a write done. What Sync said is on disk, is; nothing is there twice;
// and what is not there was refused or is counted.
func TestRandomFaults(t *testing.T) {
	for seed := range uint64(8) {
		opt := quick()
		opt.SegmentBytes, opt.Keep, opt.Retry, opt.BatchInterval = 2<<10, 1000, time.Millisecond, 200*time.Microsecond
		l, d, dir := faulty(t, opt)
		rnd := rand.New(rand.NewPCG(seed, 1))
		d.set(func(op string) error {
			if rnd.IntN(6) == 0 { // Under the disk's lock.
				return errTest
			}
			return nil
		})
		accepted, refused := map[string]bool{}, uint64(0)
		var acked []Entry
		var pending []Entry
		for i := range 400 {
			e := mint(i)
			if err := l.Append(e); err != nil {
				refused++
				time.Sleep(50 * time.Microsecond)
				continue
			}
			accepted[e.Cap] = true
			pending = append(pending, e)
			if i%5 == 0 && l.Sync() == nil {
				acked = append(acked, pending...)
				pending = nil
				mustVerify(t, dir, VerifyOptions{})
			}
		}
		seen := map[string]bool{}
		for _, e := range query(t, dir, Filter{Ops: []string{"mint"}}) {
			seen[e.Cap] = true
		}
		for _, e := range acked {
			if !seen[e.Cap] {
				t.Fatalf("seed %d: %s was synced and is not there", seed, e.Cap)
			}
		}
		d.set(nil)
		must(t, l.Close())
		mustVerify(t, dir, VerifyOptions{})
		var counted uint64
		clear(seen)
		for _, e := range query(t, dir, Filter{}) {
			if e.Op == OpGap {
				counted += e.Count
			}
			if e.Op == "mint" {
				if seen[e.Cap] || !accepted[e.Cap] {
					t.Fatalf("seed %d: %s is there twice, or was refused", seed, e.Cap)
				}
				seen[e.Cap] = true
			}
		}
		if len(seen) != len(accepted) || counted != refused {
			t.Fatalf("seed %d: %d of %d accepted entries are there, %d of %d refused are counted", seed, len(seen), len(accepted), counted, refused)
		}
		if len(acked) == 0 || refused == 0 {
			t.Errorf("seed %d: nothing was tried: %d synced, %d refused", seed, len(acked), refused)
		}
	}
}

// TestSlowDisk: a full queue makes the caller wait, and in the end refuses.
func TestSlowDisk(t *testing.T) {
	clock := ktime.NewFake(time.Unix(1000, 0))
	opt := quick()
	opt.Clock, opt.QueueEntries, opt.MaxWait = clock, 8, time.Second
	l, d, dir := faulty(t, opt)
	stall := make(chan struct{})
	d.mu.Lock()
	d.stall = stall
	d.mu.Unlock()
	// One batch is on its way to the disk, the next fills the queue.
	mustAppend(t, l, mint(0))
	for {
		l.mu.Lock()
		queued := len(l.queue)
		l.mu.Unlock()
		if queued == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	for i := range opt.QueueEntries {
		mustAppend(t, l, mint(i))
	}
	done := make(chan error, 2)
	go func() { done <- l.Append(mint(100)) }()
	select {
	case err := <-done:
		t.Fatalf("append did not wait: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	advance(t, clock, 100*time.Millisecond, func() bool { return len(done) == 1 })
	if err := <-done; !errors.Is(err, errdefs.Timeout) {
		t.Fatalf("append that waited too long: %v", err)
	}
	go func() { done <- l.Append(mint(101)) }()
	time.Sleep(5 * time.Millisecond)
	d.mu.Lock()
	d.stall = nil
	d.mu.Unlock()
	close(stall)
	if err := <-done; err != nil {
		t.Fatalf("append that waited: %v", err)
	}
	must(t, l.Close())
	mustVerify(t, dir, VerifyOptions{})
	if n := len(query(t, dir, Filter{Ops: []string{"mint"}})); n != opt.QueueEntries+2 {
		t.Errorf("%d entries", n)
	}
	if gap := query(t, dir, Filter{Ops: []string{OpGap}}); len(gap) != 1 || gap[0].Count != 1 {
		t.Errorf("gap %v", gap)
	}
}

func TestCloseOnFullDisk(t *testing.T) {
	l, d, _ := faulty(t, quick())
	d.set(func(string) error { return errFull })
	mustAppend(t, l, mint(1))
	if err := l.Close(); !errors.Is(err, errdefs.DiskFull) {
		t.Errorf("close loses entries and says %v", err)
	}
}
