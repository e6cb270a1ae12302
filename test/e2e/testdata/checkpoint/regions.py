# Two of these share a region: they count in it under a lock, and one sends what it
# counts to the other. Each says how far it is, and ends when something does not add up.
import struct, sys, time

sys.path.insert(0, "/aios/lib")
import aiosregion

who = int(sys.argv[1])
while True:
    try:
        r = aiosregion.Region("shared")
        break
    except OSError:
        time.sleep(0.01)


def word(at):
    return struct.unpack_from("<Q", r.mem, at)[0]


with r.lock(0):
    if word(128) == 0:
        r.make_ring(4096, slots=64, payload=16)
        struct.pack_into("<Q", r.mem, 128, 1)
ring = r.ring(4096)
n = 0
while True:
    with r.lock(0):
        mine, others, total = word(64 + 8 * who), word(64 + 8 * (1 - who)), word(80)
        assert mine == n and mine + others == total, (n, mine, others, total)
        struct.pack_into("<Q", r.mem, 64 + 8 * who, mine + 1)
        struct.pack_into("<Q", r.mem, 80, total + 1)
    if who == 0:
        ring.send(1, b"%d" % n)
    else:
        kind, said = ring.receive(timeout=60)[:2]
        assert bytes(said) == b"%d" % n, (n, said)
    print(f"n{n}.", flush=True)
    n += 1
    time.sleep(0.01)
