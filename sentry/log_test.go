package sentry

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/control"
	"aios.dev/aios/ktime"
)

func TestLogHasEverything(t *testing.T) {
	s := spawn(t, sh("for i in 1 2 3; do echo out $i; echo err $i >&2; done; seq 1 20000"), detached)
	s.wait()
	out, errout := readLog(t, s.log)
	if !strings.HasPrefix(out, "out 1\nout 2\nout 3\n1\n2\n") || !strings.HasSuffix(out, "19999\n20000\n") || errout != "err 1\nerr 2\nerr 3\n" {
		t.Errorf("stdout %d bytes, stderr %q", len(out), errout)
	}
}

func openLog(t *testing.T, limit int64) (*agentLog, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	l := newAgentLog(f, 0, ktime.NewFake(time.Now()))
	l.max = limit
	t.Cleanup(l.close)
	return l, path
}

// TestFullLogKeepsTheNewest writes many times the limit.
func TestFullLogKeepsTheNewest(t *testing.T) {
	const limit = 4096
	l, path := openLog(t, limit)
	for i := range 2000 {
		l.append(i%3 == 0, fmt.Appendf(nil, "line %d\n", i))
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Size() > limit {
			t.Fatalf("the log has %d bytes, its limit is %d", fi.Size(), limit)
		}
		if fi.Size() != l.size {
			t.Fatalf("the log has %d bytes and thinks %d", fi.Size(), l.size)
		}
	}
	out, errout := readLog(t, path)
	lines := strings.Count(out+errout, "\n")
	if lines < limit/2/(13+len("line 1999\n"))-1 {
		t.Errorf("only %d lines are left", lines)
	}
	for i := 2000 - lines; i < 2000; i++ { // The newest, without a gap.
		text := out
		if i%3 == 0 {
			text = errout
		}
		if !strings.Contains(text, fmt.Sprintf("line %d\n", i)) {
			t.Errorf("line %d is missing", i)
		}
	}
}

func TestLongRecordsAreSplit(t *testing.T) {
	l, path := openLog(t, maxLog)
	data := bytes.Repeat([]byte("0123456789"), 30_000)
	l.append(false, data)
	l.append(true, nil)
	if out, errout := readLog(t, path); out != string(data) || errout != "" {
		t.Errorf("stdout %d bytes, stderr %q", len(out), errout)
	}
}

// TestLogOnAFailingDisk checks that output is dropped, whole records at a
// time, and that the log goes on when the disk does.
func TestLogOnAFailingDisk(t *testing.T) {
	l, path := openLog(t, maxLog)
	l.append(false, []byte("before\n"))
	good := l.f
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	l.f = full
	l.append(false, []byte("lost\n"))
	if l.lost != 5 {
		t.Errorf("%d bytes lost, want 5", l.lost)
	}
	l.f = good
	l.append(false, []byte("after\n"))
	if out, _ := readLog(t, path); out != "before\nafter\n" {
		t.Errorf("the log has %q", out)
	}
	l.close()
	l.append(false, []byte("late\n")) // No panic.
	if out, _ := readLog(t, path); out != "before\nafter\n" {
		t.Errorf("the log has %q", out)
	}
}

// TestDamagedLogStartsOver checks that a log which somebody else has written
// into does not grow without bound.
func TestDamagedLogStartsOver(t *testing.T) {
	l, path := openLog(t, 2048)
	l.append(false, bytes.Repeat([]byte("x"), 900))
	if _, err := l.f.WriteAt([]byte("garbage"), 5); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l.append(false, bytes.Repeat([]byte("y"), 900))
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rec, _, err := control.ReadLogRecord(f)
	if err != nil || rec.Data[0] != 'y' {
		t.Errorf("%q, %v", rec.Data, err)
	}
	if fi, _ := f.Stat(); fi.Size() > 2048 {
		t.Errorf("%d bytes", fi.Size())
	}
	_, err = io.Copy(io.Discard, f)
	if err != nil {
		t.Error(err)
	}
}
