package e2e

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// irqLine is a line of `irq -o json`.
type irqLine struct {
	Name                                       string
	Count, Dropped, Deferred, Storms, Priority uint64
	Counts                                     []uint64
	CPUs                                       string
	Masked                                     bool
	Pending                                    int
	Stormy                                     []string
	Latency                                    struct{ Count, P50, P99, Max int64 }
}

// irqs returns the lines of a domain, by name.
func (in *install) irqs(t testing.TB, args ...string) map[string]irqLine {
	t.Helper()
	var got struct{ Lines []irqLine }
	if err := json.Unmarshal(in.ok(t, append([]string{"irq", "ls", "-o", "json"}, args...)...), &got); err != nil {
		t.Fatal(err)
	}
	lines := make(map[string]irqLine)
	for _, l := range got.Lines {
		lines[l.Name] = l
	}
	return lines
}

// procInterrupts reads /proc/interrupts of an agent: a line's name, or the letters
// that Linux gives it, and its sum.
func (in *install) procInterrupts(t testing.TB, agent string) map[string]uint64 {
	t.Helper()
	rows := strings.Split(strings.TrimSpace(string(in.ok(t, "exec", agent, "--", "cat", "/proc/interrupts"))), "\n")
	cpus := len(strings.Fields(rows[0]))
	out := make(map[string]uint64)
	for _, row := range rows[1:] {
		f := strings.Fields(row)
		name := strings.TrimSuffix(f[0], ":")
		if f[1+min(cpus, len(f)-2)] == "AIOS" {
			name = f[len(f)-1]
		}
		for _, n := range f[1 : 1+min(cpus, len(f)-1)] {
			v, err := strconv.ParseUint(n, 10, 64)
			if err != nil {
				t.Fatalf("%q: %v", row, err)
			}
			out[name] += v
		}
	}
	return out
}

// flood sends packets to itself as fast as it can, for as long as it lives.
const flood = `
import socket
a = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); a.bind(("127.0.0.1", 7000)); a.setblocking(False)
b = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("ready", flush=True)
while True:
    b.sendto(b"x", ("127.0.0.1", 7000))
    try: a.recv(10)
    except BlockingIOError: pass
`

