package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/config"
	"aios.dev/aios/event"
	"aios.dev/aios/ktime"
	"aios.dev/aios/test/natsserver"
	"aios.dev/aios/test/ntpserver"
)

// ofDaemon are what the daemon publishes itself: no kernel process has them, so
// they are not seen inside.
var ofDaemon = []string{
	"agent.restart", "agent.lost", "domain.*", "kernel.dump", "health.*", "breaker.*", "config.changed", "clock.*", "sink.*", "daemon.*", "alert.*", "hook.*",
}

// doors are the ways to events, each with the topics that were seen there.
type doors struct {
	mu   sync.Mutex
	seen map[string]map[string]bool // guarded by mu
}

func (d *doors) note(door, topic string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.seen[door] == nil {
		d.seen[door] = make(map[string]bool)
	}
	d.seen[door][topic] = true
}

// watchPreamble begins programs that watch in the ways of their arguments, each
// SEVERITY:QUEUE.
const watchPreamble = `
import sys, threading
choices = [a.split(":") for a in sys.argv[1:]]
started = threading.Barrier(len(choices) + 1)
seen, lock = set(), threading.Lock()
def note(topic):
    with lock:
        if topic not in seen:
            seen.add(topic)
            print(topic, flush=True)
`

// watchers are programs that print each topic that they see, once: by the file, by
// the module for Python and by that for Go. Their agents are called after the door
// and suffix.
func (in *install) watchers(t *testing.T, suffix, choices string) {
	t.Helper()
	dir := in.share(t, map[string][]byte{
		"file.py": []byte(watchPreamble + `
import json, os, select
poll = select.poll()
for severity, queue in choices:
    f = os.open("/aios/events", os.O_RDWR | os.O_NONBLOCK)
    os.write(f, f"topics=* severity={severity} queue={queue}".encode())
    poll.register(f, select.POLLIN)
print("listens", flush=True)
while True:
    for f, _ in poll.poll():
        for line in os.read(f, 1 << 20).splitlines():
            note(json.loads(line)["type"].removeprefix("dev.aios."))`),
		"module.py": []byte(watchPreamble + `
sys.path.insert(0, "/aios/lib")
import aios
def watch(severity, queue):
    with aios.events("*", severity=severity, queue=int(queue)) as events:
        started.wait()
        for e in events:
            note(e.topic)
for choice in choices:
    threading.Thread(target=watch, args=choice).start()
started.wait()
print("listens", flush=True)`),
	})
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "watch"), "./testdata/watch")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for door, program := range insideDoors {
		name := door + suffix
		in.spawn(t, append([]string{"--name", name, "--grant", "event:*", "--mount", dir + ":/d", "--"}, strings.Fields(program+" "+choices)...)...)
		eventually(t, name+" listens", 20*time.Second, func() (bool, string) {
			out := string(in.ok(t, "logs", name))
			return strings.Contains(out, "listens"), out
		})
	}
}

// insideDoors are the doors inside, each with the program that looks there.
var insideDoors = map[string]string{"file": "python3 /d/file.py", "python": "python3 /d/module.py", "go": "/d/watch"}

