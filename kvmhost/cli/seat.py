"""Where the person sits: what is typed, what is shown, and how they say that it is enough.

Input goes to one Guest at a time, and waits until that Guest reads it; the end of it (a script's last line)
is not the end of the Guest.  A terminal is lent to the Guest (see launcher/terminal.py).  Where the shell of
--shell may open, keys are the shell's and a Guest gets none.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from kvmhost.cli.signals import SignalThread
from kvmhost.cli.voices import Outlet
from kvmhost.host.clock import start_thread
from kvmhost.launcher.devices.console import Console, Typing
from kvmhost.launcher.terminal import HELP, Keys, Mode, Terminal, Word

if TYPE_CHECKING:
    from kvmhost.launcher.machine import Machine

STDIN, STDOUT, STDERR = 0, 1, 2
PIECE: Final = 4096


class Seat:
    """The person's place for as long as the block runs; for the main thread.

    with_input: False where standard input is somebody else's.  outlet: standard output.  machine: the one
    that runs, to be told by whoever runs it.
    """

    def __init__(self, *, with_input: bool = True) -> None:
        sys.stdout.flush()
        self.outlet = Outlet(STDOUT)
        self.typing = Typing()
        self.terminal = Terminal(STDIN) if with_input and os.isatty(STDIN) else None
        self.machine: Machine | None = None
        self.console: Console | None = None
        self._with_input = with_input
        self._keys = Keys()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._over = False
        self._reader: threading.Thread | None = None
        self._telling = threading.Lock()
        self._held = ExitStack()
        self._signals = SignalThread(self, interrupts=with_input, terminal=self.terminal is not None)

    @property
    def ended_by(self) -> int | None:
        """The signal that ended it all, or that a key stands for."""
        return self._signals.ended_by

    def new_console(self) -> Console:
        """A console for the Guest that input is for, from now on."""
        console = Console(typing=self.typing, size=self.terminal.size() if self.terminal else None)
        if self.terminal is not None:
            terminal = self.terminal
            console.on_start = lambda: terminal.become(Mode.RAW)
            console.on_stop = lambda: terminal.become(Mode.LISTENING)
        self.console = console
        return console

    def __enter__(self) -> Self:
        self._held.enter_context(self._signals)
        if self.terminal is not None:
            self._held.enter_context(self.terminal)
            self.terminal.become(Mode.LISTENING)
        if self._with_input:
            self._reader = start_thread(self._read, "kvmhost keyboard")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        os.eventfd_write(self._wake, 1)
        self.typing.close()
        if self._reader is not None:
            self._reader.join()
        self._held.close()
        self.outlet.close()
        os.close(self._wake)

    def end_line(self) -> None:
        """Let what kvmhost says begin a line of its own, where both are seen on one terminal."""
        if self.outlet.mid_line and os.isatty(STDOUT) and os.isatty(STDERR):
            self.outlet.mid_line = False
            os.write(STDERR, b"\n")

    # ---- what signals mean ------------------------------------------------------------------

    def end(self, number: int) -> None:
        """Stop the machine, and wait no longer for somebody who does not read."""
        self.outlet.give_up()
        with self._telling:
            if self.machine is not None:
                self.machine.stop()

    def give_back(self) -> None:
        """The terminal, as it was found."""
        if self.terminal is not None:
            self.terminal.suspend()

    def take_again(self) -> None:
        """The terminal, if it is ours again."""
        if self.terminal is not None:
            self.terminal.resume()
            os.eventfd_write(self._wake, 1)
            self.resized()

    def resized(self) -> None:
        """Tell the Guest."""
        with self._telling:
            if self.terminal is not None and self.console is not None:
                self.console.resize(*self.terminal.size())

    def leave(self) -> None:
        """The machine is about to be closed: when this returns nobody is telling it anything."""
        with self._telling:
            self.machine = self.console = None

    # ---- what is typed ------------------------------------------------------------------------

    def _read(self) -> None:
        """The keyboard's thread: until the end of input, or of the seat."""
        while not self._over:
            if self.terminal is None and not self.typing.wait_for_room():
                return
            if not self._wait_for_input():
                continue
            try:
                typed = os.read(STDIN, PIECE if self.terminal else min(PIECE, self.typing.room))
            except BlockingIOError:
                continue
            except OSError:
                typed = b""  # hung up
            if not typed:
                return
            if self.terminal is None:
                self.typing.put(typed)
            else:
                self._obey(typed)

    def _wait_for_input(self) -> bool:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if self.terminal is None or not self.terminal.suspended:
            poll.register(STDIN, select.POLLIN)
        ready = {fd for fd, _ in poll.poll()}
        if self._wake in ready:
            os.eventfd_read(self._wake)
        return STDIN in ready

    def _obey(self, typed: bytes) -> None:
        """Keys of a terminal: the Guest's, or words to kvmhost.  A Guest that reads none loses the newest."""
        for item in self._keys.feed(typed, time.monotonic()):
            if item is Word.END:
                self._signals.end(signal.SIGINT)
            elif item is Word.HELP:
                assert self.terminal is not None
                os.write(STDERR, self.terminal.text("\n" + HELP))
            elif isinstance(item, bytes):
                self.typing.put(item)
