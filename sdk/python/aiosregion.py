"""What agents keep together in a region of memory: locks, counters and rings of messages.

docs/fabric.md says what they are in memory; the package of Go in sdk/go/aios has the same. Python
cannot compare and swap by itself, so that every change of a word here is a system call.

    import aiosregion

    with aiosregion.Region("table") as r:
        with r.lock(0):
            r.mem[64:69] = b"hello"
        ring = r.make_ring(4096, slots=64, payload=112)
        ring.send(1, b"a message")
        print(ring.receive(timeout=1.0))

What is taken back is gone from memory: to touch it then is SIGBUS, and the calls that ask the kernel
raise OSError with errno EACCES. The module needs /aios/lib/aios.py beside it.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import threading
import time
from typing import Any, Callable, NamedTuple, Optional

import aios

__all__ = ["Counter", "Lock", "Message", "OwnerDied", "Region", "Ring", "ring_size"]

_ARG = struct.Struct("=QQQQIIII")
_JOIN, _LEAVE, _ALIVE, _WAIT, _WAKE, _LOCK, _UNLOCK, _CAS, _COMMIT = (0xC0304140 + n for n in range(9))
_PROCESS, _TRY, _WIDE = 1, 2, 4

_OWNER, _DIED = (1 << 30) - 1, 1 << 30

_MAGIC, _VERSION = 0x52494F41, 1
_TAIL, _HEAD, _GETS, _PUTS, _SLOTS = 64, 128, 192, 256, 320
_SLOT_HEAD = 16
_FREE, _WRITING, _FULL = 0, 1, 2
_SPAN = 1 << 31
_LAP = (1 << 32) - 1


class OwnerDied(Exception):
    """A lock was taken from one who died with it; it is held. See Lock."""


class Message(NamedTuple):
    """What a ring carries; data of a span lies in the region, at offset."""

    type: int
    data: Any
    offset: Optional[int] = None


def _deadline(timeout: Optional[float]) -> int:
    return 0 if timeout is None else max(1, time.monotonic_ns() + int(timeout * 1e9))


def _timed_out(deadline: int) -> bool:
    return deadline != 0 and time.monotonic_ns() >= deadline


def _error(n: int, what: str) -> OSError:
    return OSError(n, f"region: {what}: {os.strerror(n)}")


class Region:
    """A region, open and mapped, to be written, too, if the agent may."""

    def __init__(self, name: str) -> None:
        path = os.path.join(aios.ROOT, "fabric", name)
        self.writable = True
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            self.writable = False
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.mem = mmap.mmap(self._fd, 0, prot=mmap.PROT_READ | (mmap.PROT_WRITE if self.writable else 0))
        except BaseException:
            os.close(self._fd)
            raise
        self.size = len(self.mem)
        self._view = memoryview(self.mem)
        # Items of these are read with one access each.
        self._u32, self._u64 = (self._view[: self.size & ~7].cast(c) for c in "IQ")
        self._member = (0, 0)
        self._mine = threading.local()

    def close(self) -> None:
        """Unmap it."""
        for v in (self._u32, self._u64, self._view):
            v.release()
        self.mem.close()
        os.close(self._fd)

    def __enter__(self) -> "Region":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def commit(self) -> int:
        """Have what a persistent region is now kept; return the number of the version, on disk."""
        return self._call(_COMMIT)[2]

    def wait(self, offset: int, value: int, timeout: Optional[float] = None) -> None:
        """Wait while the word of 4 bytes at offset has a value; TimeoutError when the time is over.

        It may return although nothing has happened.
        """
        self._sleep(offset, value, _deadline(timeout))

    def wake(self, offset: int, count: int = _LAP) -> int:
        """Wake those who wait for the word at offset; return how many that were."""
        return self._call(_WAKE, offset=offset, count=count)[5]

    def lock(self, offset: int, recover: Optional[Callable[[], None]] = None) -> "Lock":
        """The lock at offset, a multiple of 4; 0 in memory is free. See Lock."""
        return Lock(self, offset, recover)

    def counter(self, offset: int) -> "Counter":
        """The counter at offset, a multiple of 8; it takes up 16 bytes."""
        return Counter(self, offset)

    def make_ring(self, offset: int, slots: int, payload: int) -> "Ring":
        """Make an empty ring at offset, a multiple of 64. Nobody may be using what was there."""
        if not 2 <= slots <= 1 << 24 or slots & (slots - 1) or not 0 <= payload <= (1 << 20) - _SLOT_HEAD:
            raise ValueError(f"a ring of {slots} slots of {payload} bytes")
        n = ring_size(slots, payload)
        if offset % 64 or not 0 <= offset <= self.size - n:
            raise ValueError(f"a ring of {n} bytes at {offset:#x} does not lie in the region")
        self.mem[offset : offset + n] = bytes(n)
        struct.pack_into("=III", self.mem, offset + 4, _VERSION, slots, _slot_size(payload))
        self._cas(offset, 0, _MAGIC)
        return Ring(self, offset)

    def ring(self, offset: int) -> "Ring":
        """The ring that was made at offset."""
        return Ring(self, offset)

    def _call(self, request: int, offset: int = 0, deadline: int = 0, expect: int = 0, new: int = 0,
              id: int = 0, count: int = 0, flags: int = 0) -> Any:
        buf = bytearray(_ARG.pack(offset, deadline, expect, new, id, count, flags, 0))
        fcntl.ioctl(self._fd, request, buf)
        return _ARG.unpack(buf)

    def _sleep(self, offset: int, value: int, deadline: int) -> None:
        try:
            self._call(_WAIT, offset=offset, deadline=deadline, expect=value)
        except OSError as e:
            if e.errno not in (errno.EAGAIN, errno.EINTR):
                raise

    def _cas(self, offset: int, expect: int, new: int, wide: bool = False) -> bool:
        try:
            return self._call(_CAS, offset=offset, expect=expect, new=new, flags=_WIDE if wide else 0)[2] == expect
        except BlockingIOError:
            return False

    def _process(self) -> int:
        """The number of this process as a member; a child that was forked has its own."""
        pid, number = self._member
        if pid != os.getpid():
            number = self._call(_JOIN, flags=_PROCESS)[4]
            self._member = (os.getpid(), number)
        return number

    def _thread(self) -> int:
        pid, number = getattr(self._mine, "member", (0, 0))
        if pid != os.getpid():
            number = self._call(_JOIN)[4]
            self._mine.member = (os.getpid(), number)
        return number


class Lock:
    """A lock between threads of all agents that map the region.

    Who waits for it lends its owner its rank. When its owner ends, the next has it, and what it
    guards may be half done: then ``recover`` is called; if there is none, acquire raises OwnerDied,
    with the lock held: call ``consistent`` when all is well again. Released without that, nobody gets
    it any more (ENOTRECOVERABLE).
    """

    def __init__(self, region: Region, offset: int, recover: Optional[Callable[[], None]] = None) -> None:
        self._r, self._offset, self._recover = region, offset, recover

    def acquire(self, timeout: Optional[float] = None) -> None:
        """Take it; TimeoutError when the time is over, BlockingIOError with a timeout of 0."""
        me, deadline = self._r._thread(), 0 if timeout == 0 else _deadline(timeout)
        while True:
            try:
                self._r._call(_LOCK, offset=self._offset, id=me, deadline=deadline, flags=_TRY if timeout == 0 else 0)
                return
            except OSError as e:
                if e.errno == errno.EOWNERDEAD:
                    break
                if e.errno == errno.EBUSY:
                    raise BlockingIOError(errno.EBUSY, "region: another has the lock") from None
                if e.errno not in (errno.EAGAIN, errno.EINTR) or timeout == 0 or _timed_out(deadline):
                    raise
        if self._recover is None:
            raise OwnerDied
        self._recover()
        self.consistent()

    def consistent(self) -> None:
        """Say that what it guards is as it should be."""
        me = self._r._thread()
        while True:
            word = self._r._u32[self._offset // 4]
            if word & _OWNER != me:
                raise _error(errno.EPERM, "consistent")
            if self._r._cas(self._offset, word, word & ~_DIED):
                return

    def release(self) -> None:
        """Give it back, to who waits longest."""
        self._r._call(_UNLOCK, offset=self._offset, id=self._r._thread())

    def __enter__(self) -> "Lock":
        self.acquire()
        return self

    def __exit__(self, *_: Any) -> None:
        self.release()


class Counter:
    """A number that only grows, and that others wait for."""

    def __init__(self, region: Region, offset: int) -> None:
        if offset % 8 or not 0 <= offset <= region.size - 16:
            raise ValueError(f"no counter lies at {offset:#x}")
        self._r, self._offset = region, offset

    @property
    def value(self) -> int:
        """What it is now."""
        return self._r._u64[self._offset // 8]

    def advance(self, n: int = 1) -> int:
        """Add n, wake those who wait, and return what it is."""
        self._r._process()
        while True:
            was = self.value
            if self._r._cas(self._offset, was, was + n, wide=True):
                break
        waits = self._offset + 8
        if self._r._u32[waits // 4] and self._r._cas(waits, 1, 0):
            self._r.wake(self._offset)
        return was + n

    def wait_for(self, n: int, timeout: Optional[float] = None) -> int:
        """Wait until it is n or more; return what it is. TimeoutError when the time is over."""
        deadline = _deadline(timeout)
        while True:
            now = self.value
            if now >= n:
                return now
            until = deadline
            if self._r.writable:
                self._r._cas(self._offset + 8, 0, 1)
                if self.value != now:
                    continue
            else:  # It is not woken.
                until = _deadline(0.01) if not deadline else min(deadline, _deadline(0.01))
            try:
                self._r._sleep(self._offset, now & _LAP, until)
            except TimeoutError:
                if until == deadline:
                    raise


def _slot_size(payload: int) -> int:
    return (_SLOT_HEAD + payload + 63) & ~63


def ring_size(slots: int, payload: int) -> int:
    """What a ring takes up: a power of two of slots, each for a payload of at most so many bytes."""
    return _SLOTS + slots * _slot_size(payload)


class Ring:
    """A bounded queue of messages, for any number of senders and receivers, in order."""

    def __init__(self, region: Region, offset: int) -> None:
        if offset % 64 or not 0 <= offset <= region.size - _SLOTS:
            raise ValueError(f"no ring lies at {offset:#x}")
        self._r, self._offset = region, offset
        magic, version, slots, size = struct.unpack_from("=IIII", region.mem, offset)
        if magic != _MAGIC or version != _VERSION:
            raise _error(errno.EINVAL, "there is no ring")
        bad = not 2 <= slots <= 1 << 24 or slots & (slots - 1) or not 64 <= size <= 1 << 20 or size % 64
        if bad or offset + _SLOTS + slots * size > region.size:
            raise _error(errno.EBADMSG, "ring")
        self._slots, self._size = slots, size

    @property
    def payload(self) -> int:
        """How long the payload of a message may be."""
        return self._size - _SLOT_HEAD

    def send(self, type: int, data: bytes, timeout: Optional[float] = None) -> None:
        """Append a message. BlockingIOError if it is full and the timeout 0; TimeoutError."""
        if len(data) > self.payload:
            raise _error(errno.EMSGSIZE, "send")
        self._put(type, data, len(data), timeout)

    def send_span(self, type: int, offset: int, length: int, timeout: Optional[float] = None) -> None:
        """Append a message whose payload lies in the region: nothing is copied."""
        if not 0 <= length <= self._r.size or not 0 <= offset <= self._r.size - length:
            raise ValueError("it does not lie in the region")
        self._put(type, struct.pack("=QQ", offset, length), 16 | _SPAN, timeout)

    def receive(self, timeout: Optional[float] = None) -> Message:
        """Take the next message. BlockingIOError if there is none and the timeout is 0; TimeoutError."""
        self._r._process()
        deadline = _deadline(timeout)
        while True:
            pos = self._long(_HEAD)
            at, lap = self._slot(pos)
            state, following = self._state(at), (lap + 1) & _LAP
            if state == lap << 32 | _FULL:
                message = self._take(at)
                if not self._r._cas(at, state, following << 32 | _FREE, wide=True):
                    continue
                self._move(_HEAD, pos)
                self._notify(_PUTS)
                if message is None:
                    raise _error(errno.EBADMSG, "receive")
                return message
            if state >> 32 == following and state & 3 <= _FULL:
                self._move(_HEAD, pos)
            elif self._long(_HEAD) == pos:
                if state >> 32 != lap or state & 3 > _WRITING:
                    raise _error(errno.EBADMSG, "receive")
                if state & 3 == _WRITING and not self._alive(state >> 2 & _OWNER):
                    if self._r._cas(at, state, following << 32 | _FREE, wide=True):
                        self._notify(_PUTS)
                    continue
                self._await(_GETS, timeout, deadline, lambda: self._state(at) != state or self._long(_HEAD) != pos)
            elif _timed_out(deadline):
                raise _error(errno.ETIMEDOUT, "receive")

    def _put(self, type: int, data: bytes, length: int, timeout: Optional[float]) -> None:
        me, deadline = self._r._process(), _deadline(timeout)
        while True:
            pos = self._long(_TAIL)
            at, lap = self._slot(pos)
            state = self._state(at)
            if state == lap << 32 | _FREE:
                mine = lap << 32 | me << 2 | _WRITING
                if not self._r._cas(at, state, mine, wide=True):
                    continue
                self._move(_TAIL, pos)
                struct.pack_into("=II", self._r.mem, at + 8, type, length)
                self._r.mem[at + _SLOT_HEAD : at + _SLOT_HEAD + len(data)] = data
                if not self._r._cas(at, mine, lap << 32 | _FULL, wide=True):
                    raise _error(errno.EBADMSG, "send")
                self._notify(_GETS)
                return
            if state >> 32 == lap and state & 3 or state >> 32 == (lap + 1) & _LAP and not state & 3:
                self._move(_TAIL, pos)
            elif self._long(_TAIL) == pos:
                if (state >> 32) + 1 & _LAP != lap or not state & 3:
                    raise _error(errno.EBADMSG, "send")
                self._await(_PUTS, timeout, deadline, lambda: self._state(at) != state or self._long(_TAIL) != pos)
            elif _timed_out(deadline):
                raise _error(errno.ETIMEDOUT, "send")

    def _slot(self, pos: int) -> Any:
        return self._offset + _SLOTS + (pos & (self._slots - 1)) * self._size, pos // self._slots & _LAP

    def _long(self, off: int) -> int:
        return self._r._u64[(self._offset + off) // 8]

    def _state(self, at: int) -> int:
        return self._r._u64[at // 8]

    def _move(self, which: int, pos: int) -> None:
        self._r._cas(self._offset + which, pos, pos + 1 & (1 << 64) - 1, wide=True)

    def _alive(self, member: int) -> bool:
        try:
            self._r._call(_ALIVE, id=member)
        except ProcessLookupError:
            return False
        return True

    def _notify(self, side: int) -> None:
        at = self._offset + side
        if self._r._u32[at // 4 + 1] and self._r._cas(at + 4, 1, 0):
            while True:
                n = self._r._u32[at // 4]
                if self._r._cas(at, n, n + 1 & _LAP):
                    break
            self._r.wake(at)

    def _await(self, side: int, timeout: Optional[float], deadline: int, so: Callable[[], bool]) -> None:
        if timeout == 0:
            raise BlockingIOError(errno.EAGAIN, "region: it would have to wait")
        at = self._offset + side
        seen = self._r._u32[at // 4]
        if self._r._u32[at // 4 + 1] != 1:
            self._r._cas(at + 4, self._r._u32[at // 4 + 1], 1)
        if not so():
            if _timed_out(deadline):
                raise _error(errno.ETIMEDOUT, "ring")
            self._r._sleep(at, seen, deadline)

    def _take(self, at: int) -> Optional[Message]:
        kind, length = struct.unpack_from("=II", self._r.mem, at + 8)
        if length == 16 | _SPAN:
            offset, n = struct.unpack_from("=QQ", self._r.mem, at + _SLOT_HEAD)
            if n > self._r.size or offset > self._r.size - n:
                return None
            return Message(kind, memoryview(self._r.mem)[offset : offset + n], offset)
        if length > self.payload:
            return None
        return Message(kind, self._r.mem[at + _SLOT_HEAD : at + _SLOT_HEAD + length])
