# Connections within the agent: requests and answers, a stream whose receiver is
# slow, one that is shut down half-way, one whose sender has closed it already.
import hashlib, socket, threading, time

def serve(conn):
    f = conn.makefile('rwb')
    for line in f:
        kind, n = line.split()
        if kind == b'square':
            f.write(b'%d\n' % int(n) ** 2); f.flush()
        elif kind == b'stream':
            for i in range(int(n)):
                f.write(bytes([i % 251]) * 4096)
            f.flush()
            break
        elif kind == b'sum':
            f.write(b'%d\n' % sum(len(l) for l in f)); f.flush()
            break
    f.close(); conn.close()

listener = socket.create_server(('127.0.0.1', 7000))
six = socket.create_server(('::1', 7001), family=socket.AF_INET6)
def accept(l):
    while True:
        threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()
for l in listener, six:
    threading.Thread(target=accept, args=(l,), daemon=True).start()

said = {}
def ask(name, to):
    s = socket.create_connection(to); f = s.makefile('rwb')
    total = 0
    for i in range(60):
        f.write(b'square %d\n' % i); f.flush()
        total += int(f.readline())
        time.sleep(0.003)
    said[name] = total

def slow(name):
    s = socket.create_connection(('127.0.0.1', 7000))
    s.sendall(b'stream 1200\n')
    h, n = hashlib.sha256(), 0
    while data := s.recv(200000):
        h.update(data); n += len(data)
        time.sleep(0.004)
    said[name] = n, h.hexdigest()[:12]

def half(name):
    s = socket.create_connection(('127.0.0.1', 7000))
    s.sendall(b'sum 0\n')
    for i in range(40):
        s.sendall(b'x' * 1000 + b'\n'); time.sleep(0.004)
    s.shutdown(socket.SHUT_WR)
    said[name] = s.makefile().read().strip()

def late(name):
    time.sleep(0.05)
    s = socket.create_connection(('::1', 7001))
    s.sendall(b'stream 30\n')
    time.sleep(0.25)
    said[name] = hashlib.sha256(s.makefile('rb').read()).hexdigest()[:12]

threads = [threading.Thread(target=f, args=a) for f, a in (
    (ask, ('four', ('127.0.0.1', 7000))), (ask, ('six', ('::1', 7001))), (slow, ('slow',)), (half, ('half',)), (late, ('late',)))]
for t in threads: t.start()
for t in threads: t.join()
print(sorted(said.items()), flush=True)
