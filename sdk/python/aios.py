"""What a program inside an AIOS agent may do, and how to narrow, lend and take it back.

An agent holds capabilities: each names an object, carries rights and limits, and may have a lease.
This module reads them from /aios/self and acts on them through /aios/ctl; docs/inside.md describes
both. It is one file, needs Python 3.8 and nothing else, and is safe to use from several threads.

    import aios

    data = next(c for c in aios.caps() if c.object == "/data")
    lent = data.delegate("worker", rights="read", lease="30s")
    lent.revoke()

It also reads what happens, from /aios/events:

    with aios.events("agent.exit@worker", severity="notice") as events:
        for e in events:
            print(e.topic, e.data)

And it remembers, in semantic memory:

    notes = aios.Memory("notes")
    notes.put("the cat sleeps on the keyboard", vector=[0.1, 0.9])
    print(notes.search("cat")[0]["text"])
"""

from __future__ import annotations

import calendar
import datetime
import errno
import json
import os
import re
import select
import signal
import sys
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, FrozenSet, Iterable, Iterator, List, NamedTuple, Optional, Tuple, Union

__all__ = [
    "Capability", "Error", "Event", "Events", "Explanation", "Identity", "Memory", "Job", "SIGAIOSCLONE",
    "caps", "command", "copies", "events", "explain", "limits", "on_copy", "ready", "stats", "tree", "whoami",
]

#: Where the kernel shows itself.
ROOT = "/aios"

#: The rights of every class, the lowest bit first.
RIGHTS: Dict[str, Tuple[str, ...]] = {
    "fs": ("read", "write", "exec", "create", "delete"),
    "net": ("connect", "bind"),
    "mem": ("map", "exec"),
    "cpu": ("run",),
    "io": ("read", "write"),
    "proc": ("spawn", "exec", "signal", "debug"),
    "agent": ("signal", "inspect", "pause"),
    "sys": ("use",),
    "event": ("subscribe",),
    "svc": ("connect",),
    "region": ("read", "write", "snapshot", "share"),
    "semantic": ("read", "write", "delete", "share"),
}

Duration = Union[str, int, float, datetime.timedelta]
Rights = Union[str, Iterable[str]]


class Error(OSError):
    """A refusal.

    ``code`` is stable and what programs compare, ``fix`` says what helps and may be empty; ``errno``
    is that of the failed call.
    """

    def __init__(self, errno: int, code: str, message: str, fix: str = "") -> None:
        super().__init__(errno, message)
        self.code = code
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        text = f"{self.code}: {self.message}" if self.code else self.message
        return f"{text}; {self.fix}" if self.fix else text


class Identity(NamedTuple):
    """Who the agent is."""

    id: str
    name: str
    domain: str


class Job(NamedTuple):
    """What a copy of a template is to do."""

    args: List[str]
    env: Dict[str, str]
    cwd: Optional[str] = None
    template: Optional[str] = None  #: its name; None if the agent began from none


class Explanation(NamedTuple):
    """Whether an operation would be allowed, and why."""

    allowed: bool
    why: str


