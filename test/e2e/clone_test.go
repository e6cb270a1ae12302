package e2e

import (
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// cloneCorpus are programs that end by themselves and print what they have seen,
// the same every time.
var cloneCorpus = []struct {
	name string
	need string
	argv []string
}{
	{"python threads", "python3", []string{"python3", "/p/threads.py"}},
	{"python asyncio", "python3", []string{"python3", "/p/loop.py"}},
	{"python multiprocessing", "python3", []string{"python3", "/p/processes.py"}},
	{"python manager", "python3", []string{"python3", "/p/manager.py"}},
	{"sqlite with a journal", "python3", []string{"python3", "/p/transactions.py"}},
	{"sqlite with a write-ahead log", "python3", []string{"env", "WAL=1", "python3", "/p/transactions.py"}},
	{"node", "node", []string{"node", "/p/node.js"}},
	{"gcc", "gcc", []string{"sh", "/p/compile.sh"}},
	{"git", "git", []string{"bash", "/p/git.sh"}},
	{"pipelines and jobs", "bash", []string{"bash", "/p/jobs.sh"}},
	{"calls of C", "gcc", []string{"/built/calls-c"}},
	{"vfork", "gcc", []string{"/built/vfork-c"}},
	{"calls of Go", "sh", []string{"/built/calls-go"}},
}

// Programs are caught at random moments: original and copy both end as if nothing
// had happened.
func TestClonePrograms(t *testing.T) {
	built, sources := t.TempDir(), absolute(t, "testdata/clone")
	if out, err := exec.Command("go", "build", "-o", filepath.Join(built, "calls-go"), "./testdata/clone/calls").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if hostHas("gcc") {
		for _, name := range []string{"calls", "vfork"} {
			if out, err := exec.Command("gcc", "-O1", "-o", filepath.Join(built, name+"-c"), "testdata/clone/"+name+".c", "-lpthread", "-lrt").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	instants := 2
	if soak() {
		instants = 200
	}
	onEach(t, func(t *testing.T, in *install) {
		flags := []string{"--grant", "fs:" + sources + ":ro,at=/p", "--grant", "fs:" + built + ":ro,at=/built"}
		for _, p := range cloneCorpus {
			t.Run(p.name, func(t *testing.T) {
				need(t, p.need)
				began := time.Now()
				r := in.agent(t, append(append(flags[:len(flags):len(flags)], "--"), p.argv...)...)
				took := time.Since(began)
				if r.status != 0 || len(r.stdout) == 0 {
					t.Fatalf("alone: %s", r)
				}
				for range instants {
					cloneAt(t, in, append(append(flags[:len(flags):len(flags)], "--"), p.argv...), time.Duration(rand.Float64()*0.9*float64(took)), string(r.stdout))
				}
			})
		}
	})
}

// cloneAt copies a program when it has run for a while, and checks what both print.
func cloneAt(t *testing.T, in *install, args []string, after time.Duration, want string) {
	t.Helper()
	agent := in.spawn(t, args...)
	time.Sleep(after)
	both := []string{agent}
	r := in.run(t, "clone", agent)
	switch {
	case r.status == 0:
		both = append(both, strings.TrimSpace(string(r.stdout)))
	case !strings.Contains(string(r.stderr), "has ended"):
		t.Errorf("after %v: %s", after, r)
	}
	for i, id := range both {
		in.run(t, "wait", id)
		l := in.run(t, "logs", id)
		// What was written before is the original's.
		if got := string(l.stdout); got != want && (i == 0 || !strings.HasSuffix(want, got)) || len(l.stderr) != 0 {
			t.Errorf("after %v, %s: %s, want %q", after, []string{"the original", "the copy"}[i], l, want)
		}
		in.ok(t, "rm", "-f", id)
	}
}

func absolute(t *testing.T, name string) string {
	t.Helper()
	p, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The example of docs/clone.md.
func TestCloneAndDiverge(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		in.spawn(t, "--name", "worker", "--", "sh", "-c", `n=0; while true; do n=$((n+1)); echo "$n $(hostname)" > /tmp/state; sleep 0.1; done`)
		time.Sleep(300 * time.Millisecond)
		in.ok(t, "clone", "--name", "trial", "-n", "2", "worker")
		in.ok(t, "exec", "trial-1", "sh", "-c", "echo only here > /tmp/note")
		for _, other := range []string{"worker", "trial-2"} {
			if r := in.run(t, "exec", other, "ls", "/tmp/note"); r.status == 0 {
				t.Errorf("%s has the file of another", other)
			}
		}
		time.Sleep(300 * time.Millisecond)
		for _, name := range []string{"worker", "trial-1", "trial-2"} {
			eventually(t, "it writes its own name", 10*time.Second, func() (bool, string) {
				got := string(in.ok(t, "exec", name, "cat", "/tmp/state"))
				return strings.HasSuffix(got, " "+name+"\n"), got
			})
		}
		in.ok(t, "rm", "-f", "worker")
		if r := in.run(t, "exec", "trial-1", "true"); r.status != 0 {
			t.Errorf("the copy does not outlive its original: %s", r)
		}
		if r := in.run(t, "clone", "--name", "trial-1", "trial-2"); r.status == 0 || !strings.Contains(string(r.stderr), "has that name") {
			t.Errorf("a name was given twice: %s", r)
		}
	})
}
