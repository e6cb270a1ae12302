package journal

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

// TestMain runs the writer of TestKill in a process of its own.
func TestMain(m *testing.M) {
	if dir := os.Getenv("AIOS_TEST_JOURNAL"); dir != "" {
		writeUntilKilled(dir)
	}
	os.Exit(m.Run())
}

func writeUntilKilled(dir string) {
	j, err := Open(dir, Options{SegmentBytes: 20 << 10})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	for {
		n := j.Last() + 1
		j.Append(int64(n), data(n))
		if n%64 != 0 {
			continue
		}
		for {
			written, changed := j.Written()
			if written >= n {
				break
			}
			<-changed
		}
		fmt.Println(n) // Everything up to here is in the files.
	}
}

// A process that is killed loses nothing that Written spoke of.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	said := map[uint64]bool{}
	for round := range 4 {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "AIOS_TEST_JOURNAL="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		var stop *time.Timer // From the first record on, however long it takes to start.
		for lines.Scan() {
			if stop == nil {
				stop = time.AfterFunc(time.Duration(10+30*round)*time.Millisecond, func() { cmd.Process.Kill() })
				defer stop.Stop()
			}
			var n uint64
			if _, err := fmt.Sscan(lines.Text(), &n); err == nil {
				said[n] = true
			} else {
				t.Fatal(lines.Text())
			}
		}
		cmd.Wait()
	}
	j := open(t, dir, Options{SegmentBytes: 20 << 10})
	got, lost := readAll(t, j, 1)
	check(t, got)
	if lost != 0 || len(said) < 4 {
		t.Fatalf("%d lost, %d points", lost, len(said))
	}
	for _, r := range got {
		delete(said, r.Cursor)
	}
	if len(said) > 0 {
		t.Errorf("of %d records, %d that were written are missing", len(got), len(said))
	}
}