// TestEveryEvent brings about, through what really causes it, everything that can
// be published, and looks for it at every door.
func TestEveryEvent(t *testing.T) {
	need(t, "python3", "gcc", "gdb")
	t.Parallel()
	in := newInstall(t, platforms()[0])
	in.env = append(in.env, abi.ChaosEnv+"=1")
	d := &doors{seen: make(map[string]map[string]bool)}

	web, server := newWebReceiver(t), natsserver.Start(t)
	nc, err := nats.Connect(server.URL)
	must(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	must(t, err)
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "AIOS", Subjects: []string{"aios.>"}})
	must(t, err)
	sinks := `version: 1
sinks:
  - name: web
    webhook: {url: 'http://` + web.addr + `/in', mode: batched}
  - name: bus
    nats: {servers: ['` + server.URL + `'], jetstream: true}
alerts:
  - name: quarantined
    on: [agent.quarantine]
    rate: {above: 0, within: 2s}
hooks:
  - {name: no, on: [spawn], agents: [unwanted], before: true, command: [` + in.script(t, "no", "echo unwanted >&2; exit 1") + `]}
  - {name: hangs, on: [spawn], agents: [unlucky], before: true, command: [` + in.script(t, "hangs", "sleep 1000") + `], timeout: 100ms}
`
	in.config(t, sinks)
	in.ok(t, "daemon", "start")
	// What is made by the thousand is watched later: it would slow the storm of
	// faults until it is none, and hide the rest. One queue is short, so that
	// something is missed.
	in.watchers(t, "", "notice:4096")
	in.causeOfStorm(t)
	f := in.follow(t, "--topic", "*")
	in.watchAPI(t, d)
	in.watchers(t, "-all", "debug:4096 debug:1")

	in.causeOfAgents(t, f)
	in.causeOfFaults(t)
	in.causeOfKernel(t, f)
	in.hearLess(t)
	in.causeOfLoss(t)
	in.causeOfDaemon(t, web, sinks)

	past := func() {
		for _, e := range f.all() {
			d.note("command", e.topic())
		}
		for line := range strings.SplitSeq(strings.TrimSpace(string(in.ok(t, "events", "-o", "json"))), "\n") {
			var e eventLine
			must(t, json.Unmarshal([]byte(line), &e))
			d.note("command", e.topic())
		}
		for door := range insideDoors {
			for topic := range strings.FieldsSeq(string(in.ok(t, "logs", door)) + string(in.ok(t, "logs", door+"-all"))) {
				d.note(door, topic)
			}
		}
		web.mu.Lock()
		for _, e := range web.got {
			d.note("webhook", e.topic())
		}
		web.mu.Unlock()
		s, err := js.Stream(t.Context(), "AIOS")
		must(t, err)
		info, err := s.Info(t.Context(), jetstream.WithSubjectFilter("aios.>"))
		must(t, err)
		for subject := range info.State.Subjects {
			d.note("nats", strings.TrimPrefix(subject, "aios."))
		}
	}
	eventually(t, "everything is seen everywhere", time.Minute, func() (bool, string) {
		past()
		missing := d.missing()
		return len(missing) == 0, strings.Join(missing, "\n")
	})
}

// watchAPI watches by the API, again when the daemon is another.
func (in *install) watchAPI(t *testing.T, d *doors) {
	t.Helper()
	paths, err := config.Resolve(in.state)
	must(t, err)
	ready := make(chan struct{})
	var once sync.Once
	watch := func() error {
		c, err := client.Dial(t.Context(), client.Options{Paths: paths, NoStart: true})
		if err != nil {
			return err
		}
		defer c.Close()
		stream, err := c.Watch(t.Context(), &apiv1.WatchRequest{Topics: []string{"*"}, FromCursor: 1})
		for err == nil {
			var m *apiv1.WatchResponse
			if m, err = stream.Recv(); err == nil && m.GetEvent() != nil {
				d.note("api", m.GetEvent().GetTopic())
			}
			if m.GetReady() {
				once.Do(func() { close(ready) })
			}
		}
		return err
	}
	var done sync.WaitGroup
	done.Go(func() {
		for t.Context().Err() == nil {
			watch() // It ends with the daemon.
			time.Sleep(20 * time.Millisecond)
		}
	})
	t.Cleanup(done.Wait)
	select {
	case <-ready:
	case <-time.After(patience):
		t.Fatal("the API does not listen")
	}
}

// missing says what was not seen at which door.
func (d *doors) missing() (out []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	notInside, err := event.Select(ofDaemon)
	if err != nil {
		return []string{err.Error()}
	}
	for _, info := range event.Types() {
		if (info.Type == event.CPUChanged || info.Type == event.CPUMissed || info.Type == event.CPUOverrun) && runtime.NumCPU() == 1 {
			continue // There is no other.
		}
		where := []string{"command", "api"}
		if !info.OnDemand { // Sinks read the journal.
			where = append(where, "webhook", "nats")
		}
		// Who listens inside falls with the domain.
		if !notInside.Has(info.Type) && info.Type != event.FaultTriple {
			for door := range insideDoors {
				where = append(where, door)
			}
		}
		for _, door := range where {
			if !d.seen[door][info.Topic] {
				out = append(out, info.Topic+" was not seen: "+door)
			}
		}
	}
	slices.Sort(out)
	return out
}

// published waits until the journal has an event of a topic. A follower may be too
// slow for it.
func (in *install) published(t *testing.T, topic string) {
	t.Helper()
	eventually(t, topic, 30*time.Second, func() (bool, string) { return len(in.past(t, topic)) > 0, "" })
}

