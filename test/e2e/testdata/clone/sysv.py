# System V: processes that take turns by semaphores, count in shared memory and send
# each other messages; a segment that is removed and still there, one that nobody has
# mapped, messages that nobody has read yet.
import ctypes, errno, os, struct, sys, time

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
libc.shmdt.argtypes = [ctypes.c_void_p]
libc.msgsnd.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int]
libc.msgrcv.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long, ctypes.c_int]
libc.semop.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]
CREATE, EXCL, NOWAIT, RMID, STAT = 0o1000, 0o2000, 0o4000, 0, 2
GETVAL, GETPID, SETVAL = 12, 11, 16


def call(f, *args):
    while True:
        r = f(*args)
        if r not in (-1, ctypes.c_void_p(-1).value):
            return r
        if ctypes.get_errno() != errno.EINTR:  # As after any signal.
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def op(sem, n, by):
    call(libc.semop, sem, struct.pack('Hhh', n, by, 0), 1)


def send(queue, kind, text):
    call(libc.msgsnd, queue, struct.pack('l', kind) + text, len(text), 0)


def receive(queue, kind):
    buf = ctypes.create_string_buffer(1000)
    n = call(libc.msgrcv, queue, buf, 900, kind, 0)
    return struct.unpack('l', buf.raw[:8])[0], buf.raw[8:8 + n]


for key in range(3):  # Numbers are not those of a fresh agent.
    call(libc.semctl, call(libc.semget, 0, 1, 0o600), 0, RMID)
    call(libc.shmctl, call(libc.shmget, 0, 4096, 0o600), RMID, None)
sem = call(libc.semget, 0x1234, 3, CREATE | EXCL | 0o640)
idle = call(libc.semget, 0x1235, 2, CREATE | EXCL | 0o640)
call(libc.semctl, idle, 1, SETVAL, 5)
shm = call(libc.shmget, 0x4321, 20000, CREATE | EXCL | 0o640)
gone = call(libc.shmget, 0, 8192, CREATE | 0o600)
alone = call(libc.shmget, 0x4322, 5000, CREATE | 0o600)
queue = call(libc.msgget, 0x77, CREATE | EXCL | 0o640)
kept = call(libc.msgget, 0x78, CREATE | EXCL | 0o640)
for i in range(5):
    send(kept, 5 - i, b'kept %d' % i)
at = call(libc.shmat, shm, None, 0)
words = (ctypes.c_uint32 * 5000).from_address(at)
ghost = (ctypes.c_uint32 * 2048).from_address(call(libc.shmat, gone, None, 0))
call(libc.shmctl, gone, RMID, None)
where = call(libc.shmat, alone, None, 0)
(ctypes.c_uint32 * 1000).from_address(where)[999] = 77
call(libc.shmdt, where)
call(libc.semctl, sem, 0, SETVAL, 1)

ROUNDS, WORKERS = 60, 3
pids = []
for w in range(WORKERS):
    pid = os.fork()
    if pid:
        pids.append(pid)
        continue
    for i in range(ROUNDS):
        op(sem, 0, -1)
        words[0] += 1
        words[1 + words[0]] = w
        ghost[w] += 1
        op(sem, 0, 1)
        send(queue, w + 1, b'%d of %d' % (i, w))
        time.sleep(0.003)
    op(sem, 1, 1)
    os._exit(0)
got = {w: [] for w in range(WORKERS)}
for i in range(ROUNDS):
    for w in range(WORKERS):
        kind, text = receive(queue, w + 1)
        got[w].append(text == b'%d of %d' % (i, w) and kind == w + 1)
    if i == ROUNDS // 2:
        print('half', words[0] >= ROUNDS, flush=True)
op(sem, 1, -WORKERS)
for pid in pids:
    os.waitpid(pid, 0)
print(words[0], [sum(x) for x in got.values()], list(ghost[:3]), sorted(words[2:2 + words[0]]) == sorted(list(range(WORKERS)) * ROUNDS))
print([call(libc.semctl, s, n, GETVAL) for s, n in ((sem, 0), (sem, 1), (sem, 2), (idle, 0), (idle, 1))])
print([call(libc.semget, 0x1234, 3, 0) == sem, call(libc.shmget, 0x4321, 100, 0) == shm, call(libc.msgget, 0x77, 0) == queue])
print([receive(kept, 0), receive(kept, -3), receive(kept, 4)])
where = call(libc.shmat, call(libc.shmget, 0x4322, 100, 0), None, 0o10000)
print((ctypes.c_uint32 * 1000).from_address(where)[999])
buf = ctypes.create_string_buffer(200)
call(libc.shmctl, shm, STAT, buf)
print(oct(struct.unpack_from('H', buf, 20)[0]), struct.unpack_from('Q', buf, 48)[0], flush=True)
try:
    call(libc.shmat, gone, None, 0)
    print('attached')
except OSError as err:
    print(err.errno)
for f, n in ((libc.shmctl, shm), (libc.shmctl, alone)):
    call(f, n, RMID, None)
for s in (sem, idle):
    call(libc.semctl, s, 0, RMID)
for q in (queue, kept):
    call(libc.msgctl, q, RMID, None)
