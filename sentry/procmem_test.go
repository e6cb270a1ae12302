package sentry

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
)

// TestProcMem writes to memory that may not be written, the way that /proc
// offers, with and without the right to.
func TestProcMem(t *testing.T) {
	denied.watch()
	p := newProbe(t)
	second := &probe{p.execIn([]string{"/bin/probe"}, func(c *control.Process) { c.Stdin = true }), p.agent}
	other := second.must("getpid", "")
	bin := p.must("open", `"/bin/probe 0 0`)
	code := p.must("mmap", fmt.Sprintf("0 4096 5 2 %d 0", bin))
	page := second.must("mmap", anonymous)
	second.must("prctl", "0x59616d61 -1") // Anybody may trace it.

	for _, path := range []string{"/proc/self/mem", "/proc/thread-self/mem", fmt.Sprintf("/proc/%d/task/%d/mem", p.must("getpid", ""), p.must("getpid", ""))} {
		p.without()
		fd := p.must("open", fmt.Sprintf(`"%s 2 0`, path))
		if got := p.call("pwrite64", fmt.Sprintf(`%d "xyz 3 %d`, fd, code)); got != 3 {
			t.Errorf("%s: written to with the right: %d", path, got)
		}
		p.without(abi.GroupMemExec)
		for _, c := range []struct {
			call, args string
			want       int64
		}{
			{"pwrite64", fmt.Sprintf(`%d "abc 3 %d`, fd, code), -int64(unix.EACCES)},
			{"lseek", fmt.Sprintf(`%d %d 0`, fd, code), code},
			{"write", fmt.Sprintf(`%d "abc 3`, fd), -int64(unix.EACCES)},
			{"open", fmt.Sprintf(`"%s 1 0`, path), -int64(unix.EACCES)},
			{"pread64", fmt.Sprintf(`%d {0 3 %d`, fd, code), 3},
		} {
			if got := p.call(c.call, c.args); got != c.want {
				t.Errorf("%s: %s without memory-exec: %d, want %d", path, c.call, got, c.want)
			}
		}
	}

	p.without()
	path := fmt.Sprintf(`"/proc/%d/mem 2 0`, other)
	fd := p.must("open", path)
	if got := p.call("pread64", fmt.Sprintf(`%d {0 3 %d`, fd, page)); got != 3 {
		t.Errorf("another's memory with the right: %d", got)
	}
	p.without(abi.GroupDebug)
	for call, args := range map[string]string{
		"pread64":  fmt.Sprintf(`%d {0 3 %d`, fd, page),
		"pwrite64": fmt.Sprintf(`%d "abc 3 %d`, fd, page),
		"open":     path,
	} {
		if got := p.call(call, args); got != -int64(unix.EPERM) {
			t.Errorf("another's memory, %s without debug: %d, want %d", call, got, -int64(unix.EPERM))
		}
	}
	if n := p.must("open", `"/proc/self/mem 0 0`); p.call("pread64", fmt.Sprintf(`%d {0 3 %d`, n, code)) != 3 {
		t.Error("a process may not read its own memory")
	}
	eventually(t, func() bool { return denied.count(p.id, "open", "proc:self:debug") > 0 })
}
