package e2e

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"
)

// splitServer is a server of several processes: each worker counts in a file of its
// own, and answers through a pipe. What the first process hears of their ends is in
// /ends.
const splitServer = `
import multiprocessing, os, time, signal

def work(n, pipe):
    for mine, theirs in pairs:
        mine.close()
        if theirs is not pipe: theirs.close()
    count = 0
    while True:
        count += 1
        with open(f"/tmp/count-{n}.new", "w") as f: f.write(f"{count}\n")
        os.rename(f"/tmp/count-{n}.new", f"/tmp/count-{n}")
        try:
            if pipe.poll(0.002): pipe.send(pipe.recv() * 2)
        except (EOFError, OSError) as e:
            with open(f"/tmp/cut-{n}", "w") as f: f.write(type(e).__name__)
            pipe, other = multiprocessing.Pipe()
        if os.path.exists("/tmp/stop"): os._exit(3)

pairs = [multiprocessing.Pipe() for n in range(3)]
workers = [multiprocessing.Process(target=work, args=(n, pairs[n][1])) for n in range(3)]
for w in workers: w.start()
for _, theirs in pairs: theirs.close()
with open("/tmp/pids.new", "w") as f: f.write(" ".join(str(w.pid) for w in workers))
os.rename("/tmp/pids.new", "/tmp/pids")
rounds = 0
while True:
    for n, (mine, _) in enumerate(pairs):
        if not workers[n].is_alive():
            with open(f"/tmp/end-{n}", "w") as f: f.write(str(workers[n].exitcode))
            continue
        try:
            mine.send(21)
            assert mine.recv() == 42
        except (EOFError, OSError): pass
    rounds += 1
    with open("/tmp/rounds.new", "w") as f: f.write(f"{rounds}\n")
    os.rename("/tmp/rounds.new", "/tmp/rounds")
`

// One worker of a server leaves and goes on counting; the server and the others work
// on.
func TestSplit(t *testing.T) {
	need(t, "python3")
	onEach(t, func(t *testing.T, in *install) {
		number := func(agent, name string) int {
			t.Helper()
			var text string
			eventually(t, name+" of "+agent, 30*time.Second, func() (bool, string) {
				r := in.run(t, "exec", agent, "--", "cat", "/tmp/"+name)
				text = strings.TrimSpace(string(r.stdout))
				return text != "", r.String()
			})
			n, err := strconv.Atoi(strings.Fields(text)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		goesOn := func(agent, name string) {
			t.Helper()
			was := number(agent, name)
			eventually(t, name+" of "+agent, 30*time.Second, func() (bool, string) { n := number(agent, name); return n > was, strconv.Itoa(n) })
		}
		in.spawn(t, "--name", "server", "--grant", "net:loopback", "--", "python3", "-c", splitServer)
		pid := strconv.Itoa(number("server", "pids"))
		goesOn("server", "rounds")
		if r := in.run(t, "split", "server", "--pid", "1", "--name", "worker"); r.status == 0 || !strings.Contains(string(r.stderr), "the agent's first") {
			t.Errorf("%s", r)
		}
		var made struct {
			Copies []struct{ Name, ClonedFrom string }
			Pause  int64 `json:"pause_ns"`
		}
		if err := json.Unmarshal(in.ok(t, "split", "server", "--pid", pid, "--name", "worker", "--share", "25", "--keep", "none", "-o", "json"), &made); err != nil || len(made.Copies) != 1 {
			t.Fatalf("%+v: %v", made, err)
		}
		t.Logf("it stood still for %v ns", made.Pause)
		if got := number("server", "end-0"); got != 0 {
			t.Errorf("the server finds that its worker ended with %d", got)
		}
		left := number("server", "count-0")
		goesOn("worker", "count-0")
		for _, file := range []string{"rounds", "count-1", "count-2"} {
			goesOn("server", file)
		}
		if got := number("server", "count-0"); got != left {
			t.Errorf("the worker counts on in the server: %d after %d", got, left)
		}
		// Its pipe was to a process that has stayed.
		eventually(t, "the cut", 30*time.Second, func() (bool, string) {
			r := in.run(t, "exec", "worker", "--", "test", "-e", "/tmp/cut-0")
			return r.status == 0, r.String()
		})
		for _, c := range in.caps(t, "worker") {
			if strings.HasPrefix(c.Spec, "net:") {
				t.Errorf("it has %s", c.Spec)
			}
		}
		in.ok(t, "exec", "worker", "--", "touch", "/tmp/stop")
		if r := in.run(t, "wait", "worker"); r.status != 3 {
			t.Errorf("the worker: %s", r)
		}
		goesOn("server", "rounds")
		if l := in.audit(t, "--op", "split"); len(l) != 1 || !strings.Contains(l[0].Reason, "process "+pid+", 25% of the budget, keeps nothing") {
			t.Errorf("the trail has %+v", l)
		}
	})
}

// Who leaves the other end of a terminal behind finds it hung up; who has both takes
// the terminal along.
func TestSplitTerminals(t *testing.T) {
	need(t, "python3")
	const program = `
import os, pty, signal, time
def child(say):
    def hup(*a):
        os.write(out, b'hup\n'); os._exit(3)
    out = os.open('/dev/null' if not say else '/tmp/said', os.O_WRONLY | os.O_CREAT)
    signal.signal(signal.SIGHUP, hup)
    print('child', flush=True)
    print('got', input(), flush=True)
    while True: time.sleep(0.05)
worker = os.fork()
if worker == 0:
    pid, fd = pty.fork()
    if pid == 0: child(False)
    os.read(fd, 7)
    open('/tmp/ready', 'w').close()
    while not os.path.exists('/tmp/go'): time.sleep(0.01)
    os.write(fd, b'word\n')
    got = b''
    while b'got word' not in got: got += os.read(fd, 100)
    os.close(fd)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
pid, fd = pty.fork()
if pid == 0: child(True)
os.read(fd, 7)
print(worker, pid, flush=True)
while True: time.sleep(1)
`
	onEach(t, func(t *testing.T, in *install) {
		agent := in.spawn(t, "--", "python3", "-c", program)
		var pids []string
		eventually(t, "it is ready", 20*time.Second, func() (bool, string) {
			pids = strings.Fields(string(in.ok(t, "logs", agent)))
			return len(pids) == 2 && in.run(t, "exec", agent, "test", "-e", "/tmp/ready").status == 0, strings.Join(pids, " ")
		})
		alone := strings.TrimSpace(string(in.ok(t, "split", "--name", "alone", agent, "--pid", pids[1])))
		if r := in.run(t, "wait", alone); !strings.Contains(string(r.stdout), " 3") {
			t.Errorf("who was left ended with %s", r)
		}
		both := strings.TrimSpace(string(in.ok(t, "split", "--name", "both", agent, "--pid", pids[0])))
		in.ok(t, "exec", both, "touch", "/tmp/go")
		if r := in.run(t, "wait", both); !strings.Contains(string(r.stdout), " 3") {
			t.Errorf("who took it along ended with %s", r)
		}
	})
}