// causeOfAgents brings about what agents do and what is done to them.
func (in *install) causeOfAgents(t *testing.T, f *follower) {
	t.Helper()
	dir := in.share(t, map[string][]byte{"in": []byte("x\n")})
	in.spawn(t, "--name", "busy", "--limit", "memory=1G", "--", "sh", "-c", `cd /tmp; echo x >f; mkdir d; mv f d/g; rm d/g
		: </dev/null; sleep 1000 & kill $!; python3 -c "import threading; t=threading.Thread(target=print); t.start(); t.join()"; sleep 1000`)
	f.wait(t, "agent.thread", nil)
	in.ok(t, "cap", "grant", "busy", "mem:self,bytes=100M")
	in.spawn(t, "--name", "other", "--", "sleep", "1000")
	in.ok(t, "cap", "grant", "busy", "fs:"+dir+":ro,at=/data,lease=1h")
	c := in.capOf(t, "busy", "fs:").ID
	in.ok(t, "cap", "renew", c, "2h")
	in.ok(t, "cap", "delegate", c, "other", "--at", "/data", "--lease", "200ms")
	in.published(t, "capability.expire")
	in.ok(t, "cap", "attenuate", c, "--lease", "1h")
	in.ok(t, "cap", "seal", c)
	in.ok(t, "cap", "revoke", c)
	in.ok(t, "fabric", "create", "--size", "1M", "table")
	in.ok(t, "fabric", "share", "table", "busy")
	in.ok(t, "exec", "busy", "--", "head", "-c", "1", "/aios/fabric/table")
	in.ok(t, "fabric", "revoke", "table", "busy")
	in.ok(t, "fabric", "snapshot", "table")
	in.ok(t, "fabric", "rollback", "table", "1")
	in.ok(t, "fabric", "seal", "table")
	in.ok(t, "fabric", "rm", "table")
	in.ok(t, "cap", "grant", "busy", "semantic:*")
	in.ok(t, "exec", "busy", "--", "python3", "-c", memoryClient+`
m.ask("put", namespace="n", id="x", text="cat")
m.ask("search", text="cat")
m.ask("delete", namespace="n", ids=["x"])`)
	in.ok(t, "pause", "busy")
	in.ok(t, "resume", "busy")
	in.ok(t, "clock", "set", "busy", "offset=1h")
	in.ok(t, "clone", "busy", "--name", "busy-copy")
	in.ok(t, "merge", "busy-copy")
	in.ok(t, "template", "create", "busy-template", "--", "cat")
	in.ok(t, "rm", "-f", strings.TrimSpace(string(in.ok(t, "specialize", "busy"))))
	in.ok(t, "upgrade", in.spawn(t, "--", "sleep", "1000"), "--image", "host", "--timeout", "100ms")
	pair := in.spawn(t, "--", "sh", "-c", "sleep 1000 & wait; sleep 1000")
	eventually(t, "its second process leaves", 20*time.Second, func() (bool, string) {
		r := in.run(t, "split", pair, "--pid", "2")
		return r.status == 0, r.String()
	})
	in.ok(t, "kill", "busy")
	in.spawn(t, "--name", "again", "--restart", "on-failure:1", "--", "sh", "-c", "exit 3")
	in.published(t, "agent.restart")

	in.spawn(t, "--grant", "net:loopback", "--", "python3", "-c", `
import socket
s = socket.socket(); s.bind(("127.0.0.1", 8000)); s.listen(5)
c = socket.socket(); c.connect(("127.0.0.1", 8000)); a, _ = s.accept(); a.close(); c.close()
try: socket.socket().connect(("127.0.0.1", 9))
except OSError: pass`)
	in.published(t, "net.refused")
	in.spawn(t, "--limit", "memory=64M", "--", "python3", "-c", "x = [b\"x\" * (1 << 20) for _ in range(5000)]")
	in.published(t, "memory.oom")
	in.spawn(t, "--name", "sleeps", "--", "sleep", "1000")
	eventually(t, "it is idle", patience, func() (bool, string) {
		r := in.run(t, "hibernate", "sleeps")
		return r.status == 0, r.String()
	})
	in.published(t, "memory.hibernate")
	in.spawn(t, "--name", "swaps", "--limit", "memory=64M", "--", "python3", "-c", `
import time
x = []
while True:
    time.sleep(0.05)
    if len(x) < 80: x.append(b"x" * (1 << 20))`)
	in.ok(t, "vm", "set", "swaps", "swap=256M")
	in.published(t, "memory.swap")
	in.ok(t, "rm", "-f", "swaps")
	in.ok(t, "rm", "-f", "sleeps")
	in.spawn(t, "--name", "spins", "--limit", "cpu=0.1", "--", "python3", "-c", "while True: pass")
	in.spawnDebuggee(t)
	in.gdbScript(t, "target remote | aiosctl debug debuggee --gdb -", "detach")
	in.ok(t, "rm", "-f", "debuggee")
	in.published(t, "cpu.throttled")
	in.ok(t, "sched", "set", "spins", "weight=50")
	in.ok(t, "hint", "spins", "batch")
	in.published(t, "cpu.params")
	in.published(t, "cpu.hint")
	if _, allowed := allowedCPUs(t); len(allowed) > 1 {
		pid := in.process(t, "kernel", "default")
		// They fit on two CPUs, and not on one.
		for i := range 3 {
			in.spawn(t, "--name", fmt.Sprint("promised", i), "--cpu", "deadline=50ms/100ms", "--", "python3", "-c", "while True: pass")
		}
		in.published(t, "cpu.overrun")
		setAffinity(t, pid, allowed[:1])
		in.published(t, "cpu.changed")
		in.published(t, "cpu.missed")
		setAffinity(t, pid, allowed)
		in.ok(t, "rm", "-f", "promised0", "promised1", "promised2")
	}
	f.wait(t, "memory.faults", nil)
	in.ok(t, "rm", "-f", "spins")
}

