# Memory that processes share: anonymous, of a file, of shm_open; locks on files.
import fcntl, mmap, os, struct, time
from multiprocessing import shared_memory
anon = mmap.mmap(-1, 4096)
f = open('/tmp/shared', 'w+b'); f.truncate(65536); m = mmap.mmap(f.fileno(), 65536)
shm = shared_memory.SharedMemory(create=True, size=4096)
lock = open('/tmp/lock', 'w')
def add(buf, at):
    buf[at:at + 8] = struct.pack('q', struct.unpack('q', buf[at:at + 8])[0] + 1)
kids = []
for n in range(3):
    pid = os.fork()
    if pid == 0:
        own = open('/tmp/lock', 'w')
        for i in range(80):
            if i % 2: fcntl.flock(own, fcntl.LOCK_EX)
            else: fcntl.lockf(own, fcntl.LOCK_EX)
            time.sleep(0.0003)
            add(m, 8 * n); m[1000 + n * 80 + i] = i
            if i % 2: fcntl.flock(own, fcntl.LOCK_UN)
            else: fcntl.lockf(own, fcntl.LOCK_UN)
            add(anon, 8 * n); add(shm.buf, 8 * n)
        os._exit(n)
    kids.append(pid)
codes = [os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in kids]
print(codes, struct.unpack('3q', anon[:24]), struct.unpack('3q', m[:24]), struct.unpack('3q', bytes(shm.buf[:24])), sum(m[1000:1240]), flush=True)
shm.close(); shm.unlink()
