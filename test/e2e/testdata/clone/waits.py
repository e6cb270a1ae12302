# Signals, interval timers, a wake-up descriptor, selectors, condition variables, and
# descriptors of processes: one that runs, one that has ended, one that was waited for.
import os, select, selectors, signal, socket, threading, time
pids = [os.posix_spawn('/bin/sh', ['sh', '-c', 'exit 4' if n else 'exec sleep 1000'], {}) for n in range(3)]
fds = [os.pidfd_open(pid) for pid in pids]
os.waitpid(pids[2], 0)
ticks, got = [0], []
signal.signal(signal.SIGALRM, lambda *_: ticks.__setitem__(0, ticks[0] + 1))
signal.signal(signal.SIGUSR1, lambda *_: got.append('usr1'))
r, w = socket.socketpair(); r.setblocking(False); w.setblocking(False)
signal.set_wakeup_fd(w.fileno())
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
sel = selectors.DefaultSelector(); sel.register(r, selectors.EVENT_READ)
pairs = [socket.socketpair() for _ in range(8)]
for i, (a, b) in enumerate(pairs): sel.register(a, selectors.EVENT_READ, i)
def send():
    for k in range(20):
        for _, b in pairs: b.send(b'%d,' % k)
        time.sleep(0.005)
    for _, b in pairs: b.close()
threading.Thread(target=send).start()
seen, open_ = [b''] * 8, 8
while open_:
    for key, _ in sel.select():
        if key.data is None: r.recv(4096); continue
        data = key.fileobj.recv(100)
        if data: seen[key.data] += data
        else: sel.unregister(key.fileobj); open_ -= 1
while ticks[0] < 25: signal.pause()
signal.setitimer(signal.ITIMER_REAL, 0)
os.kill(os.getpid(), signal.SIGUSR1)
cond, turn, order = threading.Condition(), [0], []
def player(n):
    for _ in range(30):
        with cond:
            cond.wait_for(lambda: turn[0] % 3 == n)
            order.append(n); turn[0] += 1; cond.notify_all()
ps = [threading.Thread(target=player, args=(n,)) for n in range(3)]
[p.start() for p in ps]; [p.join() for p in ps]
def ready(fd):
    p = select.poll(); p.register(fd, select.POLLIN)
    return [e & select.POLLIN for _, e in p.poll(0)]
def kill(fd):
    try: signal.pidfd_send_signal(fd, signal.SIGKILL)
    except OSError as err: return err.errno
print([ready(fd) for fd in fds], kill(fds[2]), kill(fds[0]), [os.waitid(os.P_PIDFD, fd, os.WEXITED).si_status for fd in fds[:2]])
print(len(set(seen)), seen[0], got, order == [0, 1, 2] * 30, flush=True)
