package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// usage is what an installation holds of the host.
type usage struct {
	processes             int
	daemonFDs, kernelFDs  int
	mounts, cgroups, temp int
	agentFiles, runFiles  int
}

func (in *install) usage(t *testing.T) usage {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	count := func(pattern string) int {
		found, _ := filepath.Glob(filepath.Join(in.dir, pattern))
		return len(found)
	}
	return usage{
		processes: len(in.processes()),
		daemonFDs: in.openFiles(t, in.process(t, "serve")), kernelFDs: in.openFiles(t, in.process(t, "kernel", "default")),
		mounts: strings.Count(string(mounts), "\n"), cgroups: len(in.cgroups()), temp: count("tmp/*"),
		agentFiles: count("s/agents/*"), runFiles: count("s/run/*"),
	}
}

// TestNothingIsLeftBehind does everything that makes something, many times,
// and compares.
func TestNothingIsLeftBehind(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		// One kernel process more or less is no leak.
		in.config(t, "version: 1\ndomains:\n  spare: off\n")
		dir := in.share(t, nil)
		in.spawn(t, "--name", "stays", "-i", "--", "cat")
		cycle := func(n int) {
			for i := range n {
				in.agent(t, "--", "sh", "-c", "true | cat; setsid sleep 1000 & echo x > /tmp/x")
				if i%10 != 0 {
					continue
				}
				in.agent(t, "--mount", dir+":/m:rw", "--", "sh", "-c", "echo x > /m/x")
				in.agent(t, "--", "nosuchprogram")
				in.agent(t, "--isolated", "--", "true")
				in.agent(t, "--name", "stays", "--", "true")
				in.ok(t, "exec", "stays", "--", "sh", "-c", "(sleep 0.01 &)")
				c := in.start(t, "attach", "stays")
				c.write("x\n")
				c.stdout.expect(t, "x\n")
				c.cmd.Process.Kill()
				c.wait()
				in.spawn(t, "--name", "short", "--", "sleep", "1000")
				in.ok(t, "pause", "short")
				in.ok(t, "rm", "-f", "short")
			}
		}
		cycle(10)
		// What a cycle began may take a moment to end.
		settled := func(enough func(last, now usage) bool) usage {
			last := in.usage(t)
			for end := time.Now().Add(15 * time.Second); time.Now().Before(end); {
				time.Sleep(100 * time.Millisecond)
				now := in.usage(t)
				if enough(last, now) {
					return now
				}
				last = now
			}
			return last
		}
		before := settled(func(last, now usage) bool { return now == last })
		n := 40
		if soak() {
			n = 2000
		}
		began := time.Now()
		cycle(n)
		took := time.Since(began)
		if after := settled(func(_, now usage) bool { return now.fits(before) }); !after.fits(before) {
			t.Errorf("before: %+v\nafter:  %+v", before, after)
		}
		t.Logf("%d cycles in %v; %+v", n, took.Round(time.Millisecond), before)
	})
}

// fits reports whether u is no more than before. Kernel processes keep a few
// host processes ready, more or less by chance.
func (u usage) fits(before usage) bool {
	const spare = 4
	return u.processes <= before.processes+spare && u.daemonFDs <= before.daemonFDs+spare && u.kernelFDs <= before.kernelFDs+spareFiles &&
		u.cgroups <= before.cgroups && u.temp <= before.temp && u.agentFiles <= before.agentFiles && u.runFiles <= before.runFiles
}

// TestSpawnsInARow runs short agents from two clients at once.
func TestSpawnsInARow(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		n := 50
		if soak() {
			n = 5000
		}
		failed := make(chan error, 2)
		began := time.Now()
		for range 2 {
			go func() {
				for i := range n {
					r, err := in.try("echo", fmt.Sprint(i))
					if err == nil && (r.status != 0 || string(r.stdout) != fmt.Sprint(i, "\n")) {
						err = fmt.Errorf("spawn %d: %s", i, r)
					}
					if err != nil {
						failed <- err
						return
					}
				}
				failed <- nil
			}()
		}
		for range 2 {
			if err := <-failed; err != nil {
				t.Error(err)
			}
		}
		t.Logf("%d agents, %v each", 2*n, (time.Since(began) / time.Duration(2*n)).Round(10*time.Microsecond))
	})
}