// causeOfStorm brings about a storm of faults.
func (in *install) causeOfStorm(t *testing.T) {
	t.Helper()
	in.spawn(t, "--name", "storm", "--mount", in.program(t, "faults")+":/f", "--", "/f/faults", "storm")
	eventually(t, "a thousand faults within a second", 4*time.Minute, func() (bool, string) { return len(in.past(t, "fault.storm")) > 0, "" })
	in.ok(t, "rm", "-f", "storm")
}

// causeOfFaults brings about what programs do wrong.
func (in *install) causeOfFaults(t *testing.T) {
	t.Helper()
	dir := in.program(t, "faults")
	run := func(kind string, flags ...string) {
		in.spawn(t, append(append([]string{"--mount", dir + ":/f"}, flags...), "--", "/f/faults", kind)...)
	}
	run("null", "--on-fault", "dump")
	run("double")
	in.spawn(t, "--grant", "net:loopback", "--on-violation", "quarantine", "--", "python3", "-c",
		"import ctypes; ctypes.CDLL(None).syscall(246, 0, 0, 0, 0)")
	in.published(t, "agent.quarantine")
	in.published(t, "alert.fire")
	in.published(t, "alert.resolve")
	in.spawn(t, "--name", "sleeper", "--domain", "winter", "--", "sleep", "1000")
	in.ok(t, "domain", "hibernate", "winter")
	in.published(t, "domain.checkpoint")
	in.ok(t, "domain", "restore", "winter")
	in.published(t, "domain.restore")
	in.ok(t, "domain", "stop", "-f", "winter")

	run("opcode", "--domain", "doomed", "--on-fault", "kill-domain")
	in.published(t, "fault.triple")
	in.published(t, "domain.crash")
	in.published(t, "agent.lost")
	in.published(t, "kernel.dump")

	in.spawn(t, "--name", "hung", "--watchdog", "1s", "--on-watchdog", "kill-agent", "--", "sleep", "1000")
	in.published(t, "watchdog.expired")
}

// causeOfKernel brings about what kernel processes say of themselves.
func (in *install) causeOfKernel(t *testing.T, f *follower) {
	t.Helper()
	dir := in.program(t, "chaos")
	in.run(t, "run", "--mount", dir+":/f", "--", "/f/chaos", "39", "1")
	in.published(t, "kernel.panic")
	f.wait(t, "kernel.log", nil)

	in.ok(t, "irq", "limit", "net-rx", "200")
	in.spawn(t, "--name", "stormy", "--grant", "net:loopback", "--", "python3", "-c", flood)
	in.published(t, "irq.throttle")
	in.ok(t, "rm", "-f", "stormy")
	f.wait(t, "net.packet", nil)

	// Nothing of the kernel process runs for longer than a lock may be held.
	in.spawn(t, "--name", "runs", "--", "sh", "-c", counter)
	pid := in.process(t, "kernel", "default")
	began := time.Now()
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	defer syscall.Kill(pid, syscall.SIGCONT)
	eventually(t, "it does not answer", 30*time.Second, func() (bool, string) {
		return slices.ContainsFunc(in.past(t, "health.degraded"), func(e eventLine) bool { return e.Data["component"] == "domain default" }), ""
	})
	time.Sleep(time.Until(began.Add(15 * time.Second)))
	must(t, syscall.Kill(pid, syscall.SIGCONT))
	in.published(t, "kernel.lockup")
}