// TestInterrupts has programs cause interrupts, changes what becomes of them, and
// lets a real storm rage.
func TestInterrupts(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		need(t, "python3")
		in.spawn(t, "--name", "quiet", "--", "sleep", "1000")
		in.spawn(t, "--name", "busy", "--grant", "net:loopback", "--", "sleep", "1000")
		before := in.procInterrupts(t, "quiet")
		in.ok(t, "exec", "busy", "--", "python3", "-c", `
import socket, time
for i in range(5): time.sleep(0.002)
s = socket.socket(); s.bind(("127.0.0.1", 8000)); s.listen(1)
c = socket.socket(); c.connect(("127.0.0.1", 8000)); a, _ = s.accept()
for i in range(10):
    c.sendall(b"x"); a.recv(1)
print("done")`)
		got := in.procInterrupts(t, "busy")
		if got["timer"] < 5 || got["net-rx"] < 13 || got["console"] < 1 || got["NMI"] != 0 {
			t.Errorf("what it caused: %v", got)
		}
		if _, ok := got["RES"]; !ok || got["ERR"] != 0 {
			t.Errorf("what it caused: %v", got)
		}
		if after := in.procInterrupts(t, "quiet"); after["net-rx"] != 0 || after["timer"] > before["timer"] {
			t.Errorf("its neighbour sees %v, and before %v", after, before)
		}
		all, own := in.irqs(t), in.irqs(t, "--agent", "busy")
		if all["net-rx"].Count < own["net-rx"].Count || own["net-rx"].Count < got["net-rx"] || own["control"].Count != 0 || all["control"].Count == 0 {
			t.Errorf("of all %+v, of one %+v", all, own)
		}
		if l := all["timer"].Latency; l.Count == 0 || l.P50 > l.P99 || l.P99 > l.Max || l.Max <= 0 {
			t.Errorf("%+v", l)
		}

		// Masked, packets wait; then they come.
		in.ok(t, "irq", "mask", "net-rx")
		ping := in.start(t, "exec", "busy", "--", "python3", "-c", `
import socket
a = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); a.bind(("127.0.0.1", 7001))
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"through", ("127.0.0.1", 7001))
print("sent", flush=True); print(a.recv(100))`)
		ping.stdout.expect(t, "sent")
		eventually(t, "it is pending", 10*time.Second, func() (bool, string) {
			l := in.irqs(t)["net-rx"]
			return l.Masked && l.Pending > 0, fmt.Sprintf("%+v", l)
		})
		in.ok(t, "irq", "unmask", "3")
		ping.stdout.expect(t, "through")
		if l := in.irqs(t)["net-rx"]; l.Masked || l.Pending != 0 || l.Latency.Count == 0 {
			t.Errorf("%+v", l)
		}
		ping.wait()

		// Routed to one CPU and back; what runs goes on.
		in.ok(t, "irq", "route", "net-rx", "0")
		in.ok(t, "irq", "priority", "net-rx", "7")
		in.ok(t, "exec", "busy", "--", "python3", "-c", "import socket\ns = socket.socket(); s.bind(('127.0.0.1', 8001)); s.listen(1)\nsocket.socket().connect(('127.0.0.1', 8001))")
		if l := in.irqs(t)["net-rx"]; l.CPUs != "0" || l.Priority != 7 || l.Deferred == 0 {
			t.Errorf("%+v", l)
		}
		in.ok(t, "irq", "route", "net-rx", "all")

		// A storm: more packets than the bound allows.
		f := in.follow(t)
		in.ok(t, "irq", "limit", "net-rx", "200")
		stormy := in.spawn(t, "--name", "stormy", "--grant", "net:loopback", "--", "python3", "-c", flood)
		e := f.wait(t, "irq.storm", about(stormy, "name", "net-rx", "limit", "200"))
		if e.Data["per_second"].(float64) <= 200 {
			t.Errorf("%+v", e)
		}
		f.wait(t, "irq.throttle", about(stormy, "name", "net-rx", "lifted", "<nil>"))
		if l := in.irqs(t)["net-rx"]; l.Storms == 0 || len(l.Stormy) != 1 || l.Stormy[0] != "stormy" {
			t.Errorf("%+v", l)
		}
		if out := string(in.ok(t, "irq")); !strings.Contains(out, "storm of stormy, polled") {
			t.Errorf("%s", out)
		}
		eventually(t, "what finds no room is dropped", 20*time.Second, func() (bool, string) {
			p := in.procInterrupts(t, "stormy")
			return p["ERR"] > 0, fmt.Sprint(p)
		})
		in.ok(t, "pause", "stormy")
		e = f.wait(t, "irq.throttle", about(stormy, "lifted", "true"))
		if e.Data["deferred"].(float64) == 0 || e.Data["lasted"].(float64) < float64(time.Second) {
			t.Errorf("%+v", e)
		}
		if l := in.irqs(t)["net-rx"]; len(l.Stormy) != 0 {
			t.Errorf("%+v", l)
		}
		in.ok(t, "rm", "-f", "stormy")
		if entries := in.audit(t, "--op", "irq"); len(entries) != 6 {
			t.Errorf("%+v", entries)
		}

		for _, c := range []struct{ args, want string }{
			{"mask timer", "console, net-rx, signal"},
			{"mask nosuch", "the lines are: timer"},
			{"route console 0", "net-rx, signal"},
			{"route net-rx 1000", "it has the CPUs 0"},
			{"route net-rx 4000", "the last is 1023"},
			{"route net-rx 1-", "write numbers and ranges"},
			{"priority net-rx 8", "from 0"},
			{"limit nmi 5", "those that have are"},
			{"limit net-rx -5", "how many a second"},
			{"mask", "the line is missing"},
			{"ls nosuch", "domain ls"},
			{"ls --agent nobody", "ps -a"},
			{"ls default elsewhere", "unexpected argument"},
		} {
			if r := in.run(t, append([]string{"irq"}, strings.Fields(strings.Replace(c.args, " -5", " -- -5", 1))...)...); r.status == 0 || !strings.Contains(string(r.stderr), c.want) {
				t.Errorf("irq %s: %s", c.args, r)
			}
		}
	})
}

// TestLockups has a call keep the kernel busy, under policies. The bound is ten
// seconds: the call must take longer.
func TestLockups(t *testing.T) {
	if !soak() {
		t.Skip("it takes half a minute of CPU: AIOS_SOAK=1")
	}
	onEach(t, func(t *testing.T, in *install) {
		in.ok(t, "daemon", "start")
		f := in.follow(t)
		long := []string{"--", "dd", "if=/dev/urandom", "of=/dev/null", "bs=1G", "count=100", "iflag=fullblock"}
		id := in.spawn(t, append([]string{"--limit", "memory=2G", "--on-fault", "lockup=kill-agent"}, long...)...)
		eventually(t, "it is ended", 3*time.Minute, func() (bool, string) {
			st := in.inspect(t, id).State
			return st == "exited", st
		})
		f.wait(t, "kernel.lockup", about(id, "kind", "task", "action", "kill-agent"))
		f.wait(t, "fault.verdict", about(id, "violation", "lockup", "action", "kill-agent"))
		if n := in.irqs(t)["nmi"].Count; n == 0 {
			t.Error("it is no interrupt")
		}
	})
}
