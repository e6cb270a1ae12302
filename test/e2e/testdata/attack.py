"""Carries out attacks inside an agent, one at a time, as the test asks for them.

Each line of standard input is a JSON object: name, of the attempt, and code. The
code of one attempt shares its variables, and begins with those of "start". The answer is a line that begins with
"= " and holds, as JSON text, what came of it: the value of the last expression,
or the name of the errno, and behind it the code of AIOS if that is known.
"""
import ast, ctypes, errno, fcntl, json, mmap, os, select, signal, socket, struct, sys, threading, time

GIVEN = json.loads(sys.argv[1])  # numbers: of system calls, of ioctls
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.mmap.restype = ctypes.c_long


class Refused(OSError):
    def __init__(self, number, code=""):
        super().__init__(number, code)
        self.code = code


def word(x):
    if isinstance(x, int):
        return ctypes.c_long(x - (1 << 64) if x >= 1 << 63 else x)
    return x.encode() if isinstance(x, str) else x


def call(name, *args):
    """Makes a system call, with numbers, texts and buffers for arguments."""
    ctypes.set_errno(0)
    got = libc.syscall(ctypes.c_long(GIVEN["calls"].get(name, name)), *map(word, args))
    if got == -1 and ctypes.get_errno():
        raise OSError(ctypes.get_errno(), name)
    return got


def buf(data, size=0):
    return ctypes.create_string_buffer(data, max(size, len(data)))


def addr(of):
    return ctypes.addressof(of)


def mapped(length, prot, flags, fd=-1, offset=0, at=0):
    ctypes.set_errno(0)
    got = libc.mmap(ctypes.c_void_p(at), ctypes.c_size_t(length), prot, flags, fd, ctypes.c_long(offset))
    if got == -1:
        raise OSError(ctypes.get_errno(), "mmap")
    return got


def outcome(f):
    """What f() comes to, as text."""
    try:
        return str(f())
    except OSError as e:
        name = errno.errorcode.get(e.errno, str(e.errno))
        code = getattr(e, "code", "")
        return name + " " + code if code else name


def child(f, stay=False):
    """What f() comes to in a process of its own, or which signal ended that."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(r)
        os.write(w, outcome(f).encode())
        if stay:
            time.sleep(1000)
        os._exit(0)
    os.close(w)
    out = b""
    while part := os.read(r, 65536):
        out += part
    os.close(r)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return out.decode()


def enter():
    """Enters a name space in which the process may mount."""
    call("unshare", 0x10020000)


def sleeper():
    """A process that does nothing; it ends with this one."""
    pid = os.fork()
    if pid == 0:
        libc.prctl(1, 9)
        time.sleep(1000)
        os._exit(0)
    return pid


class Held:
    """A process that is made now, and does f() when it is told to."""

    def __init__(self, f, first):
        self.mine, its = socket.socketpair()
        self.pid = os.fork()
        if self.pid:
            its.close()
            self.mine.recv(1)
            return
        self.mine.close()
        began = outcome(first)
        its.send(b"x")
        if its.recv(1):
            its.send((outcome(f) if began == "None" else "before: " + began).encode())
        os._exit(0)

    def go(self):
        """What f() came to, or which signal ended the process."""
        self.mine.send(b"x")
        got = self.mine.recv(65536)
        _, status = os.waitpid(self.pid, 0)
        return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else got.decode()


class Later:
    """f() on a thread of its own."""

    def __init__(self, f):
        self.result = None
        self.thread = threading.Thread(target=self.run, args=(f,), daemon=True)
        self.thread.start()
        time.sleep(0.1)

    def run(self, f):
        self.result = outcome(f)

    def ended(self):
        self.thread.join(20)
        return self.result or "still blocked"


def put(fd, data=b"x"):
    return os.write(fd, data)


def writes(path, flags=os.O_WRONLY):
    """Opens path for writing; whoever may is shown to have written."""
    fd = os.open(path, flags)
    return "wrote %d" % os.write(fd, b"changed by an agent\n")


def reads(path):
    with open(path, "rb") as f:
        return f.read(64)


def passed(fd):
    """fd as another process of this agent would get it: through a socket."""
    a, b = socket.socketpair()
    socket.send_fds(a, [b"x"], [fd])
    return socket.recv_fds(b, 1, 1)[1][0]


def listens(path, fds):
    """Hands fds to whoever connects to path."""
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    s.listen()

    def serve():
        while True:
            c, _ = s.accept()
            socket.send_fds(c, [b"x"], fds)

    threading.Thread(target=serve, daemon=True).start()


def fetch(path, n):
    """What listens hands out."""
    c = socket.socket(socket.AF_UNIX)
    c.connect(path)
    return socket.recv_fds(c, 1, n)[1]


def caps():
    """The agent's capabilities: handle, ID and grant."""
    return [line.split() for line in open("/aios/self/caps")]


def handle(grant):
    """The handle of the capability whose grant begins so, as text."""
    return next(c[0] for c in caps() if c[2].startswith(grant))


def capid(grant):
    return next(c[1] for c in caps() if c[2].startswith(grant))


def order(fd, command):
    try:
        os.write(fd, command.encode())
    except OSError as e:
        code = ""
        try:
            code = os.read(fd, 65536).decode()
        except OSError:
            pass
        raise Refused(e.errno, code[6:].split(":")[0] if code.startswith("error ") else "") from None
    out = b""
    while part := os.read(fd, 65536):
        out += part
    return out.decode()


def ctl(command):
    """Writes a command to /aios/ctl and returns the answer."""
    fd = os.open("/aios/ctl", os.O_RDWR)
    try:
        return order(fd, command)
    finally:
        os.close(fd)


def control(fd, name, data):
    """Makes an ioctl of /dev/aios with a structure that begins with data."""
    request, size = GIVEN["ioctls"][name]
    arg = buf(data, size)
    try:
        call("ioctl", fd, request, addr(arg))
    except OSError as e:
        request, size = GIVEN["ioctls"]["AIOS_IOC_ERROR"]
        text = buf(b"", size)
        code = ""
        try:
            call("ioctl", fd, request, addr(text))
            code = text.raw[8:].split(b"\0")[0].decode()
        except OSError:
            pass
        raise Refused(e.errno, code[6:].split(":")[0] if code.startswith("error ") else "") from None
    return arg.raw


def device(name, data):
    fd = os.open("/dev/aios", os.O_RDWR)
    try:
        return control(fd, name, data)
    finally:
        os.close(fd)


def change(handle, set=0, flags=0, rights=0, limits=(0,) * 6, lease=0, badge=0, to=b"", object=b"", at=b""):
    """The structure aios_change."""
    return (struct.pack("<QIIII6QQQ16s", int(handle), set, flags, rights, 0, *limits, lease, badge, b"") +
            struct.pack("128s4096s4096s", to, object, at))


def ref(handle=0, id=b"", lease=0, flags=0):
    """The structure aios_ref."""
    return struct.pack("<Q16sQIIQ", int(handle), id, lease, flags, 0, 0)


def run(code, space):
    tree = ast.parse(code)
    last = None
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(tree.body.pop().value)
    exec(compile(tree, "attack", "exec"), space)
    return eval(compile(last, "attack", "eval"), space) if last else None


def main():
    spaces = {}
    for line in sys.stdin:
        ask = json.loads(line)
        space = spaces.setdefault(ask["name"], dict(spaces.get("start", globals()), **GIVEN["names"]))
        try:
            got = outcome(lambda: run(ask["code"], space))
        except BaseException as e:
            got = "%s: %s" % (type(e).__name__, e)
        print("= " + json.dumps(got), flush=True)


main()
