package e2e

import (
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

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
def udp(family, at, connected):
    r, w = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_DGRAM)
    r.bind((at, 0)); r.settimeout(5)
    w.connect(('127.0.0.1', r.getsockname()[1]) if family == socket.AF_INET else ('::ffff:127.0.0.1' if at == '::' else '::1', r.getsockname()[1]))
    if connected: r.connect(w.getsockname())
    for i in range(3): w.send(b'%d;' % i * i * 100)
    return r, w
packets = [udp(socket.AF_INET, '127.0.0.1', False), udp(socket.AF_INET, '0.0.0.0', True), udp(socket.AF_INET6, '::', False), udp(socket.AF_INET6, '::1', True)]
print('ready', flush=True)
while not os.path.exists('/tmp/go'): time.sleep(0.01)
for r, w in packets:
    w.send(b'more')
    got = [r.recvfrom(1000) for n in range(4)]
    print([len(d) for d, _ in got], {who == w.getsockname() for _, who in got})
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
	want := "ready\n" + strings.Repeat("[0, 200, 400, 4] {True}\n", 4) + "True True\nTrue True\nTrue True\nb'' b''\nb'more'\n" +
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
