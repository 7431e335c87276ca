"""The terminal that kvmhost itself runs on. While a command in the lab uses it, every key,
Ctrl-C too, goes inside as it is; the pseudo-terminal in the lab gives it its meaning."""

from __future__ import annotations

import os
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager


def is_ours(fd: int) -> bool:
    """True when `fd` is a terminal that this process may read: a background job may not."""
    if not os.isatty(fd):
        return False
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return True  # A terminal, but not the one that controls us: nobody stops us there.


def size(fd: int) -> tuple[int, int]:
    """The rows and columns of a terminal; 24 and 80 where it does not know.

    >>> size(-1)
    (24, 80)
    """
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return 24, 80
    return rows or 24, columns or 80


@contextmanager
def raw(fd: int) -> Iterator[None]:
    """Passes every key through unchanged for as long as the block runs."""
    before = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
