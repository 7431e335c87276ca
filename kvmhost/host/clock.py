"""One thread that knows what time it is.

Clock events of Guests, time slices, timeouts and second tries all come down to
"call this then".  The calls run in the clock's own thread and do nothing but set
bits and kick, so one thread serves a whole machine.
"""

from __future__ import annotations

import heapq
import itertools
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kvmhost._native import lib
from kvmhost.host.errors import KvmhostError

# So many alarms may wait before those that were cancelled among them are forgotten.
MANY = 256


@dataclass(order=True, slots=True)
class Alarm:
    """One call to come.  `when` is in seconds of time.monotonic()."""

    when: float
    order: int
    call: Callable[[], None] | None = field(compare=False)

    def cancel(self) -> None:
        """Make it not happen; harmless if it already did."""
        self.call = None


class Clock:
    """Calls functions at their time, in a thread of its own that starts with the first alarm.

    >>> rang = threading.Event()
    >>> with Clock() as clock:
    ...     _ = clock.after(0.001, rang.set)
    ...     rang.wait(10)
    True
    """

    def __init__(self) -> None:
        self._alarms: list[Alarm] = []
        self._many = MANY
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def after(self, seconds: float, call: Callable[[], None]) -> Alarm:
        """Call `call` so many seconds from now."""
        alarm = Alarm(time.monotonic() + seconds, next(self._order), call)
        with self._changed:
            if self._thread is None and not self._closed:
                self._thread = start_thread(self._serve, "kvmhost clock")
            if len(self._alarms) >= self._many:
                self._forget_cancelled()
            heapq.heappush(self._alarms, alarm)
            if self._alarms[0] is alarm:
                self._changed.notify()
        return alarm

    def _forget_cancelled(self) -> None:
        """Most alarms are cancelled long before their time; those that were are looked for now and then."""
        self._alarms = [alarm for alarm in self._alarms if alarm.call is not None]
        heapq.heapify(self._alarms)
        self._many = max(MANY, 2 * len(self._alarms))

    def _serve(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                now = time.monotonic()
                if not self._alarms or self._alarms[0].when > now:
                    self._changed.wait(self._alarms[0].when - now if self._alarms else None)
                    continue
                call = heapq.heappop(self._alarms).call
            if call is not None:
                _ring(call)

    def close(self) -> None:
        """Forget all alarms and end the thread."""
        with self._changed:
            self._closed = True
            self._alarms.clear()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Clock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _ring(call: Callable[[], None]) -> None:
    """One call; if it raises that is told, and the calls behind it still come."""
    try:
        call()
    except Exception:
        told = threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread()))
        threading.excepthook(told)


def start_thread(target: Callable[[], None], name: str) -> threading.Thread:
    """Start a thread that no signal of the user's can land on.

    A signal for the process may be given to any thread that does not block it; Ctrl-C must reach
    the main thread, which may be inside KVM_RUN.  Only the wake signal stays open.

    Raises KvmhostError if this process may not have another one.
    """
    blocked = set(signal.valid_signals()) - {lib.kvmhost_wake_signal()}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
    except RuntimeError as error:
        raise KvmhostError(
            f"the thread {name} cannot be started",
            cause=str(error),
            next_step="look for what limits threads: ulimit -u, or the container's pids limit",
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return thread
