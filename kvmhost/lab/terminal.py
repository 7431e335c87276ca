"""The terminal that kvmhost itself runs on. While a command in the lab uses it, every key,
Ctrl-C too, goes inside as it is; the pseudo-terminal in the lab gives it its meaning."""

from __future__ import annotations

import os
import termios
import tty
from contextlib import suppress
from typing import Any, Self


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


class Raw:
    """Passes every key through unchanged, from take() on; at the end of the `with`, as it was found.

    give_back() and take() again when the process is stopped and goes on: a background job may not touch the
    terminal, and must not leave it raw to whoever sits there.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._found: list[Any] | None = None

    def take(self) -> bool:
        """Make it raw if it is ours; returns whether it is."""
        if self._found is None and is_ours(self._fd):
            self._found = termios.tcgetattr(self._fd)
            tty.setraw(self._fd, termios.TCSADRAIN)
        return self._found is not None

    def give_back(self) -> None:
        """As it was found."""
        found, self._found = self._found, None
        if found is not None:
            with suppress(termios.error):  # hung up: there is nothing left to give back
                termios.tcsetattr(self._fd, termios.TCSADRAIN, found)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.give_back()
