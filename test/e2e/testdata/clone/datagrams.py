# Datagrams of AF_UNIX: a socket that has said whom it sends to, some that wait, a pair;
# and of UDP, of which nobody sends any again.
import hashlib, os, socket, threading, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind('/tmp/server')
c = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); c.bind('/tmp/client'); c.connect('/tmp/server')
silent = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); silent.connect('/tmp/server')
box = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); box.bind('\0box')
for n in range(5): c.sendto(b'early %d' % n, '\0box')
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
def udp():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', 0))
    return s
us, uc, ubox = udp(), udp(), udp()
uc.connect(us.getsockname())
for n in range(5): uc.sendto(b'early %d' % n, ubox.getsockname())
sums = {}
def serve():
    h = hashlib.sha256()
    while True:
        data, who = s.recvfrom(100)
        h.update(data + str(who or '').encode())
        if data == b'end': break
        if who: s.sendto(b'to ' + data, who)
    sums['server'] = h.hexdigest()
def echo():
    while True:
        data = b.recv(100)
        if data == b'end': break
        b.send(data[::-1])
def answer():
    while True:
        data, who = us.recvfrom(100)
        if data == b'end': break
        us.sendto(data[::-1], who)
ts = [threading.Thread(target=serve), threading.Thread(target=echo), threading.Thread(target=answer)]
for t in ts: t.start()
h = hashlib.sha256()
for n in range(120):
    if n % 3 == 0: time.sleep(0.002)
    c.send(b'%d' % n); silent.send(b'quiet %d' % n); h.update(c.recv(100))
    a.send(b'pair %d' % n); h.update(a.recv(100))
    uc.send(b'packet %d' % n); h.update(uc.recv(100))
c.send(b'end'); a.send(b'end'); uc.send(b'end')
for t in ts: t.join()
print([box.recvfrom(100) for n in range(5)], [ubox.recv(100) for n in range(5)], sums['server'], h.hexdigest(), flush=True)
