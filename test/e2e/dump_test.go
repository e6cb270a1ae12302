package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// dumped is a program with two threads, one of them deep in calls.
const dumped = `
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
volatile int answer = 41;
static void *worker(void *p) { for (;;) usleep(1000); return p; }
static void deep(int n) { if (n) deep(n - 1); else for (;;) pause(); answer++; }
int main(void) { pthread_t t; pthread_create(&t, 0, worker, 0); answer++; puts("ready"); fflush(stdout); deep(3); return 0; }
`

// crashLine is a dump as crash ls -o json shows it.
type crashLine struct {
	ID, Kind, Domain, Name, Why string
	Members                     []struct{ Name string }
}

func (in *install) crashes(t *testing.T) (out []crashLine) {
	t.Helper()
	must(t, json.Unmarshal(in.ok(t, "crash", "ls", "-o", "json"), &out))
	return out
}

// TestDumpInGDB has gdb open a core: threads, registers, stacks and memory.
func TestDumpInGDB(t *testing.T) {
	need(t, "gcc", "gdb")
	onEach(t, func(t *testing.T, in *install) {
		dir := in.share(t, map[string][]byte{"p.c": []byte(dumped)})
		program, core := filepath.Join(dir, "p"), filepath.Join(in.dir, "core")
		if out, err := exec.Command("gcc", "-g", "-O0", "-static", "-pthread", "-o", program, filepath.Join(dir, "p.c")).CombinedOutput(); err != nil {
			t.Fatalf("gcc: %v\n%s", err, out)
		}
		must(t, os.Chmod(program, 0o755))
		in.spawn(t, "--name", "dumped", "--mount", dir+":/src", "--", "/src/p")
		eventually(t, "the program is ready", 10*time.Second, func() (bool, string) {
			got := string(in.ok(t, "logs", "dumped"))
			return got == "ready\n", got
		})
		follow := in.follow(t)
		id := strings.TrimSpace(string(in.ok(t, "crash", "dump", "dumped")))
		follow.wait(t, "kernel.dump", func(e eventLine) bool { return e.Data["id"] == id && e.Data["kind"] == "core" })
		in.ok(t, "crash", "get", id, core)
		if fi, err := os.Stat(core); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("the core: %v %v", fi, err)
		}
		out, err := exec.Command("gdb", "-nx", "-batch", "-ex", "info threads", "-ex", "thread apply all bt", "-ex", "thread 1",
			"-ex", "p answer", "-ex", "p $rip", "-ex", "p $sp != 0", "-ex", "p $ymm0", program, core).CombinedOutput()
		got := string(out)
		if err != nil || strings.Contains(got, "too small") || strings.Contains(got, "is truncated") || strings.Contains(got, "Failed to read") {
			t.Errorf("gdb: %v\n%s", err, got)
		}
		for want, times := range map[string]int{
			"(LWP 1)": 1, "(LWP 2)": 1, "in deep (n=": 4, "in main ()": 1, "in worker (": 1, "$1 = 42": 1, "<pause": 1, "$3 = 1": 1, "v8_float": 1,
		} {
			if strings.Count(got, want) < times {
				t.Errorf("gdb does not show %q %d times:\n%s", want, times, got)
			}
		}
		if got := in.ps(t); len(got) != 1 || got[0].State != "running" {
			t.Errorf("the agent after its dump: %+v", got)
		}
		if got := string(in.ok(t, "audit", "query", "--op", "dump.read")); !strings.Contains(got, "dump.read") {
			t.Errorf("the audit trail is without who read the dump:\n%s", got)
		}
		// A full one needs no program.
		full := strings.TrimSpace(string(in.ok(t, "crash", "dump", "--full", "dumped")))
		in.ok(t, "crash", "get", "-f", full, core)
		out, err = exec.Command("gdb", "-nx", "-batch", "-ex", "x/2i $pc", "-c", core).CombinedOutput()
		if got := string(out); err != nil || strings.Count(got, "0x") < 3 || strings.Contains(got, "Cannot access memory at address 0x4") {
			t.Errorf("gdb of a full dump: %v\n%s", err, got)
		}
		in.ok(t, "crash", "rm", id)
		if r := in.run(t, "crash", "show", id); r.status == 0 || !strings.Contains(string(r.stderr), "crash ls") {
			t.Errorf("a dump that was removed: %s", r)
		}
	})
}

// TestBundle dumps a kernel process that runs, and one that was killed.
func TestBundle(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		id := in.spawn(t, "--name", "sleeper", "--", "sleep", "1000")
		eventually(t, "the journal has the spawn", 10*time.Second, func() (bool, string) {
			got := string(in.ok(t, "events", "--since", "1h", "--topic", "agent.spawn"))
			return strings.Contains(got, "name=sleeper"), got
		})
		alive := strings.TrimSpace(string(in.ok(t, "crash", "bundle", "default")))
		for member, want := range map[string]string{
			"goroutines.txt": "aios.dev/aios/sentry", "agents.json": id, "kernel.json": `"platform": "` + in.platform, "klog.txt": "agent.spawn",
			"events.jsonl": "dev.aios.agent.spawn", "manifest.json": "sleeper",
		} {
			if got := string(in.ok(t, "crash", "get", "-m", member, alive, "-")); !strings.Contains(got, want) {
				t.Errorf("%s is without %q:\n%.2000s", member, want, got)
			}
		}
		kill9(t, in.process(t, "kernel", "default"))
		var dead crashLine
		eventually(t, "the crash is kept", 10*time.Second, func() (bool, string) {
			all := in.crashes(t)
			dead = all[len(all)-1]
			return len(all) == 2, string(in.ok(t, "crash", "ls"))
		})
		if dead.Kind != "kernel" || dead.Domain != "default" || !strings.Contains(dead.Why, "died") {
			t.Errorf("%+v", dead)
		}
		for member, want := range map[string]string{"klog.txt": "agent.spawn", "events.jsonl": "dev.aios.agent.spawn", "manifest.json": id} {
			if got := string(in.ok(t, "crash", "get", "-m", member, dead.ID, "-")); !strings.Contains(got, want) {
				t.Errorf("%s of the dead is without %q:\n%.2000s", member, want, got)
			}
		}
	})
}
