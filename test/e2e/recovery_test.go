package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/config"
)

// counter is a program that prints numbers from 1 on, twenty a second.
const counter = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"

// lastNumber returns the last complete number of a counter's output.
func lastNumber(out string) int {
	lines := strings.Split(out[:strings.LastIndexByte("\n"+out, '\n')], "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if n, err := strconv.Atoi(lines[i]); err == nil {
			return n
		}
	}
	return 0
}

// counted returns how far a counter has come, by its log.
func (in *install) counted(t *testing.T, agent string) int {
	t.Helper()
	return lastNumber(in.wrote(t, agent, 3))
}

// wrote returns what an agent has written, or its last lines only. It asks by the
// API, for those who ask again and again: a command takes longer to begin.
func (in *install) wrote(t testing.TB, agent string, lines int64) string {
	t.Helper()
	paths, err := config.Resolve(in.state)
	must(t, err)
	if door, err := client.Dial(t.Context(), client.Options{Paths: paths, NoStart: true}); err == nil {
		defer door.Close()
		if out, err := logged(t.Context(), door, agent, lines); err == nil {
			return string(out[0])
		}
	}
	return string(in.ok(t, "logs", "--tail", fmt.Sprint(lines), agent)) // It starts the daemon, or says what is wrong.
}

// logged returns what an agent has written: output, and errors.
func logged(ctx context.Context, door *client.Client, agent string, lines int64) (out [2][]byte, err error) {
	stream, err := door.Logs(ctx, &apiv1.LogsRequest{Agent: agent, TailLines: lines})
	for err == nil {
		var m *apiv1.LogsResponse
		if m, err = stream.Recv(); err == nil {
			i := 0
			if m.GetStderr() {
				i = 1
			}
			out[i] = append(out[i], m.GetData()...)
		}
	}
	if err == io.EOF {
		err = nil
	}
	return out, err
}

// countsOn waits until a counter has gone ten numbers on.
func (in *install) countsOn(t *testing.T, agent string) {
	t.Helper()
	from := in.counted(t, agent)
	eventually(t, agent+" counts on", 20*time.Second, func() (bool, string) {
		n := in.counted(t, agent)
		return n >= from+10, fmt.Sprintf("from %d to %d", from, n)
	})
}

