package e2e

import (
	"strings"
	"testing"
	"time"
)

// odd has open what was removed, a timer that has expired often, a file that sends
// signals, and a process that gets one when its parent ends. When it is told to, it
// looks whether all that is so still.
const odd = `
import ctypes, fcntl, os, select, signal, socket, stat, struct, time
libc = ctypes.CDLL(None)
def gone(name, make, *flags):
    make(name)
    fds = [os.open(name, f) for f in flags]
    (os.rmdir if os.path.isdir(name) else os.unlink)(name)
    return fds
def fifo(name): os.mkfifo(name, 0o640)
both, = gone('/tmp/both', fifo, os.O_RDWR)
r, w = gone('/tmp/ends', fifo, os.O_RDONLY | os.O_NONBLOCK, os.O_WRONLY)
for fd in both, w: os.write(fd, b'token')
d, = gone('/tmp/dir', lambda name: os.mkdir(name, 0o711), os.O_RDONLY)
os.mkdir('/tmp/wd'); os.chdir('/tmp/wd'); os.rmdir('/tmp/wd')
period = 0.005
timer = libc.timerfd_create(1, 0)
began = time.monotonic()
libc.timerfd_settime(timer, 0, struct.pack('4q', 0, int(period * 1e9), 0, int(period * 1e9)), None)
a, b = socket.socketpair()
got = []
for sig in signal.SIGIO, signal.SIGUSR2: signal.signal(sig, lambda n, _: got.append(signal.Signals(n).name))
fcntl.fcntl(a, fcntl.F_SETOWN, os.getpid())
fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
once, off = select.epoll(), [os.pipe() for _ in range(2)]
for p, _ in off: once.register(p, select.EPOLLIN | select.EPOLLONESHOT)
os.write(off[0][1], b'1'); once.poll(); os.read(off[0][0], 1)
heard, told = os.pipe()
middle = os.fork()
if middle == 0:
    os.close(w)
    if os.fork() == 0:
        signal.signal(signal.SIGUSR1, lambda *_: (os.write(told, b'orphan'), os._exit(0)))
        libc.prctl(1, signal.SIGUSR1)
        os.write(told, b'!')
    while True: time.sleep(1)
os.read(heard, 1)
time.sleep(1)
print('ready', flush=True)
while not os.path.exists('/tmp/go'): time.sleep(0.01)
early = time.monotonic() - began
took = struct.unpack('q', os.read(timer, 8))[0] * period
print('timer', early - 0.5 < took <= time.monotonic() - began) # A busy host is late.
print('fifos', os.read(both, 10), os.read(r, 10), oct(os.fstat(both).st_mode), os.fstat(r).st_nlink)
os.write(w, b'again'); print(os.read(r, 10))
os.close(w); print('end', os.read(r, 10))
print('directories', oct(os.fstat(d).st_mode), os.listdir(d), os.listdir('.'))
try: print(os.getcwd())
except OSError as err: print(type(err).__name__)
b.send(b'x'); time.sleep(0.05)
print('signals', got, fcntl.fcntl(a, fcntl.F_GETOWN) == os.getpid())
for _, p in off: os.write(p, b'2')
print('once', [fd == off[1][0] for fd, _ in once.poll(0.1)], once.poll(0.1))
once.modify(off[0][0], select.EPOLLIN | select.EPOLLONESHOT); print([fd == off[0][0] for fd, _ in once.poll()])
os.kill(middle, signal.SIGKILL)
print(os.read(heard, 10), sorted(n for n in os.listdir('/') if n.startswith('.clone')), flush=True)
`

// What has no name, and what asks for signals, is in the copy as in the original.
func TestCloneKeepsOddThings(t *testing.T) {
	// Linux says the same.
	want := "timer True\nfifos b'token' b'token' 0o10640 0\nb'again'\nend b''\ndirectories 0o40711 [] []\nFileNotFoundError\n" +
		"signals ['SIGIO'] True\nonce [True] []\n[True]\nb'orphan' []\n"
	onOne(t, func(t *testing.T, in *install) {
		need(t, "python3")
		agent := in.spawn(t, "--", "python3", "-c", odd)
		eventually(t, "it is ready", 20*time.Second, func() (bool, string) {
			l := in.run(t, "logs", agent)
			return string(l.stdout) == "ready\n", l.String()
		})
		both := []string{agent, strings.TrimSpace(string(in.ok(t, "clone", agent)))}
		both = append(both, strings.TrimSpace(string(in.ok(t, "clone", both[1]))))
		for i, id := range both {
			in.ok(t, "exec", id, "touch", "/tmp/go")
			in.run(t, "wait", id)
			if l := in.run(t, "logs", id); strings.TrimPrefix(string(l.stdout), "ready\n") != want || len(l.stderr) != 0 {
				t.Errorf("%s: %s, want %q", []string{"the original", "the copy", "the copy's copy"}[i], l, want)
			}
		}
	})
}
