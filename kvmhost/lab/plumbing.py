"""Carrying bytes between this process's own streams and the sockets whose other ends are
the lab's virtio-serial ports.

A flow holds at most a little: when its target is slow it stops reading its source, which
slows whoever writes there, through QEMU and the guest down to the program inside. Only the
sockets are non-blocking. The standard streams may be shared with other processes, whose
reads and writes that would break, so they are written in pieces that never block."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable

CHUNK = 65536
# What a pipe that poll(2) calls writable takes without blocking (POSIX: PIPE_BUF).
PIECE = 4096

# A descriptor that is not open (POLLNVAL) is tried as well: the error it gives ends the flow.
BROKEN = select.POLLHUP | select.POLLERR | select.POLLNVAL
READABLE = select.POLLIN | BROKEN
WRITABLE = select.POLLOUT | BROKEN


class Flow:
    """Bytes on their way from one descriptor to another.

    `carried` counts what was read. `source_ended` and `target_gone` tell why nothing moves
    any more; what still comes for a target that has gone is read and dropped, so that the
    other side's count comes out right. With `target` None everything is kept in `buffer`,
    of which the last `keep` bytes survive.

    >>> source, feed = os.pipe()
    >>> flow = Flow(source, None)
    >>> os.write(feed, b"a word")
    6
    >>> flow.move(wait(flow.wishes(), 0)), flow.carried
    (b'a word', 6)
    """

    __slots__ = ("buffer", "carried", "keep", "paused", "source", "source_ended", "target", "target_gone")

    def __init__(self, source: int, target: int | None, *, keep: int = CHUNK) -> None:
        self.source = source
        self.target = target
        self.keep = keep
        self.buffer = bytearray()
        self.carried = 0
        self.paused = False
        self.source_ended = False
        self.target_gone = False

    @property
    def is_empty(self) -> bool:
        """True when everything that was read has been written."""
        return not self.buffer or self.target_gone

    def wishes(self) -> Iterable[tuple[int, int]]:
        """The (descriptor, poll events) that would let this flow go on."""
        full = self.target is not None and len(self.buffer) >= CHUNK
        if not (self.source_ended or self.paused or full):
            yield self.source, select.POLLIN
        if self.target is not None and self.buffer and not self.target_gone:
            yield self.target, select.POLLOUT

    def move(self, events: dict[int, int]) -> bytes:
        """Reads and writes what `events` (descriptor -> poll's answer) allows; returns what it read."""
        got = b""
        wished = dict(self.wishes())
        if self.source in wished and events.get(self.source, 0) & READABLE:
            got = self._read()
        if self.target in wished and events.get(self.target, 0) & WRITABLE:
            self._write(self.target)
        return got

    def _read(self) -> bytes:
        try:
            got = os.read(self.source, CHUNK)
        except BlockingIOError:
            return b""
        except OSError:  # A terminal that was hung up, a connection that was reset: no more to come.
            got = b""
        if not got:
            self.source_ended = True
        self.carried += len(got)
        if not self.target_gone:
            self.buffer += got
        if self.target is None:
            del self.buffer[: -self.keep]
        return got

    def _write(self, target: int) -> None:
        try:
            written = os.write(target, memoryview(self.buffer)[:PIECE])
        except BlockingIOError:
            return
        except OSError:
            self.target_gone = True
            self.buffer.clear()
            return
        del self.buffer[:written]


def wait(wishes: Iterable[tuple[int, int]], seconds: float | None) -> dict[int, int]:
    """Waits until a wish can be granted or the time is over; returns descriptor -> events.

    `seconds` None waits for ever. epoll would be faster and refuses regular files.

    >>> wait([(1, select.POLLOUT)], None)
    {1: 4}
    """
    asked: dict[int, int] = {}
    for fd, events in wishes:
        asked[fd] = asked.get(fd, 0) | events
    poll = select.poll()
    for fd, events in asked.items():
        poll.register(fd, events)
    return dict(poll.poll(None if seconds is None else max(0.0, seconds) * 1000))
