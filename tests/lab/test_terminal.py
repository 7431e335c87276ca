"""On a terminal the command has a terminal: Ctrl-C, window size and all, as if it ran here."""

from __future__ import annotations

import signal

from lab.labs import lab_line
from terminals import Terminal

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
