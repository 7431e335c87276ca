"""What Guests say, on standard output: at once where there is one, in whole lines where there are several.

A Guest hands over its words in small pieces (16 characters in lguest's early console), and two that share a
machine would talk into each other's sentences.  Nobody may be reading: then whoever speaks waits, but never
longer than until kvmhost gives up, because a signal must end it whatever the reader does.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress

#: A JSON object is made in memory, and a Guest may talk for ever.
MOST_KEPT = 64 << 20
# A Guest that never ends its line is heard all the same.
LONGEST_LINE = 4096
#: What a pipe that poll(2) calls writable takes without blocking (POSIX: PIPE_BUF), and what a terminal does.
PIPE_PIECE = 4096
TERMINAL_PIECE = 256


class Outlet:
    """Somewhere to write, from any thread: everything in order, and nothing for ever.

    mid_line: what was written last was no end of a line.

    Raises OSError where writing does (BrokenPipeError when nobody reads any more).

    >>> ours, theirs = os.pipe()
    >>> outlet = Outlet(theirs)
    >>> outlet(b"Hello from ring 1.")
    >>> os.read(ours, 99)
    b'Hello from ring 1.'
    >>> outlet.give_up(); outlet.close(); os.close(ours); os.close(theirs)
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.mid_line = False
        self._piece = TERMINAL_PIECE if os.isatty(fd) else PIPE_PIECE
        self._lock = threading.Lock()
        self._over = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._poll.register(self._over, select.POLLIN)

    def __call__(self, words: bytes) -> None:
        """Write all of it; less only after give_up(), to somebody who does not read."""
        with self._lock:
            rest = memoryview(words)
            while rest:
                if self._fd not in {fd for fd, _ in self._poll.poll()}:
                    return
                try:
                    rest = rest[os.write(self._fd, rest[: self._piece]) :]
                except BlockingIOError:
                    continue
            if words:
                self.mid_line = not words.endswith(b"\n")

    def begin(self) -> None:
        """Another Guest will speak: its reader is waited for again."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._over)

    def give_up(self) -> None:
        """From now on nobody waits for a reader who does not read."""
        os.eventfd_write(self._over, 1)

    def close(self) -> None:
        """When nobody writes any more.  The descriptor itself stays open."""
        os.close(self._over)


class Kept:
    """A Guest's words, for the JSON object at the end: the first MOST_KEPT bytes.  lost: bytes behind them.

    >>> kept = Kept()
    >>> kept(b"Hello from ring 1.")
    >>> kept.text
    'Hello from ring 1.'
    """

    def __init__(self) -> None:
        self._words = bytearray()
        self.lost = 0

    def __call__(self, words: bytes) -> None:
        taken = words[: max(MOST_KEPT - len(self._words), 0)]
        self._words += taken
        self.lost += len(words) - len(taken)

    def go_on(self, later: Kept) -> None:
        """The same Guest's words, after a restart."""
        self(bytes(later._words))
        self.lost += later.lost

    @property
    def text(self) -> str:
        return self._words.decode("utf-8", "replace")


class Lines:
    """One of several Guests: it is heard when a line is complete, or too long to wait for.

    >>> said = []
    >>> voice = Lines(said.append)
    >>> voice(b"Hello fr")
    >>> voice(b"om ring 1.\\nI h")
    >>> voice.finish()
    >>> said
    [b'Hello from ring 1.\\n', b'I h']
    """

    def __init__(self, say: Callable[[bytes], object]) -> None:
        self._say = say
        self._held = b""
        self._lock = threading.Lock()

    def __call__(self, words: bytes) -> None:
        with self._lock:
            lines, newline, self._held = (self._held + words).rpartition(b"\n")
            if newline:
                self._say(lines + newline)
            if len(self._held) >= LONGEST_LINE:
                self._flush()

    def finish(self) -> None:
        """No more will come: say what is left."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        held, self._held = self._held, b""
        if held:
            self._say(held)
