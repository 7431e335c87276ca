"""Signals, heard by a thread that does nothing else.

While Guests run the main thread is a vCPU: a handler would run in it between any two of its steps, and could
not wait for anything.  So every signal that means something is blocked, and one thread fetches them
with sigwait(3).  It can stop a machine, give a terminal back, and, asked to stop the process itself (Ctrl-Z),
lets the kernel do that in the usual way.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import TracebackType
from typing import Final, Protocol, Self

#: They end a run; what was ignored when kvmhost began (nohup) stays ignored.
ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
#: Ours to hear only where there is a terminal.
OF_TERMINALS: Final = (signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)
#: A second wish to end this long after the first: something does not come to its end.
IMPATIENT_SECONDS: Final = 2.0
#: How often a run that is to end is told so.
AGAIN_SECONDS: Final = 0.2


class Listener(Protocol):
    """Who is told.  All methods are called on the thread that hears signals."""

    def end(self, number: int) -> None:
        """End what runs, because of this signal; called again and again until the block is left."""
        ...

    def give_back(self) -> None:
        """The process is about to stop or to die: leave the terminal as it was found."""
        ...

    def take_again(self) -> None:
        """The process goes on."""
        ...

    def resized(self) -> None:
        """The terminal's size is another one."""
        ...


class SignalThread:
    """Hears signals for as long as the block runs; must be entered by the main thread, before others start.

    ended_by: the first signal that asked for the end, else None.
    """

    def __init__(self, listener: Listener, *, interrupts: bool = True, terminal: bool = False) -> None:
        wanted = [*ENDING, *(OF_TERMINALS if terminal else ())]
        self._heard = {number for number in wanted if signal.getsignal(number) is not signal.SIG_IGN}
        if not interrupts:
            self._heard.discard(signal.SIGINT)
        self._listener = listener
        self._thread: threading.Thread | None = None
        self._before: set[signal.Signals | int] = set()
        self._over = False
        self._asked = 0
        self._ended_at = 0.0
        self.ended_by: int | None = None

    def end(self, number: int) -> None:
        """As if this signal had come.  From any thread, inside the block."""
        self._asked = number
        self._nudge()

    def __enter__(self) -> Self:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, self._heard | {signal.SIGWINCH})
        self._thread = threading.Thread(target=self._hear, name="kvmhost signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._thread is not None
        self._over = True
        self._nudge()
        self._thread.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def _nudge(self) -> None:
        assert self._thread is not None and self._thread.ident is not None
        signal.pthread_kill(self._thread.ident, signal.SIGWINCH)

    def _hear(self) -> None:
        heard = self._heard | {signal.SIGWINCH}
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            told = signal.sigtimedwait(heard, AGAIN_SECONDS) if self.ended_by else signal.sigwaitinfo(heard)
            if self._over:
                return
            number = told.si_signo if told is not None else 0
            asked, self._asked = self._asked, 0
            if asked or number in ENDING:
                self._end(asked or number)
            elif number == signal.SIGTSTP:
                self._stop()
            elif number == signal.SIGCONT:
                self._listener.take_again()
            elif number == signal.SIGWINCH:
                self._listener.resized()
            if self.ended_by is not None:
                self._listener.end(self.ended_by)

    def _end(self, number: int) -> None:
        now = time.monotonic()
        if self.ended_by is None:
            self.ended_by, self._ended_at = number, now
        elif now - self._ended_at > IMPATIENT_SECONDS:
            self._listener.give_back()
            os._exit(128 + number)

    def _stop(self) -> None:
        """What SIGTSTP does to everybody; where nobody could continue us the kernel does nothing."""
        self._listener.give_back()
        me = threading.get_ident()
        signal.pthread_kill(me, signal.SIGTSTP)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
        self._listener.take_again()
