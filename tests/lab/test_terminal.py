"""On a terminal the command has a terminal: Ctrl-C, window size and all, as if it ran here."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios

from lab.labs import PATIENCE, lab_line


class Terminal:
    """A terminal of the test's own, with one program on it that it controls."""

    def __init__(self, line: list[str], rows: int, columns: int) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            os.execv(line[0], line)
        self.shown = b""

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

    def rest(self) -> bytes:
        """All that is shown until the program has ended."""
        while True:
            try:
                self.shown += self.read()
            except OSError:
                return self.shown

    def exit_code(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


# Waits for signals awake: a shell that is told while it goes to sleep hears of it on waking.
SCRIPT = """
trap 'echo "size $(stty size)"; resized=1' WINCH
trap 'echo interrupted; interrupted=1' INT
[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo "terminal $(stty size)"
read line && echo "got <$line>"
until [ "$resized" ]; do :; done
echo ready
until [ "$interrupted" ]; do :; done
read line && echo "got <$line>"
cat
echo "end of file"
exit 5
"""


def test_a_conversation() -> None:
    terminal = Terminal(lab_line("sh", "-c", SCRIPT), 33, 101)
    terminal.wait_for(b"terminal 33 101\r\n")
    terminal.type(b"abx\x7fc\n")  # line editing: the x is rubbed out
    terminal.wait_for(b"got <abc>\r\n")
    terminal.resize(44, 99)
    terminal.wait_for(b"size 44 99\r\n")
    terminal.wait_for(b"ready\r\n")
    terminal.type(b"\x03")
    terminal.wait_for(b"^C")
    terminal.wait_for(b"interrupted\r\n")
    terminal.type("ä\n".encode())
    terminal.wait_for("got <ä>\r\n".encode())
    terminal.type(b"\x04")
    assert terminal.rest() == b"end of file\r\n"
    assert terminal.exit_code() == 5


def test_a_command_that_ignores_ctrl_c() -> None:
    """Pressed three times in a row it is not the command that is meant, but the lab."""
    terminal = Terminal(lab_line("sh", "-c", "trap '' INT; echo ready; exec sleep 1000"), 24, 80)
    terminal.wait_for(b"ready\r\n")
    terminal.type(b"\x03\x03\x03")
    terminal.rest()
    assert terminal.exit_code() == 128 + signal.SIGINT
