# What inotify tells of files that another thread makes, and of one that is removed.
import ctypes, os, struct, threading, time
c = ctypes.CDLL(None, use_errno=True)
CREATE, DELETE, CLOSE_WRITE, READ = 0x100, 0x200, 0x8, 0x1 | 0x10 | 0x20
os.mkdir('/tmp/w'); os.mkdir('/tmp/w/a'); os.mkdir('/tmp/w/b'); os.mkdir('/tmp/w/c')
open('/tmp/w/a/old', 'w').write('nobody reads it')
i = c.inotify_init1(0)
wds = [c.inotify_add_watch(i, ('/tmp/w/' + d).encode(), CREATE | DELETE | CLOSE_WRITE | READ) for d in 'abc']
c.inotify_rm_watch(i, wds[1])
os.chdir('/tmp/w')
wds.append(c.inotify_add_watch(i, b'b', CREATE))
def make():
    for n in range(60):
        time.sleep(0.003)
        p = '/tmp/w/%s/%d' % ('abc'[n % 3], n)
        with open(p, 'w') as f: f.write('x')
        if n % 5 == 0: os.unlink(p)
    open('/tmp/w/a/end', 'w').close()
t = threading.Thread(target=make); t.start()
told = []
while not told or told[-1][2] != 'end':
    data = os.read(i, 4096)
    while data:
        wd, mask, _, n = struct.unpack('iIII', data[:16])
        told.append((wd, hex(mask), data[16:16 + n].rstrip(b'\0').decode()))
        data = data[16 + n:]
t.join()
# The same twice in a row is told once or twice; of the end not all is read.
told = sorted({x for x in told if x[2] != 'end'})
print(len(told), told[:12], told[-12:], flush=True)
