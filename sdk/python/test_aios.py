"""Tests of aios.py against files that look like /aios. The end-to-end tests use a real one."""

import datetime
import errno
import json
import os
import pathlib
import signal
import socket
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import aios  # noqa: E402

CAPS = """\
1 c0123456789ab fs:/my%20data:ro
2 c0123456789ac fs:/work:rw,quota=1G,inodes=10000,at=/x%2Cy,lease=30s,badge=7,sealed parent=c0123456789aa expires=29.4s rest=bytes:1048576,count:9
3 c0123456789ad mem:self,bytes=256M
4 c0123456789ae agent:*:signal+inspect
"""


class Files(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        old = aios.ROOT
        aios.ROOT = self.dir.name
        self.addCleanup(setattr, aios, "ROOT", old)
        root = pathlib.Path(self.dir.name, "self")
        root.mkdir()
        for name, text in {
            "caps": CAPS, "id": "a0123456789ab\n", "name": "worker\n", "domain": "default\n",
            "stats": '{"memory":{"now":5}}\n', "limits": "mem bytes=268435456\nproc count=64\nagent\n",
            "tree": CAPS.splitlines()[0] + "\n 1 c0123456789af fs:/my%20data/in:read holder=a0123456789ab parent=c0123456789ab\n",
        }.items():
            (root / name).write_text(text)

    def test_caps(self):
        ro, rw, mem, agent = aios.caps()
        self.assertEqual((ro.handle, ro.id, ro.cls, ro.object), (1, "c0123456789ab", "fs", "/my data"))
        self.assertEqual(ro.rights, {"read", "exec"})
        self.assertEqual((ro.limits, ro.at, ro.sealed, ro.expires, ro.parent), ({}, None, False, None, None))
        self.assertEqual(rw.rights, {"read", "write", "exec", "create", "delete"})
        self.assertEqual(rw.limits, {"quota": "1G", "inodes": "10000"})
        self.assertEqual((rw.at, rw.badge, rw.sealed, rw.expires), ("/x,y", 7, True, 29.4))
        self.assertEqual(rw.rest, {"bytes": 1048576, "count": 9})
        self.assertEqual((mem.object, mem.rights, mem.limits), ("self", {"map", "exec"}, {"bytes": "256M"}))
        self.assertEqual((agent.object, agent.rights), ("*", {"signal", "inspect"}))

    def test_tree(self):
        (d0, top), (d1, below) = aios.tree()
        self.assertEqual((d0, d1, top.holder, below.holder), (0, 1, None, "a0123456789ab"))

    def test_self(self):
        self.assertEqual(aios.whoami(), ("a0123456789ab", "worker", "default"))
        self.assertEqual(aios.stats()["memory"]["now"], 5)
        self.assertEqual(aios.limits(), {"mem": {"bytes": 268435456}, "proc": {"count": 64}, "agent": {}})

    def test_watchdog(self):
        dog = pathlib.Path(self.dir.name, "self", "watchdog")
        for call, want in ((lambda: aios.arm(30), "30s"), (lambda: aios.arm("1m30s"), "1m30s"), (aios.feed, "feed"), (aios.disarm, "off")):
            call()
            self.assertEqual(dog.read_text(), want)

    def test_hint(self):
        hint = pathlib.Path(self.dir.name, "self", "hint")
        hint.write_text("none\n")
        self.assertEqual(aios.hint(), "none")
        self.assertEqual(aios.hint("batch"), "batch")
        self.assertEqual(hint.read_text(), "batch")

    def test_ready(self):
        said = pathlib.Path(self.dir.name, "self", "template")
        said.write_text("none\n")
        old = aios._read
        self.addCleanup(setattr, aios, "_read", old)
        aios._read = lambda name: "none\n" if name == "self/template" else old(name)
        self.assertEqual(aios.ready(), (sys.argv[1:], {}, None, None))
        self.assertEqual(said.read_text(), "ready")
        aios._read = lambda name: "from py\n" if name == "self/template" else old(name)
        (said.parent / "job").write_text('{"args":["a","b"],"env":{"AIOS_TEST":"x"},"cwd":"/"}\n')
        argv, cwd = sys.argv[:], os.getcwd()
        self.addCleanup(os.chdir, cwd)
        self.addCleanup(sys.argv.__setitem__, slice(None), argv)
        self.addCleanup(os.environ.pop, "AIOS_TEST", None)
        self.assertEqual(aios.ready(apply=False), (["a", "b"], {"AIOS_TEST": "x"}, "/", "py"))
        self.assertEqual(sys.argv, argv)
        import random
        random.seed(7)
        next_would_be = random.Random(7).random()
        aios.ready()
        self.assertEqual((sys.argv[1:], os.environ["AIOS_TEST"], os.getcwd()), (["a", "b"], "x", "/"))
        self.assertNotEqual(random.random(), next_would_be)

    def test_copies(self):
        clones = pathlib.Path(self.dir.name, "self", "clones")
        clones.write_text("0 -\n")
        self.assertEqual(aios.copies(), (0, None))
        clones.write_text("2 a0123456789ab\n")
        self.assertEqual(aios.copies(), (2, "a0123456789ab"))
        heard = []
        self.addCleanup(signal.signal, aios.SIGAIOSCLONE, signal.getsignal(aios.SIGAIOSCLONE))
        aios.on_copy(lambda: heard.append(1))
        self.assertEqual(clones.read_text(), "signal")
        os.kill(os.getpid(), aios.SIGAIOSCLONE)
        self.assertEqual(heard, [1])

    def test_outside(self):
        aios.ROOT = os.path.join(self.dir.name, "missing")
        for call in (aios.caps, lambda: aios.command("list")):
            with self.assertRaises(aios.Error) as e:
                call()
            self.assertEqual(e.exception.errno, errno.ENOENT)
            self.assertIn("inside an AIOS agent", e.exception.fix)

    def test_not_a_capability(self):
        for line in ("", "1", "x c0 fs:/:ro", "1 c0 fs", "1 c0 fs:/a:ro expires", "1 c0 fs:/a:ro expires=soon"):
            with self.assertRaises(ValueError, msg=line):
                aios.Capability.parse(line)


class Commands(unittest.TestCase):
    """What is written, and what is made of the answer."""

    def setUp(self):
        self.lines = []
        self.answer = CAPS.splitlines()[1]
        old = aios.command
        aios.command = self.command
        self.addCleanup(setattr, aios, "command", old)
        self.own = aios.Capability.parse(CAPS.splitlines()[0])
        self.given = aios.Capability.parse("7 c0123456789af fs:/in:ro holder=a0123456789ab")

    def command(self, line):
        self.lines.append(line)
        return self.answer

    def test_lines(self):
        self.own.delegate("worker", object="/my data/a,b", rights=["read", "write"], lease=datetime.timedelta(seconds=90), quota="1M", sealed=True)
        self.own.delegate("worker", move=True, rights=None, sealed=False, at="/x")
        self.own.attenuate(rights="ro", badge=7, lease=0.5)
        self.own.seal()
        self.given.renew("1m")
        self.own.signal(signal.SIGTERM)
        self.own.signal("KILL", agent="w")
        self.own.pause("w")
        self.own.resume()
        self.own.inspect()
        self.assertEqual(self.lines, [
            "delegate 1 to=worker object=/my%20data/a%2Cb rights=read+write lease=90s quota=1M sealed",
            "move 1 to=worker at=/x",
            "attenuate 1 rights=ro badge=7 lease=0.5s",
            "seal 1",
            "renew c0123456789af lease=1m",
            "signal 1 SIGTERM",
            "signal 1 KILL agent=w",
            "pause 1 agent=w",
            "resume 1",
            "inspect 1",
        ])

    def test_answers(self):
        self.assertEqual(self.own.seal().id, "c0123456789ac")
        self.answer = "revoked=3\n"
        self.assertEqual((self.own.revoke(), self.given.revoke_children()), (3, 3))
        self.assertEqual(self.lines[1:], ["revoke 1", "revoke-children c0123456789af"])
        self.answer = "allowed\nit holds that\nand that\n"
        self.assertEqual(aios.explain("open /x"), (True, "it holds that\nand that"))
        self.answer = "refused\nit does not\n"
        self.assertEqual(aios.explain("open /x"), (False, "it does not"))

    def test_what_is_not_sent(self):
        for call in (
            lambda: self.given.seal(),
            lambda: self.given.delegate("x"),
            lambda: self.own.delegate("x rights=rw"),
            lambda: self.own.delegate(""),
            lambda: self.own.attenuate(rights="read sealed"),
            lambda: self.own.attenuate(object=""),
            lambda: self.own.attenuate(quota="1M\nrevoke 1"),
        ):
            with self.assertRaises(ValueError):
                call()
        with self.assertRaises(TypeError):
            self.own.attenuate(colour="red")
        self.assertEqual(self.lines, [])


LINE = (b'{"specversion":"1.0","id":"k1-7","source":"/aios/default/a0123456789ab","type":"dev.aios.agent.exec",'
        b'"time":"2026-11-23T17:01:13.250000000Z","subject":"a0123456789ab","datacontenttype":"application/json",'
        b'"aiosseverity":"info","aiosmono":"5","data":{"path":"/bin/true"}}\n')
LOST = (b'{"specversion":"1.0","id":"k1.1-1","source":"/aios/default","type":"dev.aios.bus.lost","time":"2026-11-23T17:01:13Z",'
        b'"datacontenttype":"application/json","aiosseverity":"warning","aiosmono":"5","data":{"where":"subscriber","count":3}}\n')


class Remembering(unittest.TestCase):
    """Semantic memory, of a server that answers as the kernel does."""

    def setUp(self):
        import http.server
        import socketserver
        import threading

        asked = self.asked = []
        answers = {
            "/v1/put": (200, '{"id": "x", "version": 7}'), "/v1/search": (200, '{"hits": [{"id": "x", "score": 0.5}]}'),
            "/v1/delete": (200, '{"deleted": 2}'), "/v1/get": (403, '{"error": {"code": "CAPABILITY_DENIED", "message": "no", "fix": "ask"}}'),
        }

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
                status, body = answers[self.path]
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_):
                pass

            def address_string(self):
                return ""

        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        old, aios.ROOT = aios.ROOT, directory.name
        self.addCleanup(setattr, aios, "ROOT", old)
        server = socketserver.ThreadingUnixStreamServer(directory.name + "/semantic.sock", Handler)
        server.daemon_threads = True
        self.addCleanup(server.server_close)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.shutdown)

    def test_questions(self):
        notes = aios.Memory("notes")
        self.addCleanup(notes.close)
        self.assertEqual(notes.put("cat", [1.0, 2.0], tags=["animals"], if_version=0), "x")
        self.assertEqual(self.asked[-1], ("/v1/put", {
            "namespace": "notes", "text": "cat", "vector": [1.0, 2.0], "id": "", "tags": ["animals"], "if_version": 0}))
        self.assertEqual(notes.search("cat", k=3, namespace="*")[0]["score"], 0.5)
        self.assertEqual(self.asked[-1], ("/v1/search", {"namespace": "*", "text": "cat", "k": 3}))
        self.assertEqual(notes.delete("x", "y"), 2)
        with self.assertRaises(aios.Error) as caught:
            notes.get("x")
        self.assertEqual((caught.exception.code, caught.exception.fix), ("CAPABILITY_DENIED", "ask"))
        notes.close()
        self.assertEqual(notes.delete("x"), 2)

    def test_outside(self):
        aios.ROOT += "/nowhere"
        with self.assertRaises(aios.Error):
            aios.Memory().put("x")


