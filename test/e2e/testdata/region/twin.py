# Has a region mapped and writes to it, each agent in a place of its own.
import mmap
import os
import socket
import time

while not os.path.exists("/aios/fabric/table"):
    time.sleep(0.01)
f = open("/aios/fabric/table", "r+b")
m = mmap.mmap(f.fileno(), 0)
p = mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE)
p[0:4] = b"mine"
me = socket.gethostname()
f.seek(7)
print("ready", flush=True)
n = 0
while True:
    time.sleep(0.05)
    now = socket.gethostname()
    m[64 if now == me else 128] = 48 + n % 10
    n += 1
    assert p[0:4] == b"mine" and f.tell() == 7
