# Takes part in what the program beside it does, from Python.
import struct
import sys

sys.path.insert(0, "/aios/lib")
import aiosregion  # noqa: E402

what, name = sys.argv[1:3]
r = aiosregion.Region(name)
if what == "locks":
    def repair():
        r.mem[72:80] = r.mem[64:72]
    lock = r.lock(0, recover=repair)
    for _ in range(int(sys.argv[3])):
        with lock:
            a, b = struct.unpack_from("=QQ", r.mem, 64)
            assert a == b, (a, b)
            struct.pack_into("=Q", r.mem, 64, a + 1)
            struct.pack_into("=Q", r.mem, 72, b + 1)
elif what == "send":
    g, who = r.ring(4096), int(sys.argv[3])
    for n in range(1, int(sys.argv[4]) + 1):
        g.send(who, struct.pack("<Q", n), timeout=120)
        struct.pack_into("=Q", r.mem, 1024 + 8 * who, n)
elif what == "receive":
    g, last = r.ring(4096), {}
    print("ready", flush=True)
    while True:
        m = g.receive(timeout=120)
        if m.type == 99:
            break
        (n,) = struct.unpack("<Q", m.data)
        assert n == last.get(m.type, 0) + 1, (m.type, n, last)
        last[m.type] = n
    print(sorted(last.items()))
elif what == "count":
    c = r.counter(2048)
    print(c.wait_for(int(sys.argv[3]), timeout=120))
elif what == "advance":
    c = r.counter(2048)
    for _ in range(int(sys.argv[3])):
        c.advance()
elif what == "rest":
    g = r.make_ring(65536, slots=2, payload=20)
    for call in (lambda: g.receive(timeout=0), lambda: g.receive(timeout=0.01), lambda: g.send(1, b"x" * 99), lambda: r.ring(131072),
                 lambda: r.wait(64, 0, timeout=0.01), lambda: r.lock(4).release()):
        try:
            call()
            print("no error")
        except OSError as e:
            print(type(e).__name__, end=" ")
    r.mem[200000:200004] = b"span"
    g.send_span(5, 200000, 4)
    m = g.receive()
    print(m.type, bytes(m.data), m.offset)
    del m
