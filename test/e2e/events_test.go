package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// eventLine is a line of `events -o json`.
type eventLine struct {
	ID, Source, Type, Subject, Time string
	Severity                        string `json:"aiosseverity"`
	Correlation                     string `json:"aioscorrelation"`
	Data                            map[string]any
}

func (e *eventLine) topic() string { return strings.TrimPrefix(e.Type, "dev.aios.") }

// follower is `aiosctl events -f -o json` at work.
type follower struct {
	cmd *exec.Cmd

	mu   sync.Mutex
	seen []eventLine
}

// follow starts a follower and returns when it listens.
func (in *install) follow(t *testing.T, args ...string) *follower {
	t.Helper()
	f := &follower{cmd: in.command(t.Context(), append([]string{"events", "-f", "-o", "json"}, args...)...)}
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	f.cmd.Stderr = os.Stderr
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var e eventLine
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				t.Errorf("not JSON: %v: %s", err, lines.Bytes())
				continue
			}
			f.mu.Lock()
			f.seen = append(f.seen, e)
			f.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		f.cmd.Process.Signal(syscall.SIGINT)
		<-done
		f.cmd.Wait()
	})
	eventually(t, "it listens", 20*time.Second, func() (bool, string) {
		st := in.eventStats(t)
		return slices.ContainsFunc(st.Subscribers, func(s subscriberStats) bool { return s.Name == "aiosctl" }), fmt.Sprint(st)
	})
	return f
}

type subscriberStats struct {
	Name                     string
	Waiting, Delivered, Lost uint64
}

type eventStats struct {
	Topics      map[string]uint64
	Subscribers []subscriberStats
	Durable     []struct {
		Name   string
		Behind uint64
	}
	Journal struct{ Lost uint64 }
	Twice   uint64
}