class Listening(unittest.TestCase):
    """Against a socket in the place of /aios/events."""

    def setUp(self):
        self.kernel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.addCleanup(self.kernel.close)
        self.addCleanup(theirs.close)
        self.addCleanup(setattr, os, "open", os.open)
        self.opened = []
        os.open = lambda path, flags: self.opened.append((path, flags)) or os.dup(theirs.fileno())

    def test_events(self):
        with aios.events() as events:
            self.kernel.send(LINE + LOST + LINE[:50])
            self.kernel.send(LINE[50:])
            first, lost, last = events.get(), events.get(timeout=0), next(events)
            self.assertEqual(self.opened, [(aios.ROOT + "/events", os.O_RDWR | os.O_CLOEXEC)])
            self.assertEqual((first.id, first.topic, first.severity, first.domain, first.agent), ("k1-7", "agent.exec", "info", "default", "a0123456789ab"))
            self.assertEqual((first.data, first.time, first.correlation), ({"path": "/bin/true"}, 1795453273.25, ""))
            self.assertEqual((lost.topic, lost.agent, lost.data["count"], lost.time), ("bus.lost", "", 3, 1795453273.0))
            self.assertEqual(last, first)
            self.assertFalse(events.pending())
            began = time.monotonic()
            self.assertIsNone(events.get(timeout=0.05))
            self.assertGreaterEqual(time.monotonic() - began, 0.05)
            fd = events.fileno()
        with self.assertRaises(OSError):
            os.fstat(fd)

    def test_choice(self):
        events = aios.events("agent.*@worker", "net.*", severity="notice", policy="disconnect", queue=9, filter="data.code != 0 && true")
        self.assertEqual(self.kernel.recv(1000), b"topics=agent.*@worker,net.* severity=notice policy=disconnect queue=9 filter=data.code != 0 && true")
        self.kernel.send(LINE[:20])
        events._buffer = os.read(events.fileno(), 100)
        events.choose("*@self")
        self.assertEqual(self.kernel.recv(1000), b"topics=*@self")
        self.kernel.send(LINE)
        self.assertEqual(events.get().topic, "agent.exec")
        events.close()
        events.close()

    def test_refused(self):
        write = os.write
        self.addCleanup(setattr, os, "write", write)

        def refuse(fd, data):
            raise OSError(errno.EPERM, "no")

        os.write = refuse
        self.kernel.send(b"error CAPABILITY_DENIED: it holds nothing\nfix: ask for event:*\n")
        with self.assertRaises(aios.Error) as e:
            aios.events("*@other")
        self.assertEqual((e.exception.errno, e.exception.code, e.exception.fix), (errno.EPERM, "CAPABILITY_DENIED", "ask for event:*"))

    def test_ended(self):
        events = aios.events()
        self.addCleanup(setattr, os, "read", os.read)

        def gone(fd, n):
            raise OSError(errno.EACCES, "Permission denied")

        os.read = gone
        with self.assertRaises(aios.Error) as e:
            next(events)
        self.assertEqual(e.exception.errno, errno.EACCES)
        self.assertIn("listen anew", e.exception.fix)
        events.close()

    def test_not_sent(self):
        for choice in ({"severity": "x y"}, {"policy": "a\nb"}, {"filter": "a\nqueue=1"}):
            with self.assertRaises(ValueError):
                aios.events(**choice)
        for topics in (("a b",), ("a,b",), ("",)):
            with self.assertRaises(ValueError):
                aios.events(*topics)
        for line in (b"", b"{}", b"[]", b"error X: y", b'{"id":1}', LINE.replace(b"2026", b"x")):
            with self.assertRaises(ValueError):
                aios.Event.parse(line)