@dataclass(frozen=True)
class Capability:
    """A capability, as it was when it was read."""

    handle: int  #: what its holder calls it by; 0 if it is held in another domain
    id: str  #: its name everywhere
    grant: str  #: the text of a grant that says the same
    cls: str  #: "fs", "net", ...
    object: str  #: a path, "self", the name of an agent, ...
    rights: FrozenSet[str]
    limits: Dict[str, str] = field(default_factory=dict)  #: as in grants: {"quota": "1G"}
    at: Optional[str] = None  #: files: where they appear, if not at their own path
    badge: int = 0
    sealed: bool = False
    holder: Optional[str] = None  #: who holds it, if not this agent
    parent: Optional[str] = None  #: ID of what it was derived from
    expires: Optional[float] = None  #: seconds that it still lived when it was read
    rest: Dict[str, int] = field(default_factory=dict)  #: what is left of limits that were divided

    @classmethod
    def parse(cls, line: str) -> "Capability":
        """Read a line of /aios/self/caps."""
        try:
            handle, cid, grant, *extras = line.split()
            head, *options = grant.split(",")
            parts = head.split(":")
            extra = dict(e.split("=", 1) for e in extras)
            keys = dict(o.split("=", 1) for o in options if "=" in o)
            rights = parts[2] if len(parts) > 2 else "all"
            at = keys.pop("at", None)
            badge = int(keys.pop("badge", "0"))
            keys.pop("lease", None)
            rest = [r.split(":") for r in extra.get("rest", "").split(",") if r]
            return cls(
                handle=int(handle), id=cid, grant=grant, cls=parts[0], object=_unquote(parts[1]),
                rights=_expand(parts[0], rights), limits=keys, at=None if at is None else _unquote(at),
                badge=badge, sealed="sealed" in options,
                holder=extra.get("holder"), parent=extra.get("parent"),
                expires=_seconds(extra["expires"]) if "expires" in extra else None,
                rest={k: int(v) for k, v in rest},
            )
        except (ValueError, IndexError, KeyError) as e:
            raise ValueError(f"not a capability: {line!r}") from e

    def delegate(self, to: str, *, move: bool = False, **change: Any) -> "Capability":
        """Give ``to``, an agent's name or ID, the same or less, and return what it got.

        ``change`` takes object, rights, the limits of the class (quota, inodes, bytes, count, swap, cpu,
        weight, bps, ops), at, lease, badge and sealed. With ``move`` this agent no longer has it.
        """
        verb = "move" if move else "delegate"
        return _capability(f"{verb} {self._own()} to={_word(to)}{_change(change)}")

    def attenuate(self, **change: Any) -> "Capability":
        """Narrow it in place, and return it as it is then; ``change`` as for delegate."""
        return _capability(f"attenuate {self._own()}{_change(change)}")

    def seal(self) -> "Capability":
        """Forbid that it is delegated further."""
        return _capability(f"seal {self._own()}")

    def renew(self, lease: Duration) -> "Capability":
        """Let one that this agent gave live for ``lease`` from now on."""
        return _capability(f"renew {self._any()} lease={_duration(lease)}")

    def revoke(self) -> int:
        """End it and all that was derived from it; return how many ended.

        When it returns, nothing of that works any more, in any domain.
        """
        return _revoked(f"revoke {self._any()}")

    def revoke_children(self) -> int:
        """End all that was derived from it, and keep it."""
        return _revoked(f"revoke-children {self._any()}")

    def signal(self, signal: Union[int, str], agent: str = "") -> None:
        """Send a signal to the agent that it is to, or covers."""
        name = getattr(signal, "name", signal)
        command(f"signal {self._own()} {_word(str(name))}{_agent(agent)}")

    def pause(self, agent: str = "") -> None:
        """Stop that agent."""
        command(f"pause {self._own()}{_agent(agent)}")

    def resume(self, agent: str = "") -> None:
        """Let that agent run on."""
        command(f"resume {self._own()}{_agent(agent)}")

    def inspect(self, agent: str = "") -> str:
        """Describe it, and the agent that it is to."""
        return command(f"inspect {self._own()}{_agent(agent)}")

    def _own(self) -> int:
        if self.holder is not None:
            raise ValueError(f"{self.id} is held by {self.holder}, not by this agent")
        return self.handle

    def _any(self) -> Union[int, str]:
        return self.handle if self.holder is None else self.id