func TestDaemonKilled(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		in.spawn(t, "--name", "counter", "--", "sh", "-c", counter)
		in.spawn(t, "--name", "alone", "--isolated", "--", "sleep", "1000")
		in.spawn(t, "--name", "reader", "-i", "--", "sh", "-c", "while read line; do echo got $line; done; exit 4")
		dir := in.share(t, nil)
		in.spawn(t, "--name", "ends-meanwhile", "--mount", dir+":/m:rw", "--", "sh", "-c",
			"while [ ! -e /m/go ]; do sleep 0.01; done; echo bye; touch /m/gone; exit 9")
		in.spawn(t, "--name", "paused", "--", "sh", "-c", counter)
		in.ok(t, "pause", "paused")
		joined := in.startAgent(t, "--name", "joined", "--", "sh", "-c", "echo ready; exec sleep 1000")
		joined.stdout.expect(t, "ready\n")
		in.countsOn(t, "counter")
		before := in.ps(t)

		kill9(t, in.process(t, "serve"))
		if r := joined.wait(); r.status != 125 || !strings.Contains(string(r.stderr), "goes on") || !strings.Contains(string(r.stderr), "aiosctl attach") {
			t.Errorf("a client that was attached: %s", r)
		}
		after := in.ps(t) // Starts a daemon.
		if len(after) != len(before) {
			t.Errorf("before: %+v\nafter: %+v", before, after)
		}
		for i := range min(len(before), len(after)) {
			if before[i].ID != after[i].ID || before[i].State != after[i].State || before[i].Name != after[i].Name || before[i].Domain != after[i].Domain {
				t.Errorf("before: %+v\nafter: %+v", before[i], after[i])
			}
		}
		in.countsOn(t, "counter")
		// The log has no gap.
		for i, line := range strings.Fields(string(in.ok(t, "logs", "counter"))) {
			if line != strconv.Itoa(i+1) {
				t.Fatalf("line %d of the log is %q", i+1, line)
			}
		}
		in.ok(t, "resume", "paused")
		in.countsOn(t, "paused")
		in.ok(t, "exec", "alone", "--", "true")

		a := in.start(t, "attach", "reader")
		a.write("hello\n")
		a.stdout.expect(t, "got hello\n")
		must(t, a.stdin.Close())
		in.ok(t, "kill", "counter")
		if r := in.run(t, "wait", "counter"); r.status != 137 {
			t.Errorf("wait: %s", r)
		}
		// What was said of names holds: taken while it lives.
		if r := in.agent(t, "--name", "alone", "--", "true"); r.status != 125 {
			t.Errorf("a name was given twice: %s", r)
		}
		// One that ends while no daemon runs is found with its status.
		kill9(t, in.process(t, "serve"))
		must(t, os.WriteFile(filepath.Join(dir, "go"), nil, 0o644))
		eventually(t, "the program goes", 20*time.Second, func() (bool, string) {
			_, err := os.Stat(filepath.Join(dir, "gone"))
			return err == nil, fmt.Sprint(err)
		})
		r := in.run(t, "wait", "ends-meanwhile")
		if r.status != 9 || strings.TrimSpace(string(in.ok(t, "logs", "ends-meanwhile"))) != "bye" {
			t.Errorf("wait: %s", r)
		}
		if a := in.inspect(t, "ends-meanwhile"); a.State != "exited" || a.Exit.Code != 9 {
			t.Errorf("%+v", a)
		}
	})
}

// TestDaemonKilledWhileSpawning kills the daemon at arbitrary moments. What it
// was doing then is either complete or has left nothing.
func TestDaemonKilledWhileSpawning(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		in.ok(t, "daemon", "start")
		told := make(map[string]bool) // agents whose client was told of them
		var mu sync.Mutex
		for round := range 6 {
			var wg sync.WaitGroup
			var over atomic.Bool
			for i := range 4 {
				wg.Add(1)
				go func() {
					defer wg.Done()
					for n := 0; n < 100 && !over.Load(); n++ {
						args := []string{"spawn", "--platform", in.platform, "--name", fmt.Sprintf("r%d-%d-%d", round, i, n)}
						if i == 3 {
							args = append(args, "--isolated")
						}
						r, err := in.tryCommand(append(args, "--", "sleep", "1000")...)
						if err != nil || r.status != 0 {
							return
						}
						mu.Lock()
						told[strings.TrimSpace(string(r.stdout))] = true
						mu.Unlock()
					}
				}()
			}
			serve := in.process(t, "serve")
			// The moment is what is varied: while domains start, and while
			// agents start in those that run.
			if round >= 3 {
				eventually(t, "agents are announced", patience, func() (bool, string) {
					mu.Lock()
					defer mu.Unlock()
					return len(told) >= 8*round, fmt.Sprint(len(told))
				})
			}
			time.Sleep(time.Duration(10+23*round) * time.Millisecond)
			kill9(t, serve)
			over.Store(true)
			wg.Wait()
			in.ok(t, "daemon", "start")
		}
		// An agent of which no client was told may live: its client was cut off
		// between the start and the answer.
		seen := make(map[string]agentInfo)
		kernels := map[string]bool{}
		for _, a := range in.ps(t, "-a") {
			seen[a.ID] = a
			if a.State != "running" {
				t.Errorf("half made: %+v", a)
				continue
			}
			kernels[a.Domain] = true
			in.ok(t, "exec", a.ID, "--", "true")
		}
		for id := range told {
			if _, ok := seen[id]; !ok {
				t.Errorf("agent %s was announced and is unknown", id)
			}
		}
		// Every kernel process is a domain that the daemon knows, and no
		// isolated one is empty.
		known := map[string]bool{}
		for _, d := range in.domains(t) {
			known[d.Name] = true
			if d.Isolated && d.Agents == 0 {
				t.Errorf("an empty domain of its own: %+v", d)
			}
		}
		eventually(t, "unknown kernel processes end", 10*time.Second, func() (bool, string) {
			for _, p := range in.processes() {
				if len(p.args) > 2 && p.args[1] == "kernel" && !known[p.args[2]] && !strings.HasPrefix(p.args[2], "(spare)") {
					return false, p.String()
				}
			}
			return true, ""
		})
		for _, what := range in.oddAgentFiles() {
			t.Errorf("left behind: %s", what)
		}
		files, _ := filepath.Glob(filepath.Join(in.state, "agents", "*.json"))
		if len(files) != len(seen) {
			t.Errorf("%d records for %d agents", len(files), len(seen))
		}
		t.Logf("%d agents were announced, %d live", len(told), len(seen))
	})
}