// hearLess ends those who hear all, who would slow down what writes much, when they
// have seen what nobody else hears inside.
func (in *install) hearLess(t *testing.T) {
	t.Helper()
	notInside, err := event.Select(ofDaemon)
	must(t, err)
	for door := range insideDoors {
		eventually(t, door+" has seen the small things", time.Minute, func() (bool, string) {
			seen := strings.Fields(in.wrote(t, door+"-all", 0))
			for _, info := range event.Types() {
				if info.Severity < event.Notice && !notInside.Has(info.Type) && !slices.Contains(seen, info.Topic) {
					return false, info.Topic
				}
			}
			return true, ""
		})
		in.ok(t, "kill", door+"-all")
	}
}

// causeOfLoss has more happen than there is room for while nobody takes it away.
// The kernel process tries to send for five seconds, and then keeps what it can.
func (in *install) causeOfLoss(t *testing.T) {
	t.Helper()
	dir := in.share(t, nil)
	written := func() int {
		raw, _ := os.ReadFile(filepath.Join(dir, "thousands"))
		return len(raw)
	}
	deep := "/tmp" + strings.Repeat("/"+strings.Repeat("x", 250), 15) // Events are large.
	in.spawn(t, "--name", "writer", "--mount", dir+":/p:rw", "--", "sh", "-c",
		"mkdir -p "+deep+"; while :; do dd if=/dev/zero of="+deep+"/x bs=1 count=1000; echo >>/p/thousands; done")
	serve := in.process(t, "serve")
	defer syscall.Kill(serve, syscall.SIGCONT)
	lost := false
	for round := 0; !lost; round++ {
		if round == 4 {
			t.Fatal("nothing was lost")
		}
		must(t, syscall.Kill(serve, syscall.SIGSTOP))
		began, before := time.Now(), written()
		eventually(t, "enough is written", 2*time.Minute, func() (bool, string) {
			n := written() - before
			return n >= 12 && time.Since(began) > 5500*time.Millisecond, fmt.Sprint(n)
		})
		must(t, syscall.Kill(serve, syscall.SIGCONT))
		in.countsOn(t, "runs") // It was cut off, and is back.
		for end := time.Now().Add(3 * time.Second); !lost && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			lost = len(in.past(t, "bus.lost")) > 0
		}
	}
	in.ok(t, "rm", "-f", "writer")
}

// causeOfDaemon brings about what the daemon says of itself. The daemon that it
// leaves is another than before.
func (in *install) causeOfDaemon(t *testing.T, web *webReceiver, sinks string) {
	t.Helper()
	in.config(t, sinks+"log: {levels: agent=debug}\n")
	in.ok(t, "daemon", "reload")
	for _, name := range []string{"unwanted", "unlucky"} {
		if r := in.run(t, "spawn", "--name", name, "--", "true"); r.status != 125 {
			t.Errorf("%s was spawned: %s", name, r)
		}
	}
	in.spawn(t, "--domain", "steady", "--restart", "always", "--", "sleep", "1000")
	kill9(t, in.process(t, "kernel", "steady"))
	in.published(t, "domain.restart")
	in.ok(t, "domain", "stop", "--force", "steady")
	web.down()
	in.spawn(t, "--", "true")
	in.published(t, "breaker.open")
	in.published(t, "sink.failed")
	web.up()
	in.published(t, "breaker.close")
	in.published(t, "sink.restored")
	clock := ntpserver.Start(t, ktime.Real)
	clock.Set(ntpserver.Behaviour{Offset: time.Second})
	in.config(t, sinks+"time: {servers: ['"+clock.Addr+"']}\n")
	in.ok(t, "daemon", "reload")
	in.published(t, "clock.synced")
	in.published(t, "clock.stepped")
	clock.Set(ntpserver.Behaviour{Kiss: "DENY"})
	for range 3 {
		in.ok(t, "time", "sync")
	}
	in.ok(t, "daemon", "stop")
	in.ok(t, "daemon", "start")
	in.published(t, "clock.lost")
}