func (in *install) eventStats(t testing.TB) (st eventStats) {
	t.Helper()
	if err := json.Unmarshal(in.ok(t, "events", "stats", "-o", "json"), &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// all returns the events so far.
func (f *follower) all() []eventLine {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.seen)
}

// wait returns the first event of a topic that match accepts.
func (f *follower) wait(t testing.TB, topic string, match func(eventLine) bool) eventLine {
	t.Helper()
	var found eventLine
	eventually(t, topic, 20*time.Second, func() (bool, string) {
		all := f.all()
		i := slices.IndexFunc(all, func(e eventLine) bool { return e.topic() == topic && (match == nil || match(e)) })
		if i < 0 {
			var topics []string
			for _, e := range all[max(0, len(all)-200):] {
				if e.topic() == "file.open" && topic != "file.open" {
					continue
				}
				topics = append(topics, fmt.Sprint(e.topic(), e.Data))
			}
			return false, strings.Join(topics, "\n")
		}
		found = all[i]
		return true, ""
	})
	return found
}

// TestEvents causes every kind of event that the kernel makes, and sees it.
func TestEvents(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		need(t, "python3")
		in.ok(t, "daemon", "start")
		f := in.follow(t, "--topic", "*")
		dir := in.share(t, map[string][]byte{"in": []byte("q3\n")})

		busy := in.spawn(t, "--name", "busy", "--", "sh", "-c", `cd /tmp; echo x >f; mkdir d; mv f d/g; ln -s a l; rm d/g; rmdir d
			: </dev/null; sleep 1000 & kill $!; python3 -c "import threading; t=threading.Thread(target=print); t.start(); t.join()"; sleep 1000`)
		of := about
		spawned := f.wait(t, "agent.spawn", of(busy, "name", "busy"))
		if spawned.Source != "/aios/default/"+busy || spawned.Severity != "info" || spawned.Correlation == "" {
			t.Errorf("%+v", spawned)
		}
		f.wait(t, "domain.start", nil)
		f.wait(t, "agent.fork", of(busy))
		f.wait(t, "agent.exec", of(busy, "path", "/usr/bin/mkdir"))
		f.wait(t, "agent.thread", of(busy))
		f.wait(t, "agent.signal", of(busy, "signal_name", "SIGTERM", "from_agent", busy))
		f.wait(t, "file.open", of(busy, "path", "/tmp/f"))
		f.wait(t, "file.create", of(busy, "path", "/tmp/f", "kind", "file"))
		f.wait(t, "file.create", of(busy, "path", "/tmp/d", "kind", "directory"))
		f.wait(t, "file.create", of(busy, "path", "/tmp/l", "kind", "symlink"))
		f.wait(t, "file.write", of(busy, "path", "/tmp/f", "bytes", "2"))
		f.wait(t, "file.rename", of(busy, "path", "/tmp/f", "new_path", "/tmp/d/g"))
		f.wait(t, "file.remove", of(busy, "path", "/tmp/d/g"))
		f.wait(t, "file.remove", of(busy, "path", "/tmp/d", "directory", "true"))
		f.wait(t, "device.open", of(busy, "path", "/dev/null"))

		in.ok(t, "cap", "grant", "busy", "fs:"+dir+":ro,at=/data")
		granted := f.wait(t, "capability.grant", of(busy))
		id := fmt.Sprint(granted.Data["id"])
		f.wait(t, "file.mount", of(busy, "target", "/data"))
		in.ok(t, "cap", "attenuate", id, "--lease", "1h")
		f.wait(t, "capability.attenuate", of(busy))
		in.ok(t, "cap", "revoke", id)
		f.wait(t, "capability.revoke", of(busy, "id", id))
		f.wait(t, "file.unmount", of(busy, "target", "/data"))
		in.ok(t, "cap", "grant", "busy", "fs:"+dir+":ro,at=/data,lease=200ms")
		f.wait(t, "capability.expire", of(busy))
		in.ok(t, "pause", "busy")
		f.wait(t, "agent.pause", of(busy))
		in.ok(t, "resume", "busy")
		f.wait(t, "agent.resume", of(busy))
		in.ok(t, "exec", "busy", "--", "true")
		f.wait(t, "agent.exec", of(busy, "from_outside", "true"))
		in.ok(t, "kill", "busy")
		f.wait(t, "agent.kill", of(busy))
		f.wait(t, "agent.exit", of(busy, "signal", "9"))

		net := in.spawn(t, "--grant", "net:loopback", "--", "python3", "-c", `
import socket
s = socket.socket(); s.bind(("127.0.0.1", 8000)); s.listen(5)
c = socket.socket(); c.connect(("127.0.0.1", 8000)); a, _ = s.accept(); a.close(); c.close()
try: socket.socket().connect(("127.0.0.1", 9))
except OSError: pass`)
		f.wait(t, "net.listen", of(net, "local", "127.0.0.1:8000", "protocol", "tcp"))
		f.wait(t, "net.connect", of(net, "remote", "127.0.0.1:8000"))
		f.wait(t, "net.accept", of(net, "local", "127.0.0.1:8000"))
		f.wait(t, "net.disconnect", of(net, "remote", "127.0.0.1:8000"))
		f.wait(t, "net.refused", of(net, "remote", "127.0.0.1:9", "by", "peer", "errno", "ECONNREFUSED"))

		bad := in.spawn(t, "--", "python3", "-c", `
import ctypes, socket
libc = ctypes.CDLL(None); libc.syscall(246, 0, 0, 0, 0)
try: socket.socket()
except OSError: pass`)
		f.wait(t, "security.violation", of(bad, "syscall", "kexec_load", "kind", "capability"))
		f.wait(t, "capability.deny", of(bad, "operation", "socket"))
		f.wait(t, "net.refused", of(bad, "by", "capability"))

		hog := in.spawn(t, "--limit", "memory=64M", "--", "python3", "-c", "x = [b\"x\" * (1 << 20) for _ in range(5000)]")
		f.wait(t, "limit.hard", of(hog, "resource", "memory"))
		f.wait(t, "limit.soft", of(hog, "resource", "memory"))
		f.wait(t, "memory.pressure", of(hog))
		f.wait(t, "memory.oom", of(hog))
		f.wait(t, "bus.subscribe", nil)
	})
}

