package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A domain that is saved from time to time goes on when its kernel process is killed,
// at whatever moment: while it is saved, too. Its programs check themselves.
func TestDomainGoesOnFromItsCheckpoint(t *testing.T) {
	need(t, "python3")
	rounds := 3
	if soak() {
		rounds = 100
	}
	onEach(t, func(t *testing.T, in *install) {
		in.spawn(t, "--name", "world", "--grant", "net:loopback", "--", "python3", "-c", checkpointProgram(t, "world.py"))
		in.spawn(t, "--name", "brief", "--", "sh", "-c", "while :; do sleep 0.1; done")
		in.numbered(t, "world", 5)
		in.ok(t, "domain", "checkpoint", "default", "--every", "300ms")
		in.ok(t, "kill", "brief")
		lines := func() int { return strings.Count(in.wrote(t, "world", 0), "\n") }
		for round := range rounds {
			time.Sleep(time.Duration(rand.IntN(900)) * time.Millisecond)
			restored := len(in.past(t, "domain.restore"))
			must(t, syscall.Kill(in.process(t, "kernel", "default"), syscall.SIGKILL))
			eventually(t, fmt.Sprintf("round %d: it goes on", round), 60*time.Second, func() (bool, string) {
				return len(in.past(t, "domain.restore")) > restored, string(in.ok(t, "ps", "-a"))
			})
			before := lines()
			eventually(t, fmt.Sprintf("round %d: it counts", round), 60*time.Second, func() (bool, string) {
				return lines() >= before+10, in.run(t, "logs", "--tail", "5", "world").String()
			})
			if a := in.inspect(t, "world"); a.State != "running" {
				t.Errorf("round %d: %+v", round, a)
			}
			if a := in.inspect(t, "brief"); a.State == "running" {
				t.Errorf("round %d: what was ended runs again", round)
			}
		}
		for _, e := range in.past(t, "domain.restore") {
			if e.Data["after_crash"] != true || e.Data["age"] == nil {
				t.Errorf("%+v", e)
			}
		}
		in.ok(t, "domain", "checkpoint", "default", "--every", "0")
		must(t, syscall.Kill(in.process(t, "kernel", "default"), syscall.SIGKILL))
		eventually(t, "it is lost", 30*time.Second, func() (bool, string) {
			return in.inspect(t, "world").State == "lost", string(in.ok(t, "ps", "-a"))
		})
	})
}

// What an agent goes on to write to a directory of the host after a checkpoint was made
// is no reason not to go on from it when the kernel process dies.
func TestGoesOnWithChangedFiles(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		dir := t.TempDir()
		in.spawn(t, "--name", "writes", "--mount", dir+":/data:rw", "--", "sh", "-c", "i=0; while :; do echo n$i. >&3; echo n$i.; i=$((i+1)); sleep 0.02; done 3>>/data/log")
		in.numbered(t, "writes", 5)
		in.ok(t, "domain", "checkpoint", "default", "--every", "1h")
		in.numbered(t, "writes", in.numbered(t, "writes", 5)+5)
		must(t, syscall.Kill(in.process(t, "kernel", "default"), syscall.SIGKILL))
		eventually(t, "it goes on", 60*time.Second, func() (bool, string) {
			return len(in.past(t, "domain.restore")) == 1, string(in.ok(t, "ps", "-a"))
		})
		e := in.past(t, "domain.restore")[0]
		if e.Data["changed_file"] != dir+"/log" || e.Data["after_crash"] != true {
			t.Errorf("%+v", e)
		}
		size := func() int64 {
			st, err := os.Stat(filepath.Join(dir, "log"))
			must(t, err)
			return st.Size()
		}
		before := size()
		eventually(t, "it writes on", 60*time.Second, func() (bool, string) {
			return size() > before, in.run(t, "logs", "--tail", "5", "writes").String()
		})
	})
}
