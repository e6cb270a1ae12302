# Has a redis server with data, and one connection to it that is never made anew.
import socket, subprocess, time

server = subprocess.Popen(["redis-server", "--port", "7000", "--save", "", "--appendonly", "yes", "--dir", "/tmp"], stdout=subprocess.DEVNULL)
while True:
    try:
        c = socket.create_connection(("127.0.0.1", 7000))
        break
    except OSError:
        time.sleep(0.05)
f = c.makefile("rwb")


def ask(text):
    f.write(text.encode() + b"\r\n")
    f.flush()
    line = f.readline()
    if line.startswith(b"$"):
        return f.readline().strip().decode()
    return line.strip().decode()


for n in range(2000):
    assert ask("SET key%d value%d" % (n, n)) == "+OK"
i = 0
while True:
    assert ask("INCR counter") == ":%d" % (i + 1)
    assert ask("GET key%d" % (i % 2000)) == "value%d" % (i % 2000)
    print("n%d." % i, flush=True)
    i += 1
    time.sleep(0.02)