// domainInfo is what domain ls prints.
type domainInfo struct {
	Name     string `json:"name"`
	PID      int    `json:"pid"`
	Agents   int    `json:"agents"`
	Isolated bool   `json:"isolated"`
	Memory   uint64 `json:"agent_memory_bytes"`
}

func (in *install) domains(t testing.TB) []domainInfo {
	t.Helper()
	var all []domainInfo
	must(t, json.Unmarshal(in.ok(t, "domain", "ls", "-o", "json"), &all))
	return all
}

func TestDomainKilled(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		in.spawn(t, "--name", "victim", "--domain", "one", "--", "sh", "-c", "echo said; exec sleep 1000")
		in.spawn(t, "--name", "bystander", "--domain", "two", "--", "sh", "-c", counter)
		joined := in.startAgent(t, "--domain", "one", "--name", "joined", "--keep", "--", "sh", "-c", "echo ready; exec sleep 1000")
		joined.stdout.expect(t, "ready\n")
		waiting := in.start(t, "wait", "victim")
		running := in.start(t, "exec", "victim", "--", "sh", "-c", "echo ready; exec sleep 1000")
		running.stdout.expect(t, "ready\n")
		daemon := in.process(t, "serve")

		kill9(t, in.process(t, "kernel", "one"))
		for name, c := range map[string]*command{"run": joined, "exec": running} {
			if r := c.wait(); r.status != 125 || !strings.Contains(string(r.stderr), "domain one died") {
				t.Errorf("%s: %s", name, r)
			}
		}
		if r := waiting.wait(); r.status != 137 {
			t.Errorf("wait: %s", r)
		}
		a := in.inspect(t, "victim")
		if a.State != "lost" || a.Exit.Status != 137 || !strings.Contains(a.Exit.Reason, "domain one") {
			t.Errorf("%+v", a)
		}
		if got := string(in.ok(t, "logs", "victim")); got != "said\nready\n" { // The exec's output is the agent's too.
			t.Errorf("log: %q", got)
		}
		for _, verb := range []string{"kill", "pause", "attach"} {
			if r := in.run(t, verb, "victim"); r.status != 125 || !strings.Contains(string(r.stderr), "lost") {
				t.Errorf("%s of a lost agent: %s", verb, r)
			}
		}
		raw, err := os.ReadFile(filepath.Join(in.state, "aiosd.log"))
		must(t, err)
		if log := string(raw); !strings.Contains(log, "domain died") || !strings.Contains(log, "victim") || !strings.Contains(log, "joined") || strings.Contains(log, "bystander") {
			t.Errorf("the daemon's log does not say who was lost:\n%s", log)
		}
		in.countsOn(t, "bystander")
		if pid := in.process(t, "serve"); pid != daemon {
			t.Errorf("the daemon was %d and is %d", daemon, pid)
		}
		// The domain's name can be used again, and the agent's after rm.
		in.ok(t, "rm", "victim")
		if got := in.sh(t, "echo again", "--domain", "one", "--name", "victim"); got != "again\n" {
			t.Errorf("%q", got)
		}
		// Both at once: the next daemon says what was lost, and cleans up.
		kernel := in.process(t, "kernel", "two")
		kill9(t, daemon)
		kill9(t, kernel)
		if a := in.inspect(t, "bystander"); a.State != "lost" {
			t.Errorf("%+v", a)
		}
		if got := in.sh(t, "echo again", "--domain", "two"); got != "again\n" {
			t.Errorf("%q", got)
		}
	})
}