@dataclass(frozen=True)
class Event:
    """One thing that happened."""

    id: str  #: no other event has it
    topic: str  #: "agent.exit"; "bus.lost" says that some are missing right here
    time: float  #: seconds since 1970
    severity: str  #: "debug", "info", "notice", "warning", "error" or "critical"
    domain: str
    agent: str  #: ID of the agent that it is about, or ""
    correlation: str  #: of the request that caused it, or ""
    data: Dict[str, Any]  #: its fields; those that are zero or empty are left out

    @classmethod
    def parse(cls, line: Union[str, bytes]) -> "Event":
        """Read a line of /aios/events."""
        try:
            raw = json.loads(line)
            stamp, _, fraction = raw["time"].rstrip("Z").partition(".")
            seconds = calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%S"))
            return cls(
                id=raw["id"], topic=raw["type"][len("dev.aios."):], time=seconds + float("0." + (fraction or "0")),
                severity=raw["aiosseverity"], domain=raw["source"].split("/")[2], agent=raw.get("subject", ""),
                correlation=raw.get("aioscorrelation", ""), data=raw["data"],
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as e:
            raise ValueError(f"not an event: {line!r}") from e


class Events:
    """Events as they happen: iterate over it, or ``get`` one. One thread at a time may use it.

    It listens from when it is made until it is closed. When the authority to listen ends,
    what reads raises Error with errno EACCES; with the policy "disconnect", a reader that is too
    slow gets ENOBUFS. It has a file descriptor for select, poll and asyncio; ``pending`` says
    whether something was read already.
    """

    def __init__(self, *topics: str, severity: str = "", filter: str = "", policy: str = "", queue: int = 0) -> None:
        self._buffer = b""
        self._fd = -1
        try:
            self._fd = os.open(os.path.join(ROOT, "events"), os.O_RDWR | os.O_CLOEXEC)
        except OSError as e:
            raise _outside(e) from e
        try:
            if topics or severity or filter or policy or queue:
                self.choose(*topics, severity=severity, filter=filter, policy=policy, queue=queue)
        except BaseException:
            self.close()
            raise

    def choose(self, *topics: str, severity: str = "", filter: str = "", policy: str = "", queue: int = 0) -> None:
        """Listen to something else from now on; what was not read is dropped."""
        line = _choice(topics, severity, filter, policy, queue)
        try:
            os.write(self._fd, line.encode())
        except OSError as e:
            answer = b""
            if e.errno not in (errno.EACCES, errno.E2BIG):  # Those are not explained.
                try:
                    answer = os.read(self._fd, 65536)
                except OSError:
                    pass
            raise _refusal(e, answer.decode(errors="replace")) from None
        self._buffer = b""

    def get(self, timeout: Optional[float] = None) -> Optional[Event]:
        """The next event; None if there is none within ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.pending():
            if deadline is not None and not self._wait(deadline - time.monotonic()):
                return None
            try:
                piece = os.read(self._fd, 65536)
            except OSError as e:
                raise Error(e.errno or 0, "", f"events: {e.strerror}", _EVENTS_FIX.get(e.errno or 0, "")) from None
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return Event.parse(line)

    def pending(self) -> bool:
        """Whether ``get`` has something without reading the file."""
        return b"\n" in self._buffer

    def fileno(self) -> int:
        """The file descriptor, readable when something is there."""
        return self._fd

    def close(self) -> None:
        """Stop listening."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _wait(self, seconds: float) -> bool:
        p = select.poll()
        p.register(self._fd, select.POLLIN)
        return bool(p.poll(max(0.0, seconds) * 1000))

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        e = self.get()
        assert e is not None
        return e

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def events(*topics: str, severity: str = "", filter: str = "", policy: str = "", queue: int = 0) -> Events:
    """Listen to events of ``topics``, each TOPIC[@AGENT] such as "agent.*@worker" or "*@self".

    Without topics it is everything that this agent may see, but what is only made on demand.
    ``severity`` is the least, ``filter`` an expression of CEL, ``queue`` how many may wait, and
    ``policy`` what becomes of more: "drop-oldest", "drop-newest" or "disconnect".
    """
    return Events(*topics, severity=severity, filter=filter, policy=policy, queue=queue)


_EVENTS_FIX = {
    errno.EACCES: "a capability that they came through has ended; listen anew to what is left",
    errno.ENOBUFS: "read faster, or ask for fewer",
}


def _choice(topics: Iterable[str], severity: str, filter: str, policy: str, queue: int) -> str:
    words = []
    names = list(topics)
    if names:
        if any("," in n for n in names):
            raise ValueError(f"give topics one by one: {names!r}")
        words.append("topics=" + ",".join(_word(n) for n in names))
    for key, value in (("severity", severity), ("policy", policy), ("queue", str(queue) if queue else "")):
        if value:
            words.append(f"{key}={_word(value)}")
    if filter:  # It goes on to the end of the line.
        if re.search(r"[\n\x00]", filter):
            raise ValueError(f"a filter is one line: {filter!r}")
        words.append("filter=" + filter)
    return " ".join(words)


def caps() -> List[Capability]:
    """What this agent holds, by handle."""
    return [Capability.parse(line) for line in _read("self/caps").splitlines()]


def tree() -> List[Tuple[int, Capability]]:
    """What this agent holds and what was derived from it, each with its depth."""
    out = []
    for line in _read("self/tree").splitlines():
        out.append((len(line) - len(line.lstrip(" ")), Capability.parse(line)))
    return out


def whoami() -> Identity:
    """Who this agent is."""
    return Identity(*(_read("self/" + name).rstrip("\n") for name in Identity._fields))


def explain(operation: str) -> Explanation:
    """Whether an operation would be allowed, and why: ``explain("open /etc/shadow")``."""
    verdict, _, why = command(f"explain {operation}").partition("\n")
    return Explanation(verdict == "allowed", why.rstrip("\n"))


def stats() -> Dict[str, Any]:
    """What this agent has used."""
    return json.loads(_read("self/stats"))


def limits() -> Dict[str, Dict[str, int]]:
    """What this agent may use, by class; a limit that is missing is none."""
    out = {}
    for line in _read("self/limits").splitlines():
        name, *items = line.split()
        out[name] = {k: int(v) for k, v in (i.split("=", 1) for i in items)}
    return out


def arm(timeout: Duration) -> None:
    """Arm this agent's watchdog: it must be fed at least that often, from now on."""
    _order(_duration(timeout))


def feed() -> None:
    """Feed this agent's watchdog. It does nothing while it is not armed."""
    _order("feed")


def disarm() -> None:
    """Disarm a watchdog that this agent has armed."""
    _order("off")


def hint(what: Optional[str] = None) -> str:
    """Say what this agent does, for the scheduler: "interactive", "batch",
    "waiting-for-model", "tool-call", "speculative" or "none". Returns what
    holds; without an argument it only asks."""
    if what is not None:
        _order(what, "hint")
    return _read("self/hint").rstrip("\n")


#: The signal that on_copy asks for: SIGRTMIN+10 of the C library.
SIGAIOSCLONE = 44


def ready(apply: bool = True) -> Job:
    """Say that the program is warm. While a template is made, this returns in its copies only.

    Each copy gets its own job. With ``apply`` it is put where programs look for it: ``sys.argv[1:]``,
    ``os.environ``, the working directory; and ``random`` is seeded anew, if it was imported. In an
    agent that began from no template it does nothing, and the job is what ``sys.argv`` says.
    """
    _order("ready", "template")
    kind, _, name = _read("self/template").strip().partition(" ")
    if kind != "from":
        return Job(sys.argv[1:], {})
    raw = json.loads(_read("self/job"))
    job = Job(raw["args"], raw["env"], raw.get("cwd"), name)
    if apply:
        sys.argv[1:] = job.args
        os.environ.update(job.env)
        if job.cwd:
            os.chdir(job.cwd)
        _reseed()
    return job


def copies() -> Tuple[int, Optional[str]]:
    """How often this agent and what it is a copy of were copied, and the ID of what it is a copy of."""
    count, origin = _read("self/clones").split()
    return int(count), None if origin == "-" else origin


def on_copy(call: Callable[[], Any]) -> None:
    """Have ``call`` called in every copy of this process, before anything else, and ``random`` seeded anew.

    It sets the handler of SIGAIOSCLONE, so it must be called in the main thread.
    """
    def heard(*_: Any) -> None:
        _reseed()
        call()

    signal.signal(SIGAIOSCLONE, heard)
    _order("signal", "clones")


def _reseed() -> None:
    if "random" in sys.modules:
        sys.modules["random"].seed()


def _order(text: str, file: str = "watchdog") -> None:
    try:
        with open(os.path.join(ROOT, "self", file), "w") as f:
            f.write(text)
    except FileNotFoundError as e:
        raise _outside(e) from e


class Memory:
    """Semantic memory, by a connection of its own; docs/semantic-memory.md says what it does.

    Not for several threads at once: a connection answers one question after the other.
    """

    def __init__(self, namespace: str = "") -> None:
        self.namespace = namespace
        self._conn: Any = None

    def ask(self, op: str, **params: Any) -> Dict[str, Any]:
        """Ask for an operation; parameters that are None are left out."""
        body = json.dumps({k: v for k, v in params.items() if v is not None})
        if self._conn is None:
            self._conn = _memory()
        try:
            self._conn.request("POST", "/v1/" + op, body)
            answer = self._conn.getresponse()
            out = json.loads(answer.read())
        except Exception as e:  # Of sockets, of HTTP, of JSON.
            self.close()
            raise Error(errno.EPIPE, "", f"the connection to semantic memory has ended: {e}", "ask again") from e
        if answer.status != 200:
            refusal = out["error"]
            raise Error(0, refusal["code"], refusal["message"], refusal.get("fix", ""))
        return out

    def put(self, text: str = "", vector: Optional[List[float]] = None, id: str = "", tags: Iterable[str] = (), **more: Any) -> str:
        """Write an item and return its ID. More: ttl, parents, if_version, namespace."""
        params = {"namespace": self.namespace, "text": text, "vector": vector, "id": id, "tags": list(tags)}
        return self.ask("put", **{**params, **more})["id"]

    def search(self, text: str = "", vector: Optional[List[float]] = None, k: int = 10, **more: Any) -> List[Dict[str, Any]]:
        """Return the items that are nearest, the best first. More: tags, mode, weight, exact, namespace."""
        params = {"namespace": self.namespace, "text": text, "vector": vector, "k": k}
        return self.ask("search", **{**params, **more})["hits"]

    def get(self, *ids: str) -> List[Dict[str, Any]]:
        """Return those of the items that are there."""
        return self.ask("get", namespace=self.namespace, ids=ids)["items"]

    def delete(self, *ids: str) -> int:
        """Remove items and return how many there were."""
        return self.ask("delete", namespace=self.namespace, ids=ids)["deleted"]

    def close(self) -> None:
        """End the connection; the next question makes another."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None


def _memory() -> Any:
    # Imported by those who remember: it takes longer than all of the rest.
    import http.client
    import socket

    conn = http.client.HTTPConnection("aios")
    conn.auto_open = 0
    conn.sock = socket.socket(socket.AF_UNIX)
    try:
        conn.sock.connect(os.path.join(ROOT, "semantic.sock"))
    except OSError as e:
        conn.close()
        raise _outside(e) from e
    return conn


def command(line: str) -> str:
    """Write a command to /aios/ctl and return the answer without its "ok"."""
    try:
        fd = os.open(os.path.join(ROOT, "ctl"), os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        raise _outside(e) from e
    try:
        refused: Optional[OSError] = None
        try:
            os.write(fd, line.encode())
        except OSError as e:
            refused = e
        answer = b""
        while True:
            piece = os.read(fd, 65536)
            if not piece:
                break
            answer += piece
    finally:
        os.close(fd)
    text = answer.decode(errors="replace")
    if refused is not None:
        raise _refusal(refused, text) from None
    return text[len("ok"):].lstrip(" \n")


def _read(name: str) -> str:
    try:
        with open(os.path.join(ROOT, name), encoding="utf-8", errors="surrogateescape") as f:
            return f.read()
    except OSError as e:
        raise _outside(e) from e


def _outside(e: OSError) -> Error:
    fix = "" if os.path.isdir(ROOT) else "run this inside an AIOS agent"
    return Error(e.errno or 0, "", f"{e.filename or ROOT}: {e.strerror}", fix)


def _refusal(e: OSError, answer: str) -> Error:
    m = re.match(r"error ([A-Z0-9_]+): (.*)\n(?:fix: (.*)\n)?", answer)
    if m is None:
        return Error(e.errno or 0, "", e.strerror or str(e))
    return Error(e.errno or 0, m[1], m[2], m[3] or "")


def _capability(line: str) -> Capability:
    return Capability.parse(command(line).splitlines()[0])


def _revoked(line: str) -> int:
    return int(command(line).strip().split("=", 1)[1])


def _change(change: Dict[str, Any]) -> str:
    known = {"object", "rights", "quota", "inodes", "bytes", "count", "cpu", "weight", "bps", "ops",
             "at", "lease", "badge", "sealed"}
    out = ""
    for key, value in change.items():
        if key not in known:
            raise TypeError(f"there is no {key!r} in a capability; there are {', '.join(sorted(known))}")
        if value is None or key == "sealed" and not value:
            continue
        if key == "sealed":
            out += " sealed"
        elif key == "rights":
            out += " rights=" + _word(value if isinstance(value, str) else "+".join(value))
        elif key == "lease":
            out += " lease=" + _duration(value)
        elif key in ("object", "at"):
            out += f" {key}={_quote(os.fspath(value))}"
        else:
            out += f" {key}={_word(str(value))}"
    return out


def _agent(name: str) -> str:
    return f" agent={_word(name)}" if name else ""


def _word(text: str) -> str:
    """Refuse what would be more than one word of a command."""
    if not text or re.search(r"[\s\x00]", text):
        raise ValueError(f"not a word: {text!r}")
    return text


def _quote(text: str) -> str:
    return urllib.parse.quote(_nonempty(text), safe="/*.-_~@+", errors="surrogateescape")


def _unquote(text: str) -> str:
    return urllib.parse.unquote(text, errors="surrogateescape")


def _nonempty(text: str) -> str:
    if not text:
        raise ValueError("an empty name")
    return text


def _expand(cls: str, rights: str) -> FrozenSet[str]:
    if rights == "all" or rights == "rw" and cls == "fs":
        return frozenset(RIGHTS.get(cls, ()))
    if rights == "ro" and cls == "fs":
        return frozenset(("read", "exec"))
    return frozenset(rights.split("+"))


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "µs": 1e-6, "us": 1e-6, "ns": 1e-9}


def _seconds(text: str) -> float:
    """Read a duration as AIOS writes it: 1h2m3.5s."""
    parts = re.findall(r"([0-9.]+)(h|ms|m|s|µs|us|ns)", text)
    if not parts or "".join(n + u for n, u in parts) != text:
        raise ValueError(f"not a duration: {text!r}")
    return sum(float(n) * _UNITS[u] for n, u in parts)


def _duration(lease: Duration) -> str:
    if isinstance(lease, str):
        return _word(lease)
    if isinstance(lease, datetime.timedelta):
        lease = lease.total_seconds()
    return f"{lease:.9f}".rstrip("0").rstrip(".") + "s"
