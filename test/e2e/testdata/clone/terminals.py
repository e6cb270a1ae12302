# Terminals: a shell with job control, lines and raw input that wait, what was
# written and not read, sizes, settings, process groups in the foreground.
import fcntl, os, pty, re, signal, struct, sys, termios, time, tty


def read_until(fd, mark):
    got = b''
    while mark not in got:
        try:
            got += os.read(fd, 1000)
        except OSError as err:
            return got + str(err.errno).encode()
    return got


def size(fd, rows=0, cols=0):
    if rows:
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', rows, cols, 0, 0))
    return struct.unpack('HHHH', fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))[:2]


def shell(n):
    pid, fd = pty.fork()
    if pid == 0:
        os.environ['PS1'] = os.environ['PS2'] = ''
        os.execvp('bash', ['bash', '--norc', '--noprofile', '--noediting', '-i'])
    size(fd, 20 + n, 80)
    os.write(fd, b'stty -echo; echo be\\gin\n')
    read_until(fd, b'begin\r\n')
    said = []

    def do(command, mark):
        os.write(fd, command)
        said.append(read_until(fd, mark).decode().replace('\r\n', '|'))

    do(b'stty size; echo do\\ne\n', b'done\r\n')
    do(b'cat; echo en\\d\nsome text\n\x04', b'end\r\n')
    do(b'sh -c "echo start\\ed; read x; exit \\$x"\n', b'started\r\n')
    time.sleep(0.02)
    os.write(fd, b'\x1a')
    said.append(re.sub(r'.*Stopped', 'Stopped', read_until(fd, b'"\r\n').decode()).split(' ')[0])
    do(b'fg %1 >/dev/null; echo "=$?"\n3\n', b'=3\r\n')
    do(b'python3 -c "import os; f = os.open(\'/dev/tty\', os.O_RDWR); print(os.tcgetpgrp(f) == os.getpgrp(), os.isatty(f), flush=True); input()" && echo ye\\s\n', b'True True\r\n')
    size(fd, 40 + n, 100)
    do(b'x\n', b'yes\r\n')
    do(b'stty size\n', b'\r\n')
    os.write(fd, b'exit 7\n')
    rest = read_until(fd, b'never')
    said.append(rest.replace(b'exit\r\n', b'').decode())
    said.append(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    os.close(fd)
    print(n, said, flush=True)


def waits(n):
    master, replica = pty.openpty()
    attrs = termios.tcgetattr(replica)
    attrs[3] &= ~termios.ECHO
    termios.tcsetattr(replica, termios.TCSANOW, attrs)
    os.write(master, b'one %d\ntwo\x7f\x7fhree\npart' % n)
    os.write(replica, b'out %d\n' % n * 20)
    time.sleep(0.03)
    lines = [os.read(replica, 100)]
    time.sleep(0.03)
    lines.append(os.read(replica, 100))
    time.sleep(0.03)
    os.write(master, b'ial\n\x04')
    lines += [os.read(replica, 100), os.read(replica, 100)]
    out = b''
    while len(out) < len(b'out %d\r\n' % n) * 20:
        out += os.read(master, 7)
    tty.setraw(replica)
    os.write(master, b'raw\r\n\x03%d' % n)
    os.write(replica, b'raw\n')
    time.sleep(0.03)
    print(lines, out.count(b'\r\n'), os.read(replica, 100), os.read(master, 100), size(master), flush=True)
    fcntl.ioctl(master, termios.TIOCPKT, struct.pack('i', 1))
    os.write(replica, b'packet')
    time.sleep(0.01)
    print(os.read(master, 100))
    fcntl.ioctl(replica, termios.TCFLSH, termios.TCIOFLUSH)
    time.sleep(0.01)
    print(os.read(master, 100), os.ttyname(replica).startswith('/dev/pts/'))
    os.close(replica)
    time.sleep(0.01)
    try:
        print(os.read(master, 1))
    except OSError as err:
        print(err.errno, flush=True)
    os.close(master)


def hangup():
    pid, fd = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, lambda *a: os._exit(9))
        print('ready', flush=True)
        while True:
            time.sleep(1)
    read_until(fd, b'ready')
    time.sleep(0.05)
    os.close(fd)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


for n in range(1 if os.environ.get('SHORT') else 2):
    shell(n)
    waits(n)
    hangup()