// TestEventsOfTheDaemon causes what the daemon itself publishes, kills it while
// events come, and looks for each event afterwards.
func TestEventsOfTheDaemon(t *testing.T) {
	t.Parallel()
	in := newInstall(t, platforms()[0])
	in.ok(t, "daemon", "start")
	const agents = 30
	durable := func() []eventLine {
		var out []eventLine
		raw := in.ok(t, "events", "-o", "json")
		for _, line := range strings.Split(strings.TrimSpace(string(raw)), "\n") {
			var e eventLine
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			out = append(out, e)
		}
		return out
	}
	id := in.spawn(t, "--", "sh", "-c", fmt.Sprintf("for i in $(seq %d); do /bin/true; sleep 0.05; done; sleep 1000", agents))
	time.Sleep(500 * time.Millisecond)
	kill9(t, in.process(t, "serve"))
	time.Sleep(500 * time.Millisecond)
	in.ok(t, "daemon", "start")
	eventually(t, "every program is in the journal", 30*time.Second, func() (bool, string) {
		pids := make(map[string]int)
		for _, e := range durable() {
			if e.topic() == "agent.exec" && e.Subject == id && (e.Data["path"] == "/usr/bin/true" || e.Data["path"] == "/bin/true") {
				pids[e.ID]++
			}
		}
		for id, n := range pids {
			if n > 1 {
				t.Fatalf("event %s is %d times in the journal", id, n)
			}
		}
		return len(pids) == agents, fmt.Sprintf("%d of %d", len(pids), agents)
	})
	var starts, adopts int
	for _, e := range durable() {
		switch e.topic() {
		case "daemon.start":
			starts++
			if crash := e.Data["after_crash"] == true; crash != (starts == 2) {
				t.Errorf("start %d: %+v", starts, e)
			}
		case "domain.adopt":
			adopts++
		case "bus.lost":
			t.Errorf("events were lost: %+v", e)
		}
	}
	if starts != 2 || adopts != 1 {
		t.Errorf("%d starts, %d adoptions", starts, adopts)
	}

	// A durable subscriber goes on where it was.
	read := func(n int) []string {
		t.Helper()
		cmd := in.command(t.Context(), "events", "--durable", "billing", "--topic", "agent.exit", "-o", "json")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			cmd.Process.Signal(syscall.SIGINT)
			cmd.Wait()
		}()
		var ids []string
		lines := bufio.NewScanner(out)
		for len(ids) < n && lines.Scan() {
			var e eventLine
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, e.Subject)
		}
		eventually(t, "it is acknowledged", 10*time.Second, func() (bool, string) {
			st := in.eventStats(t)
			return len(st.Durable) == 1, fmt.Sprint(st.Durable)
		})
		time.Sleep(100 * time.Millisecond)
		return ids
	}
	read(0)
	var want []string
	for range 3 {
		want = append(want, in.spawn(t, "--", "true"))
		in.ok(t, "wait", want[len(want)-1])
	}
	got := read(3)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the durable subscriber got %v of %v", got, want)
	}
	last := in.spawn(t, "--", "true")
	if again := read(1); len(again) != 1 || again[0] != last {
		t.Errorf("after it had acknowledged it got %v, not %s", again, last)
	}

	// A domain that dies takes its agents along, each with an event.
	doomed := in.spawn(t, "--domain", "doomed", "--", "sleep", "1000")
	f := in.follow(t)
	kill9(t, in.process(t, "kernel", "doomed"))
	f.wait(t, "domain.crash", func(e eventLine) bool { return e.Source == "/aios/doomed" })
	f.wait(t, "agent.lost", func(e eventLine) bool { return e.Subject == doomed })
	in.ok(t, "daemon", "stop", "--domains")
	raw, err := os.ReadDir(filepath.Join(in.state, "events", "journal"))
	if err != nil || len(raw) == 0 {
		t.Errorf("the journal: %v, %v", raw, err)
	}
}

// TestEventRefusals is what a subscriber who asks for nonsense is told.
func TestEventRefusals(t *testing.T) {
	t.Parallel()
	in := newInstall(t, platforms()[0])
	for _, c := range []struct{ args, want string }{
		{"--topic agnt.exit", "no event has this topic"},
		{"--topic agent.exitt", "agent.exit"},
		{"--severity loud", "write one of debug"},
		{"--filter topic=", "column"},
		{"--filter nothing=='x'", "variables are topic"},
		{"--sample 2", "name a share"},
		{"--rate -1", "name a rate"},
		{"--since yesterday", "neither a duration nor a time"},
		{"--agent nobody", "no agent"},
		{"--durable x --topic file.write", "not kept"},
		{"-f --policy wait", "drop-oldest"},
	} {
		r := in.run(t, append([]string{"events"}, strings.Fields(c.args)...)...)
		if r.status == 0 || !strings.Contains(string(r.stderr), c.want) {
			t.Errorf("events %s: %s", c.args, r)
		}
	}
}
