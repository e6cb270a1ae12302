# Uses much of what a kernel keeps for a program, over and over, and says each time
# that all of it is as it was left.
import os, signal, socket, sqlite3, subprocess, threading, time

ticks = [0, 0, 0]
rang = [0]


def work(i):
    while True:
        ticks[i] += 1
        time.sleep(0.001)


def ring(*_):
    rang[0] += 1


def eventually(ok):
    until = time.monotonic() + 30
    while not ok():
        assert time.monotonic() < until
        time.sleep(0.01)


for i in range(3):
    threading.Thread(target=work, args=(i,), daemon=True).start()
lock, cond = threading.Lock(), threading.Condition()
reader, writer = os.pipe()
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
left, right = socket.socketpair()
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("127.0.0.1", 0))
named = socket.socket(socket.AF_UNIX)
named.bind("/tmp/named")
named.listen()
db = sqlite3.connect("/tmp/world.db")
db.execute("create table t(i)")
file = open("/tmp/file", "w+")
gone = open("/tmp/gone", "w+")
os.unlink("/tmp/gone")
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
child = subprocess.Popen(["sh", "-c", "while read x; do echo got $x; done"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
env, pid = dict(os.environ), os.getpid()

i = 0
while True:
    text = b"%d" % i
    os.write(writer, text)
    assert os.read(reader, 100) == text
    client.sendall(text)
    assert server.recv(100) == text
    left.sendall(text)
    assert right.recv(100) == text
    datagrams.sendto(text, datagrams.getsockname())
    assert datagrams.recv(100) == text
    again = socket.create_connection(listener.getsockname())
    listener.accept()[0].close()
    again.close()
    other = socket.socket(socket.AF_UNIX)
    other.connect("/tmp/named")
    named.accept()[0].close()
    other.close()
    db.execute("insert into t values(?)", (i,))
    db.commit()
    assert db.execute("select count(*), sum(i) from t").fetchone() == (i + 1, i * (i + 1) // 2)
    for f in file, gone:
        f.write("%d\n" % i)
        f.flush()
        f.seek(0)
        assert f.read() == "".join("%d\n" % n for n in range(i + 1))
    child.stdin.write("%d\n" % i)
    child.stdin.flush()
    assert child.stdout.readline() == "got %d\n" % i
    before, rung = list(ticks), rang[0]
    eventually(lambda: all(a < b for a, b in zip(before, ticks)))
    eventually(lambda: rang[0] > rung)
    assert os.getpid() == pid and dict(os.environ) == env
    assert open("/proc/self/comm").read().startswith("python") and "/tmp/world.db" in os.readlink("/proc/self/fd/%d" % os.open("/tmp/world.db", 0))
    print("n%d." % i, flush=True)
    i += 1
    time.sleep(0.02)
