package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
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
	{"server of Go", "sh", []string{"/built/server-go"}},
	{"TCP of Python", "python3", []string{"python3", "/p/tcp.py"}},
	{"redis", "redis-server", []string{"sh", "/p/redis.sh"}},
	{"nginx", "nginx", []string{"sh", "/p/nginx.sh"}},
	{"make", "gcc", []string{"sh", "/p/make.sh"}},
	{"perl", "perl", []string{"perl", "/p/perl.pl"}},
	{"python pools", "python3", []string{"python3", "/p/pool.py"}},
	{"python waits", "python3", []string{"python3", "/p/waits.py"}},
	{"shared memory and locks", "python3", []string{"python3", "/p/shared.py"}},
	{"xargs and fifos", "sh", []string{"bash", "/p/xargs.sh"}},
	{"server of node", "node", []string{"node", "/p/server.js"}},
	{"inotify", "python3", []string{"python3", "/p/inotify.py"}},
	{"datagrams", "python3", []string{"python3", "/p/datagrams.py"}},
}

// Programs are caught at random moments, AIOS_INSTANTS of them: original and copy
// both end as if nothing had happened.
func TestClonePrograms(t *testing.T) {
	built, sources := t.TempDir(), absolute(t, "testdata/clone")
	for _, name := range []string{"calls", "server"} {
		if out, err := exec.Command("go", "build", "-o", filepath.Join(built, name+"-go"), "./testdata/clone/"+name).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
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
	if n, err := strconv.Atoi(os.Getenv("AIOS_INSTANTS")); err == nil {
		instants = n
	}
	onEach(t, func(t *testing.T, in *install) {
		flags := []string{"--grant", "net:loopback", "--grant", "fs:" + sources + ":ro,at=/p", "--grant", "fs:" + built + ":ro,at=/built"}
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

// waiting holds what nobody has read yet in connections within the agent, and reads
// it when it is told to. With several messages before the end of a connection of
// AF_UNIX it cannot be copied, and loses nothing.
const waiting = `
import hashlib, os, socket, sys, time
several = sys.argv[1:] == ['several']
def unix(kind, n):
    a, b = socket.socketpair(socket.AF_UNIX, kind)
    for i in range(n): a.send(b'%d;' % i * 1000)
    a.shutdown(socket.SHUT_WR)
    return b
def tcp(last):
    l = socket.create_server(('127.0.0.1', 0))
    c = socket.create_connection(l.getsockname()); c.setblocking(False)
    s, _ = l.accept()
    s.settimeout(5)
    sent = 0
    try:
        while True: sent += c.send(bytes(range(250)) * 400)
    except BlockingIOError: pass
    last(c)
    return s, c, sent
kept = [tcp(lambda c: None), tcp(lambda c: c.shutdown(socket.SHUT_WR)), tcp(lambda c: c.close())]
pairs = [unix(socket.SOCK_STREAM, 3 if several else 1), unix(socket.SOCK_SEQPACKET, 3 if several else 1)]
both = socket.socketpair(); [both[0].send(b'x%d' % i) for i in range(5)]; both[0].sendmsg([b'f'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, os.open('/etc/passwd', os.O_RDONLY).to_bytes(4, 'little'))])
print('ready', flush=True)
while not os.path.exists('/tmp/go'): time.sleep(0.01)
for s, c, sent in kept:
    data = b''
    while len(data) < sent: data += s.recv(1 << 20)
    ok = data == (bytes(range(250)) * 400 * (sent // 100000 + 1))[:sent]
    end = c.fileno() != -1 and s.fileno() != -1 and 'open'
    print(ok, len(data) == sent)
print(kept[1][0].recv(10), kept[2][0].recv(10))
kept[0][1].send(b'more'); print(kept[0][0].recv(10))
print([len(p.recv(100000)) for p in pairs])
print(both[1].recv(10), len(socket.recv_fds(both[1], 10, 1)[1]), flush=True)
`

// What was sent and not read is in the original and in the copy, however it waits.
func TestCloneKeepsWhatWaits(t *testing.T) {
	const format = "ready\nTrue True\nTrue True\nTrue True\nb'' b''\nb'more'\n[%d, 2000]\nb'x0x1x2x3x4' 1\n"
	onEach(t, func(t *testing.T, in *install) {
		need(t, "python3")
		for _, several := range []bool{false, true} {
			want := fmt.Sprintf(format, 2000)
			args := []string{"--grant", "net:loopback", "--", "python3", "-c", waiting}
			if several {
				args, want = append(args, "several"), fmt.Sprintf(format, 6000)
			}
			agent := in.spawn(t, args...)
			eventually(t, "it is ready", 20*time.Second, func() (bool, string) {
				l := in.run(t, "logs", agent)
				return string(l.stdout) == "ready\n", l.String()
			})
			both := []string{agent}
			r := in.run(t, "clone", agent)
			switch {
			case several && !strings.Contains(string(r.stderr), "holds several messages"):
				t.Errorf("several messages: %s", r)
			case !several:
				if r.status != 0 {
					t.Fatal(r)
				}
				both = append(both, strings.TrimSpace(string(r.stdout)))
			}
			for i, id := range both {
				in.ok(t, "exec", id, "touch", "/tmp/go")
				in.run(t, "wait", id)
				if l := in.run(t, "logs", id); string(l.stdout) != want[i*len("ready\n"):] || len(l.stderr) != 0 {
					t.Errorf("several %v, %s: %s", several, []string{"the original", "the copy"}[i], l)
				}
			}
		}
	})
}
