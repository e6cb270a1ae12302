package e2e

import (
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
	{"terminals", "python3", []string{"python3", "/p/terminals.py"}},
	{"System V", "python3", []string{"python3", "/p/sysv.py"}},
	{"asynchronous I/O", "python3", []string{"python3", "/p/aio.py"}},
}

// Programs are caught at random moments, AIOS_INSTANTS of them on each platform:
// original and copy both end as if nothing had happened. Without a number, each
// program is caught once, on a platform that changes from run to run.
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
	instants, turn := 1, rand.IntN(2)
	if soak() {
		instants, turn = 200, -1
	}
	if n, err := strconv.Atoi(os.Getenv("AIOS_INSTANTS")); err == nil {
		instants, turn = n, -1
	}
	if len(platforms()) == 1 {
		turn = -1
	}
	onEach(t, func(t *testing.T, in *install) {
		flags := []string{"--grant", "net:loopback", "--grant", "fs:" + sources + ":ro,at=/p", "--grant", "fs:" + built + ":ro,at=/built"}
		for i, p := range cloneCorpus {
			if turn >= 0 && platforms()[(i+turn)%2] != in.platform {
				continue
			}
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

// What has to be known of a program before it can be copied is known after it was
// saved and goes on.
func TestCloneOfTheRestored(t *testing.T) {
	sources := absolute(t, "testdata/clone")
	onEach(t, func(t *testing.T, in *install) {
		need(t, "python3")
		names := []string{"loop", "inotify", "shared", "aio"}
		want, agents := make(map[string]string), make(map[string][]string)
		args := func(name string) []string {
			return []string{"--grant", "net:loopback", "--grant", "fs:" + sources + ":ro,at=/p", "--", "python3", "/p/" + name + ".py"}
		}
		for _, name := range names {
			agents[name] = []string{in.spawn(t, args(name)...)}
		}
		for _, name := range names {
			in.run(t, "wait", agents[name][0])
			want[name] = string(in.ok(t, "logs", agents[name][0]))
			agents[name][0] = in.spawn(t, args(name)...)
		}
		time.Sleep(time.Duration(200+rand.IntN(300)) * time.Millisecond)
		in.ok(t, "domain", "hibernate", "default")
		in.ok(t, "domain", "restore", "default")
		for _, name := range names {
			r := in.run(t, "clone", agents[name][0])
			if r.status == 0 {
				agents[name] = append(agents[name], strings.TrimSpace(string(r.stdout)))
			} else if !strings.Contains(string(r.stderr), "has ended") {
				t.Errorf("%s: %s", name, r)
			}
		}
		for _, name := range names {
			for i, id := range agents[name] {
				in.run(t, "wait", id)
				l := in.run(t, "logs", id)
				if got := string(l.stdout); got != want[name] && (i == 0 || !strings.HasSuffix(want[name], got)) || len(l.stderr) != 0 {
					t.Errorf("%s, %s: %s, want %q", name, []string{"the original", "the copy"}[i], l, want[name])
				}
			}
		}
	})
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
	onOne(t, func(t *testing.T, in *install) {
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
// it when it is told to. Of those of AF_UNIX that get no more, some have another end
// that is open still, for which somebody waits.
const waiting = `
import hashlib, os, select, socket, sys, time
def unix(kind, n, keep=False, unread=False):
    a, b = socket.socketpair(socket.AF_UNIX, kind)
    for i in range(n): a.send(b'%d;' % i * 1000)
    if unread: b.send(b'unread')
    if not keep:
        a.close()
        return b, None
    a.sendmsg([b'f'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, os.open('/etc/passwd', os.O_RDONLY).to_bytes(4, 'little'))])
    if kind != socket.SOCK_STREAM: a.send(b'')
    a.shutdown(socket.SHUT_WR)
    for i in range(3): b.send(b'back%d' % i)
    e = select.epoll(); e.register(a, select.EPOLLIN | select.EPOLLET)
    return b, (a, e, os.dup(b.fileno()), os.fstat(b.fileno()).st_ino, os.fstat(a.fileno()).st_ino)
def rest(b, n):
    got = []
    try:
        while len(got) < n:
            d, fds, _, _ = socket.recv_fds(b, 1500, 1)
            if not d and b.type == socket.SOCK_STREAM: break
            got.append((len(d), len(fds)))
    except OSError as err: return sum(n for n, _ in got), type(err).__name__
    return b.type == socket.SOCK_STREAM and [sum(x) for x in zip(*got)] or got
def back(b, kept):
    if not kept: return ''
    a, e, dup, ino, mate = kept
    b.send(b'more')
    got = [fd == a.fileno() for fd, _ in e.poll(5)]
    try: a.send(b'x')
    except BrokenPipeError: got.append('EPIPE')
    data = b''
    while len(data) < 19: data += a.recv(19 - len(data))
    os.write(dup, b'dup'); data += a.recv(10)
    b.close(); os.close(dup)
    return got, data, a.recv(10), [fd == a.fileno() for fd, _ in e.poll(5)], ino, mate
def look(kept): return kept and (os.fstat(kept[2]).st_ino == kept[3], os.fstat(kept[0].fileno()).st_ino == kept[4])
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
pairs = [unix(kind, n, keep) for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET) for n in (1, 3) for keep in (False, True)] + [unix(socket.SOCK_DGRAM, 3)] + [unix(socket.SOCK_STREAM, n, False, True) for n in (0, 2)]
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
for b, kept in pairs: print(rest(b, 3 if b.type == socket.SOCK_DGRAM else 6), *back(b, kept)[:4])
print(both[1].recv(10), len(socket.recv_fds(both[1], 10, 1)[1]), flush=True)
`

// What was sent and not read is in the original and in the copy, however it waits.
func TestCloneKeepsWhatWaits(t *testing.T) {
	// Linux says the same.
	open := " [True, 'EPIPE'] b'back0back1back2moredup' b'' [True]\n"
	want := "ready\nTrue True\nTrue True\nTrue True\nb'' b''\nb'more'\n" +
		"[2000, 0]\n[2001, 1]" + open + "[6000, 0]\n[6001, 1]" + open +
		"[(1500, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)]\n[(1500, 0), (1, 1), (0, 0), (0, 0), (0, 0), (0, 0)]" + open +
		"[(1500, 0), (1500, 0), (1500, 0), (0, 0), (0, 0), (0, 0)]\n[(1500, 0), (1500, 0), (1500, 0), (1, 1), (0, 0), (0, 0)]" + open +
		"[(1500, 0), (1500, 0), (1500, 0)]\n(0, 'ConnectionResetError')\n(4000, 'ConnectionResetError')\n" +
		"b'x0x1x2x3x4' 1\n"
	onEach(t, func(t *testing.T, in *install) {
		need(t, "python3")
		agent := in.spawn(t, "--grant", "net:loopback", "--", "python3", "-c", waiting)
		eventually(t, "it is ready", 20*time.Second, func() (bool, string) {
			l := in.run(t, "logs", agent)
			return string(l.stdout) == "ready\n", l.String()
		})
		both := []string{agent}
		for range 2 {
			both = append(both, strings.TrimSpace(string(in.ok(t, "clone", agent))))
		}
		for i, id := range both {
			in.ok(t, "exec", id, "touch", "/tmp/go")
			in.run(t, "wait", id)
			if l := in.run(t, "logs", id); string(l.stdout) != want[min(i, 1)*len("ready\n"):] || len(l.stderr) != 0 {
				t.Errorf("%s: %s", []string{"the original", "the copy", "the second copy"}[i], l)
			}
		}
	})
}
