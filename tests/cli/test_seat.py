"""Where the person sits: a real terminal, real signals, and for a Guest a program that tells what it got."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
import termios
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from terminals import PATIENCE, Terminal

from kvmhost.cli.seat import Seat

# Stands in for a Guest and its machine: says what is typed, until it is to stop.  Its first argument is
# Python that runs when the seat is taken; "driver" is what happens when a console's driver comes.
STAND_IN = """
import os, select, sys, threading, time
from kvmhost.cli.seat import Seat

class Machine:
    def __init__(self):
        self.over = threading.Event()
        self.stops = 0
    def stop(self):
        self.stops += 1
        self.over.set()

def say(text):
    seat.outlet(text.encode() + b"\\r\\n")

with Seat() as seat:
    machine = seat.machine = Machine()
    console = seat.new_console()
    console.on_config_change = lambda: say(f"size {console._size}")
    def driver():
        console.on_start()
    exec(sys.argv[1])
    say("ready")
    while not machine.over.is_set():
        select.select([seat.typing.fd], [], [], 0.05)
        typed = seat.typing.take(4096)
        if typed:
            say(f"got {typed!r}")
    number = seat.ended_by
print(f"ended by {number}", flush=True)
sys.exit(7)
"""


def sit(code: str = "driver()") -> Terminal:
    return Terminal([sys.executable, "-P", "-c", STAND_IN, code], 24, 80)


def until_raw(terminal: Terminal) -> None:
    terminal.wait_for(b"ready\r\n")
    assert terminal.is_raw()


def end_of(terminal: Terminal, number: int) -> None:
    """It ended for this reason, and left everything as it was."""
    terminal.wait_for(f"ended by {number:d}\r\n".encode())
    assert terminal.settings() == terminal.found
    assert terminal.rest() == b""
    assert terminal.exit_code() == 7


def test_before_the_driver_keys_come_one_by_one_and_ctrl_c_is_a_signal() -> None:
    terminal = sit("pass")
    terminal.wait_for(b"ready\r\r\n")  # output still gets carriage returns
    assert not terminal.is_raw()
    terminal.type(b"a")
    terminal.wait_for(b"got b'a'")
    assert b"^A" not in terminal.shown and not terminal.settings()[3] & termios.ECHO
    terminal.type(b"\x03")
    end_of(terminal, signal.SIGINT)


def test_a_raw_terminal_passes_every_key() -> None:
    terminal = sit()
    until_raw(terminal)
    keys = bytes(range(2, 256)).replace(b"\x03", b"")
    terminal.type(keys)
    got = b""
    while len(got) < len(keys):
        terminal.wait_for(b"got ")
        got += ast.literal_eval(terminal.line().decode())
    assert got == keys
    terminal.type(b"\x01x")
    end_of(terminal, signal.SIGINT)


def test_ctrl_a() -> None:
    terminal = sit()
    until_raw(terminal)
    terminal.type(b"\x01\x01")
    terminal.wait_for(b"got b'\\x01'\r\n")
    terminal.type(b"\x01h")
    terminal.wait_for(b"Ctrl-A x       end the Guest\r\n")
    terminal.type(b"\x01")
    terminal.type(b"l")
    terminal.wait_for(b"got b'\\x01l'\r\n")
    terminal.type(b"\x01")
    terminal.type(b"X")
    end_of(terminal, signal.SIGINT)


def test_ctrl_c_is_the_guests_and_three_end_it() -> None:
    terminal = sit()
    until_raw(terminal)
    for _ in range(5):
        terminal.type(b"\x03a")  # with another key between them they are five times one
        terminal.wait_for(b"a'\r\n")
    terminal.type(b"\x03\x03\x03")
    end_of(terminal, signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_end_it_and_the_terminal_is_given_back(number: int) -> None:
    terminal = sit()
    until_raw(terminal)
    terminal.signal(number)
    end_of(terminal, number)


def test_an_exception_gives_the_terminal_back() -> None:
    terminal = sit("driver(); say('raising'); raise ZeroDivisionError")
    terminal.wait_for(b"raising\r\n")
    assert b"ZeroDivisionError\r\n" in terminal.rest()
    assert terminal.exit_code() == 1


# A shell that starts it as a job, and takes it to the foreground again after the next line that is typed.
JOB = 'set -m; "$@"; echo "in the shell"; read line; fg >/dev/null; echo "ended with $?"'


def test_stopped_it_gives_the_terminal_back_and_takes_it_again() -> None:
    program = [sys.executable, "-P", "-c", STAND_IN, "pass"]
    terminal = Terminal(["/bin/sh", "-c", JOB, "sh", *program])
    terminal.wait_for(b"ready\r\r\n")
    terminal.type(b"\x1a")
    terminal.wait_for(b"in the shell\r\n")
    assert terminal.settings() == terminal.found
    terminal.type(b"\n")
    terminal.wait_for(b"\r\n")
    terminal.wait_until(lambda: not terminal.settings()[3] & termios.ECHO)
    terminal.type(b"z")
    terminal.wait_for(b"got b'z'\r\r\n")
    terminal.type(b"\x03")
    terminal.wait_for(b"ended by 2\r\nended with 7\r\n")
    assert terminal.exit_code() == 0


def test_who_cannot_be_continued_is_not_stopped() -> None:
    """Without a shell, as in the lab, nobody would ever send SIGCONT; the kernel knows."""
    terminal = sit()
    until_raw(terminal)
    terminal.signal(signal.SIGTSTP)
    terminal.type(b"z")
    terminal.wait_for(b"got b'z'")
    terminal.wait_until(terminal.is_raw)
    terminal.type(b"\x01x")
    end_of(terminal, signal.SIGINT)


def test_a_new_size_is_told() -> None:
    terminal = sit()
    until_raw(terminal)
    terminal.resize(50, 132)
    terminal.wait_for(b"size (132, 50)\r\n")
    terminal.type(b"\x01x")
    end_of(terminal, signal.SIGINT)


def test_a_script_is_read_as_fast_as_the_guest_reads_and_its_end_is_not_the_end(tmp_path: Path) -> None:
    script = bytes(range(256)) * 4096
    (tmp_path / "script").write_bytes(script)
    code = (
        "rest = 1 << 20\n"
        "while rest:\n"
        "    select.select([seat.typing.fd], [], [])\n"
        "    typed = seat.typing.take(5000)\n"
        "    seat.outlet(typed)\n"
        "    rest -= len(typed)\n"
        "time.sleep(0)\n"
        "assert not machine.over.is_set()\n"
        "machine.stop()\n"
    )
    with (tmp_path / "script").open("rb") as file:
        done = subprocess.run(
            [sys.executable, "-P", "-c", STAND_IN, code],
            stdin=file,
            capture_output=True,
            check=False,
            timeout=PATIENCE,
        )
    assert done.stdout == script + b"ready\r\nended by None\n"
    assert (done.returncode, done.stderr) == (7, b"")


def test_a_reader_who_does_not_read_keeps_nobody_from_ending() -> None:
    code = (
        "sys.stderr.write('talking'); sys.stderr.flush();"
        "seat.outlet(bytes(1 << 20)); sys.stderr.write('gave up'); sys.stderr.flush()"
    )
    with subprocess.Popen(
        [sys.executable, "-P", "-c", STAND_IN, code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None and process.stdout is not None
        assert process.stderr.read(7) == b"talking"
        process.send_signal(signal.SIGTERM)
        assert process.stderr.read(7) == b"gave up"
        out, err = process.communicate(timeout=PATIENCE)
    assert out.endswith(b"ended by 15\n")
    assert len(out) < 1 << 20
    assert (process.returncode, err) == (7, b"")


def test_nobody_tells_a_machine_anything_that_is_being_closed() -> None:
    """A new size, or a wish to end, that comes at that moment is told before, or not at all."""
    seat: Any = Seat.__new__(Seat)
    seat._telling = threading.Lock()
    seat.terminal = SimpleNamespace(size=lambda: (80, 25))
    seat.outlet = SimpleNamespace(give_up=lambda: None)
    happened: list[str] = []
    leaving = threading.Thread(target=lambda: (seat.leave(), happened.append("left")))

    def resize(columns: int, rows: int) -> None:
        leaving.start()
        leaving.join(0.2)
        happened.append("told")

    seat.machine = SimpleNamespace(stop=lambda: happened.append("stopped"))
    seat.console = SimpleNamespace(resize=resize)
    seat.resized()
    leaving.join()
    seat.resized()
    seat.end(signal.SIGTERM)
    assert happened == ["told", "left"]