func TestDomainStop(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		in.spawn(t, "--name", "a", "--domain", "one", "--", "sleep", "1000")
		in.spawn(t, "--name", "b", "--domain", "two", "--", "sleep", "1000")
		if r := in.run(t, "domain", "stop", "one"); r.status != 125 || !strings.Contains(string(r.stderr), "fix: ") {
			t.Errorf("a domain with agents: %s", r)
		}
		if got := strings.TrimSpace(string(in.ok(t, "domain", "stop", "-f", "one"))); got != "a" {
			t.Errorf("%q", got)
		}
		if a := in.inspect(t, "a"); a.State != "exited" || a.Exit.Status != 137 || !strings.Contains(a.Exit.Reason, "stopped") {
			t.Errorf("%+v", a)
		}
		if a := in.inspect(t, "b"); a.State != "running" {
			t.Errorf("%+v", a)
		}
		// The name is free at once.
		if got := in.sh(t, "echo again", "--domain", "one"); got != "again\n" {
			t.Errorf("%q", got)
		}
		// A daemon that ends by itself leaves agents alone.
		if got := strings.TrimSpace(string(in.ok(t, "daemon", "stop"))); !strings.Contains(got, "b") {
			t.Errorf("daemon stop does not say what goes on: %q", got)
		}
		in.ok(t, "exec", "b", "--", "true")
	})
}

func TestClientKilled(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		c := in.startAgent(t, "--name", "watched", "--", "sh", "-c", counter)
		c.stdout.expect(t, "3\n")
		e := in.start(t, "exec", "watched", "--", "sh", "-c", "echo ready; exec sleep 1000")
		e.stdout.expect(t, "ready\n")
		c.signal(syscall.SIGKILL)
		e.signal(syscall.SIGKILL)
		c.wait()
		in.countsOn(t, "watched")
		if all := in.ps(t); len(all) != 1 || all[0].State != "running" {
			t.Errorf("%+v", all)
		}
		// A client that stops reading holds nobody else up.
		slow := in.start(t, "attach", "--no-stdin", "watched")
		slow.stdout.expect(t, "\n")
		slow.signal(syscall.SIGSTOP)
		in.countsOn(t, "watched")
		in.ok(t, "kill", "watched")
		if r := in.run(t, "wait", "watched"); r.status != 137 && r.status != 125 {
			t.Errorf("%s", r)
		}
		slow.signal(syscall.SIGCONT)
		slow.wait()
	})
}

func TestTenClients(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		var wg sync.WaitGroup
		for i := range 10 { // They find no daemon: one of them starts it.
			wg.Add(1)
			go func() {
				defer wg.Done()
				for n := range 5 {
					want := fmt.Sprintf("%d of %d\n", n, i)
					r, err := in.try("sh", "-c", fmt.Sprintf("echo %d of %d; exit %d", n, i, i))
					if err != nil || r.status != i || string(r.stdout) != want {
						t.Errorf("%v %s", err, r)
					}
				}
			}()
		}
		wg.Wait()
		var daemons int
		for _, p := range in.processes() {
			if len(p.args) > 1 && p.args[1] == "serve" {
				daemons++
			}
		}
		if daemons != 1 {
			t.Errorf("%d daemons", daemons)
		}
		if all := in.ps(t, "-a"); len(all) != 0 {
			t.Errorf("%+v", all)
		}
	})
}
