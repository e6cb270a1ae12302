package sentry

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// TestProc looks at an agent's /proc from inside.
func TestProc(t *testing.T) {
	other := spawn(t, []string{"sleep", "1234"})
	s := spawn(t, sh("sleep 1001 & echo ready; exec sleep 1002"), as("bob"))
	s.expect("ready")
	eventually(t, func() bool {
		ps := inspect(t, s.id).Processes
		return len(ps) == 2 && fmt.Sprint(ps[0].Argv, ps[1].Argv) == "[sleep 1002] [sleep 1001]"
	})
	for _, step := range []struct{ script, want string }{
		{"cat /proc/1/cmdline /proc/2/cmdline | tr '\\0' ' '", "sleep 1002 sleep 1001 "},
		{"cut -d' ' -f1,4 /proc/1/stat /proc/2/stat", "1 0\n2 1\n"},
		{"grep -E '^(Pid|PPid|Uid):' /proc/2/status | tr '\\t' ' '", "Pid: 2\nPPid: 1\nUid: 1000 1000 1000 1000\n"},
		{"for l in exe cwd root; do readlink /proc/$$/$l; done", "/bin/busybox\n/\n/\n"},
		{"cat /proc/sys/kernel/hostname", "box\n"},
		{"grep -c . /proc/net/dev; grep -o 'lo:' /proc/net/dev", "3\nlo:\n"},
		{"grep -q ' /proc proc ' /proc/mounts && grep -q ' / overlay ' /proc/mounts && echo mounted", "mounted\n"},
		{"ls -l /proc/self | grep -o 'self -> .*' | tr -d 0-9", "self -> \n"},
		{"ls -d /proc/1 /proc/2 /proc/self /proc/sys/kernel /proc/meminfo /proc/cpuinfo", "/proc/1\n/proc/2\n/proc/cpuinfo\n/proc/meminfo\n/proc/self\n/proc/sys/kernel\n"},
		{"cat /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -c '123[4]'", "0\n"},
		{"ls /proc/nosuch 2>/dev/null || ls /proc/99999 2>/dev/null || echo none", "none\n"},
		{"cd /proc && cd sys/kernel && pwd && cd .. && cd .. && pwd", "/proc/sys/kernel\n/proc\n"},
		{"test -d /proc && stat -c %F /proc && stat -f -c %T /proc", "directory\nproc\n"},
	} {
		x := s.execIn(sh(step.script))
		if out, errout, _ := x.output(); out != step.want {
			t.Errorf("%q: stdout %q stderr %q, want %q", step.script, out, errout, step.want)
		}
	}
	for _, script := range []string{"touch /proc/x", "mkdir /proc/x", "rm /proc/meminfo", "echo x > /proc/sys/kernel/hostname", "mv /proc/self /proc/other"} {
		if _, _, exit := s.execIn(sh(script)).output(); exit.Code == 0 {
			t.Errorf("%q succeeded", script)
		}
	}
	if st := inspect(t, other.id); len(st.Processes) != 1 {
		t.Errorf("the other agent is %+v", st)
	}
}

// TestProcIsMadeOnce has many processes look for the first time at once.
func TestProcIsMadeOnce(t *testing.T) {
	for range 5 {
		s := spawn(t, []string{"sleep", "1000"})
		var wg sync.WaitGroup
		for range 8 {
			x := s.execIn(sh("ls /proc 2> /dev/null | grep -c -x 1; cat /proc/1/cmdline; ls /proc/sys > /dev/null && ls /proc/self/fd | wc -l"))
			wg.Go(func() {
				if out, errout, _ := x.output(); !strings.HasPrefix(out, "1\nsleep\x001000\x00") || errout != "" {
					t.Errorf("stdout %q stderr %q", out, errout)
				}
			})
		}
		wg.Wait()
	}
}
