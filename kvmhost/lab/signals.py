"""Signals as something to read. While a lab runs, Ctrl-C and its like must not raise an
exception somewhere in the plumbing: they arrive as bytes on a descriptor, beside the rest."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# These end the lab; a change of the window's size does not, nor being stopped and going on.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OTHERS = (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)


def _told_by_wakeup_fd(number: int, frame: FrameType | None) -> None:
    """Nothing to do: the number has been written to the wakeup descriptor."""


@contextmanager
def readable() -> Iterator[socket.socket]:
    """Yields a socket from which each signal that arrives is read as a byte of its number.

    Signals that were ignored (nohup) stay ignored. Only the main thread can catch signals:
    in any other the socket stays silent and the signals do what they did before.

    >>> with readable() as told:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     list(told.recv(64)) == [signal.SIGTERM]
    True
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        if threading.current_thread() is not threading.main_thread():
            yield ours
            return
        caught = [n for n in (*ENDING, *OTHERS) if signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, _told_by_wakeup_fd) for number in caught}
        wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield ours
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)


def stop_here() -> None:
    """What SIGTSTP does to everybody; returns when the process goes on. For the main thread."""
    handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    try:
        os.kill(os.getpid(), signal.SIGTSTP)
    finally:
        signal.signal(signal.SIGTSTP, handler)
