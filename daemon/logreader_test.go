package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/control"
)

// logFile is a log under test and what is in it.
type logFile struct {
	t    testing.TB
	f    *os.File
	recs []control.LogRecord
	tick int64
}

func newLogFile(t testing.TB) *logFile {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "log"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &logFile{t: t, f: f}
}

func (l *logFile) reader() *logReader { return &logReader{f: l.f} }

func (l *logFile) write(stderr bool, data string) {
	l.tick++
	rec := control.LogRecord{Time: time.Unix(l.tick, 0), Stderr: stderr, Data: []byte(data)}
	l.recs = append(l.recs, rec)
	l.store()
}

// halve drops the older half, as the kernel process does.
func (l *logFile) halve() {
	l.recs = l.recs[(len(l.recs)+1)/2:]
	l.store()
}

func (l *logFile) store() {
	var b []byte
	for _, r := range l.recs {
		b = control.AppendLogRecord(b, r)
	}
	l.raw(b)
}

func (l *logFile) raw(b []byte) {
	l.t.Helper()
	if err := l.f.Truncate(0); err != nil {
		l.t.Fatal(err)
	}
	if _, err := l.f.WriteAt(b, 0); err != nil {
		l.t.Fatal(err)
	}
}

func both(control.LogRecord) bool { return true }

func readAll(t testing.TB, r *logReader, wanted func(control.LogRecord) bool) string {
	t.Helper()
	var out strings.Builder
	if err := r.each(wanted, func(rec control.LogRecord) error {
		out.Write(rec.Data)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestTail compares with what tail(1) would show.
func TestTail(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		l := newLogFile(t)
		var all [2]string
		mixed := ""
		for range rapid.IntRange(0, 8).Draw(r, "records") {
			stderr := rapid.Bool().Draw(r, "stderr")
			data := rapid.StringOfN(rapid.SampledFrom([]rune("ab\n")), 0, 12, -1).Draw(r, "data")
			l.write(stderr, data)
			mixed += data
			if stderr {
				all[1] += data
			} else {
				all[0] += data
			}
		}
		n := rapid.IntRange(1, 10).Draw(r, "lines")
		for which, text := range map[string]string{"stdout": all[0], "stderr": all[1], "both": mixed} {
			wanted := func(rec control.LogRecord) bool { return which == "both" || rec.Stderr == (which == "stderr") }
			reader := l.reader()
			if err := reader.tail(n, wanted); err != nil {
				r.Fatal(err)
			}
			if got, want := readAll(t, reader, wanted), lastLines(text, n); got != want {
				r.Fatalf("the last %d lines of %s %q are %q, want %q", n, which, text, got, want)
			}
		}
	})
}

func lastLines(text string, n int) string {
	lines := strings.SplitAfter(text, "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return strings.Join(lines[max(0, len(lines)-n):], "")
}

// TestFollow reads a log while it grows, loses its older half, and both
// between two looks. Nothing that is still there may be missed.
func TestFollow(t *testing.T) {
	l := newLogFile(t)
	r := l.reader()
	steps := []struct {
		do   func()
		want string
	}{
		{func() {}, ""},
		{func() { l.write(false, "one\n") }, "one\n"},
		{func() {}, ""},
		{func() { l.write(true, "two\n"); l.write(false, "three\n") }, "two\nthree\n"},
		{func() { l.write(false, "four\n"); l.halve() }, "three\nfour\n"}, // "three" again.
		{func() { l.write(false, "five\n") }, "five\n"},
		// Halved, and longer than before when the reader looks again.
		{func() { l.halve(); l.write(false, strings.Repeat("x", 200)+"\n") }, "five\n" + strings.Repeat("x", 200) + "\n"},
		{func() { l.halve(); l.halve() }, ""},
		{func() { l.write(false, "fresh\n") }, "fresh\n"},
	}
	for n, s := range steps {
		s.do()
		if got := readAll(t, r, both); got != s.want {
			t.Errorf("step %d: %q, want %q", n, got, s.want)
		}
	}
}

func TestLogThatIsBeingWritten(t *testing.T) {
	l := newLogFile(t)
	whole := control.AppendLogRecord(control.AppendLogRecord(nil, control.LogRecord{Time: time.Unix(1, 0), Data: []byte("one\n")}),
		control.LogRecord{Time: time.Unix(2, 0), Data: []byte("two\n")})
	r := l.reader()
	got := ""
	for n := range len(whole) + 1 {
		l.raw(whole[:n])
		got += readAll(t, r, both)
	}
	if got != "one\ntwo\n" {
		t.Errorf("read %q", got)
	}
}

func TestDamagedLog(t *testing.T) {
	l := newLogFile(t)
	l.write(false, "one\n")
	l.write(false, "two\n")
	b, err := os.ReadFile(l.f.Name())
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-4-5] = 9 // The second record's stream.
	l.raw(b)
	got := ""
	err = l.reader().each(both, func(rec control.LogRecord) error {
		got += string(rec.Data)
		return nil
	})
	if err == nil || got != "one\n" {
		t.Errorf("read %q, %v", got, err)
	}
}
