"""A terminal of the test's own, with one program on it that it controls, as a person would."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios
import time
from collections.abc import Callable, Mapping
from typing import Any

#: Much longer than anything takes: only a hang reaches it.
PATIENCE = 120


class Terminal:
    """One program on a terminal.  found: how the terminal was set before it ran."""

    def __init__(
        self, line: list[str], rows: int = 24, columns: int = 80, env: Mapping[str, str] | None = None
    ) -> None:
        ready, go = os.pipe()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.close(go)
            os.read(ready, 1)
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            os.execve(line[0], line, os.environ if env is None else env)
        self.shown = b""
        self.found = self.settings()
        os.close(ready)
        os.close(go)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def read(self) -> bytes:
        """What is shown next; raises OSError when the program has ended."""
        assert select.select([self.fd], [], [], PATIENCE)[0], f"nothing was shown after {self.shown!r}"
        return os.read(self.fd, 4096)

    def wait_for(self, text: bytes) -> None:
        """Returns when the text has been shown behind what was waited for before."""
        while text not in self.shown:
            self.shown += self.read()
        self.shown = self.shown.partition(text)[2]

    def line(self) -> bytes:
        """What is shown up to the end of this line."""
        while b"\r\n" not in self.shown:
            self.shown += self.read()
        line, _, self.shown = self.shown.partition(b"\r\n")
        return line

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Returns when it has come about; for what makes no noise."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "it never came about"
            time.sleep(0.01)

    def rest(self) -> bytes:
        """All that is shown until the program has ended."""
        while True:
            try:
                self.shown += self.read()
            except OSError:
                return self.shown

    def settings(self) -> list[Any]:
        """How it is set now (the pair has one setting, whichever end is asked)."""
        return termios.tcgetattr(self.fd)

    def is_raw(self) -> bool:
        """Whether a key is only a key, and output passes as it is."""
        _, oflag, _, lflag, *_ = self.settings()
        return not lflag & (termios.ICANON | termios.ECHO | termios.ISIG) and not oflag & termios.OPOST

    def signal(self, number: int) -> None:
        """To the program, as `kill` sends it."""
        os.kill(self.pid, number)

    def exit_code(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
