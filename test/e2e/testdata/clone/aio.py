# Asynchronous I/O of io_setup: requests that are done and not asked for, contexts that
# are full, events by way of an eventfd.
import ctypes, errno, os, struct, time

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
SETUP, DESTROY, GETEVENTS, SUBMIT = 206, 207, 208, 209
READ, WRITE = 0, 1


def call(*args):
    while True:
        r = libc.syscall(*args)
        if r >= 0:
            return r
        if ctypes.get_errno() != errno.EINTR:
            return -ctypes.get_errno()


def setup(n):
    ctx = ctypes.c_ulong(0)
    assert call(SETUP, n, ctypes.byref(ctx)) == 0
    return ctx.value


def submit(ctx, op, fd, buf, at, tag, event=None):
    cb = ctypes.create_string_buffer(struct.pack('QIIHhIQQqQII', tag, 0, 0, op, 0, fd, ctypes.addressof(buf), len(buf), at, 0, event is not None, event or 0))
    cbs = (ctypes.c_void_p * 1)(ctypes.addressof(cb))
    r = call(SUBMIT, ctypes.c_ulong(ctx), 1, cbs)
    kept.append((cb, buf))
    return r


def events(ctx, least, most):
    buf = ctypes.create_string_buffer(32 * most)
    n = call(GETEVENTS, ctypes.c_ulong(ctx), least, most, buf, None)
    return sorted(struct.unpack_from('QQqq', buf, 32 * i)[::2] for i in range(max(n, 0)))


kept = []
small, big = setup(2), setup(64)
fd = os.open('/tmp/aio', os.O_RDWR | os.O_CREAT)
event = os.eventfd(0)
total = 0
for i in range(40):
    data = ctypes.create_string_buffer(b'%05d' % i * 100, 500)
    assert submit(big, WRITE, fd, data, 500 * i, i, event) == 1
    while total <= i:
        total += os.eventfd_read(event)
    if i % 8 == 7:
        time.sleep(0.01)
        print(events(big, 8, 64), flush=True)
    time.sleep(0.01)
for i in range(4):
    back = [ctypes.create_string_buffer(500) for _ in range(3)]
    print([submit(small, READ, fd, b, 500 * (10 * i + n), n) for n, b in enumerate(back)])
    time.sleep(0.03)
    print(events(small, 2, 4), [b.raw == b'%05d' % (10 * i + n) * 100 for n, b in enumerate(back)], flush=True)
print(total, call(DESTROY, ctypes.c_ulong(small)), call(DESTROY, ctypes.c_ulong(small)), call(DESTROY, ctypes.c_ulong(big)))