class Refusals(unittest.TestCase):
    def test_text(self):
        e = aios._refusal(OSError(errno.EPERM, "no"), "error RIGHTS_EXCEED: it lacks write\nfix: ask for less\n")
        self.assertEqual((e.errno, e.code, e.message, e.fix), (errno.EPERM, "RIGHTS_EXCEED", "it lacks write", "ask for less"))
        self.assertIsInstance(e, OSError)
        self.assertEqual(str(e), "RIGHTS_EXCEED: it lacks write; ask for less")
        e = aios._refusal(OSError(errno.EBADF, "no"), "error CAPABILITY_NOT_FOUND: gone\n")
        self.assertEqual((e.code, e.fix), ("CAPABILITY_NOT_FOUND", ""))
        e = aios._refusal(OSError(errno.E2BIG, "too long"), "")
        self.assertEqual((e.errno, e.code, e.message), (errno.E2BIG, "", "too long"))

    def test_durations(self):
        for text, want in {"30s": 30, "1h0m0s": 3600, "1m30.5s": 90.5, "5ms": 0.005, "12µs": 12e-6}.items():
            self.assertAlmostEqual(aios._seconds(text), want)
        for text in ("", "5", "s", "1x", "1m foo"):
            with self.assertRaises(ValueError):
                aios._seconds(text)
        self.assertEqual(aios._duration(30), "30s")
        self.assertEqual(aios._duration(1e-9), "0.000000001s")


if __name__ == "__main__":
    unittest.main()
