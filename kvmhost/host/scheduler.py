"""Who runs where: several Guests, several vCPUs, one queue.

Each vCPU is a thread, the first one the caller's own.  A thread takes the Guest at
the head of the queue, keeps it for a slice, and puts it back; while another vCPU
stands idle a Guest does not return to the one it came from, so it goes round.
Halted Guests leave the queue until an interrupt they have not masked is posted.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from kvmhost._native import lib
from kvmhost.host.clock import Clock, start_thread
from kvmhost.host.errors import KvmhostError, MachineBroken
from kvmhost.host.interrupts import candidates
from kvmhost.host.outcome import Outcome, OutcomeKind
from kvmhost.host.slice import Left, run_slice

if TYPE_CHECKING:
    from types import FrameType

    from kvmhost.host.cpu import Cpu
    from kvmhost.host.guest import Guest


def _has_reason(guest: Guest) -> bool:
    """Whether a halted Guest must come to a vCPU: for an interrupt, or for its end."""
    return guest.condemned is not None or bool(candidates(guest))


PATIENCE_SECONDS = lib.KVMHOST_PATIENCE_MS / 1000
# So many more Ctrl-C mean that the vCPUs are not to be waited for.
INSISTING = 3
# A vCPU's thread gives the interpreter away whenever it wakes a device; this is how long it may then wait
# to have it back (Python's own choice is ten times as long, and most of a trap).
SWITCH_SECONDS = 0.0005


class _Switches:
    """How long a thread may keep the interpreter: one number for all runs of the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs = 0
        self._before = 0.0

    @contextmanager
    def quick(self) -> Iterator[None]:
        """At most SWITCH_SECONDS inside; as it was when the last of those inside has left."""
        with self._lock:
            if not self._runs:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(min(self._before, SWITCH_SECONDS))
            self._runs += 1
        try:
            yield
        finally:
            with self._lock:
                self._runs -= 1
                if not self._runs:
                    sys.setswitchinterval(self._before)


quick_switches = _Switches().quick


class Scheduler:
    """Runs Guests on vCPUs until they are over or somebody stops it.

    slice_seconds: how long a Guest may keep a vCPU that others could use.
    """

    def __init__(self, clock: Clock, slice_seconds: float) -> None:
        self.clock = clock
        self.slice_seconds = slice_seconds
        self._changed = threading.Condition()
        self._ready: deque[Guest] = deque()
        self._halted: set[Guest] = set()
        self._idle = 0
        self._busy = 0
        self._cpus: list[Cpu] = []
        self._goal: Callable[[], bool] = lambda: False
        self._always_slice = False
        self._stopping: OutcomeKind | None = None
        self._error: BaseException | None = None
        self._threads: set[int] = set()
        self.running = False

    # ---- from any thread --------------------------------------------------------

    def wake(self, guest: Guest) -> None:
        """An interrupt was posted: end its halt, or make its vCPU look."""
        with self._changed:
            if guest in self._halted and _has_reason(guest):
                self._halted.discard(guest)
                self._ready.append(guest)
                self._changed.notify_all()
            cpu = guest.cpu
        if cpu is not None:
            cpu.post(lib.ATTENTION_EVENT)

    def stop(self, kind: OutcomeKind = OutcomeKind.INTERRUPTED) -> None:
        """Make every vCPU come out; Guests that are not over stay where they are."""
        with self._changed:
            if self._stopping is None:
                self._stopping = kind
            self._changed.notify_all()
        for cpu in self._cpus:
            cpu.post(lib.ATTENTION_STOP)
        if self.running:
            self.clock.after(PATIENCE_SECONDS, self._signal_deaf)

    def fail(self, error: BaseException) -> None:
        """Another thread cannot go on: run() stops, and raises this."""
        with self._changed:
            self._error = self._error or error
        self.stop()

    def rest(self) -> None:
        """Stop, and wait until no vCPU runs any more.

        Raises KvmhostError in a thread that a vCPU runs in: it would wait for itself.
        """
        if not self.running:
            return
        if threading.get_ident() in self._threads:
            raise KvmhostError(
                "this Machine is running", next_step="end the run with stop(), and wait until run() returns"
            )
        self.stop()
        with self._changed:
            self._changed.wait_for(lambda: not self.running)

    def _signal_deaf(self) -> None:
        """A vCPU that does not answer to a kick is signalled; the shim then gives it a second.

        And a thread may have been on its way to sleep when it was told, if a signal's handler in it did.
        """
        if self.running and self._stopping is not None:
            with self._changed:
                self._changed.notify_all()
            for cpu in self._cpus:
                lib.kvmhost_signal(cpu.c)

    # ---- one run -----------------------------------------------------------------

    def run(
        self,
        cpus: list[Cpu],
        guests: list[Guest],
        goal: Callable[[], bool],
        timeout: float | None,
        always_slice: bool = False,
    ) -> dict[Guest, Outcome]:
        """Run until goal() holds, all Guests are over, or `timeout` seconds have passed.

        goal() is asked between slices; always_slice: have some even where nobody waits for the vCPU.
        Raises whatever a handler or the machine raised, after everything has come to rest, and
        KvmhostError if a run is going on already.
        """
        if self.running:
            raise KvmhostError(
                "this Machine is running already",
                next_step="wait for that run, or end it with stop(); a handler cannot start another",
            )
        alarm = None
        workers: list[threading.Thread] = []
        try:
            self._begin(cpus, guests, goal, always_slice)
            if timeout is not None:
                alarm = self.clock.after(timeout, partial(self.stop, OutcomeKind.TIMED_OUT))
            with self._interruptible(), quick_switches():
                for cpu in cpus[1:]:
                    workers.append(start_thread(partial(self._serve, cpu), f"vCPU {cpu.index}"))
                self._serve(cpus[0])
                for worker in workers:
                    worker.join()
        finally:
            if alarm is not None:
                alarm.cancel()
            self._finish(workers)
        if self._error is not None:
            raise self._error
        return {guest: guest.outcome or self._unfinished() for guest in guests}

    def _begin(
        self, cpus: list[Cpu], guests: list[Guest], goal: Callable[[], bool], always_slice: bool
    ) -> None:
        self._cpus, self._goal, self._always_slice = cpus, goal, always_slice
        self._stopping = self._error = None
        self._ready = deque(guest for guest in guests if guest.outcome is None)
        self._halted.clear()
        self._idle = self._busy = 0
        for cpu in cpus:
            lib.kvmhost_take(cpu.c)
        self.running = True

    def _finish(self, workers: list[threading.Thread]) -> None:
        """Whatever happened, no thread stays behind: Ctrl-C is heard again when the last one is out.

        But somebody's handler may be in there for ever.  Whoever insists gets away from it, and leaves a
        Machine that counts as running, for its memory must not go.
        """
        interrupted: list[KeyboardInterrupt] = []
        while len(interrupted) <= INSISTING:
            try:
                if not any(worker.is_alive() for worker in workers):
                    break
                self.stop()
                for worker in workers:
                    worker.join()
            except KeyboardInterrupt as error:
                interrupted.append(error)
        else:
            raise interrupted[-1]
        with self._changed:
            self._threads.clear()
            self.running = False
            self._changed.notify_all()
        if interrupted:
            raise interrupted[-1]

    def _unfinished(self) -> Outcome:
        kind = self._stopping or OutcomeKind.INTERRUPTED
        text = "its time was over" if kind is OutcomeKind.TIMED_OUT else "it was stopped from outside"
        return Outcome(kind, text)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """While the main thread runs Guests, Ctrl-C stops them where that is safe; twice, at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_interrupt(number: int, frame: FrameType | None) -> None:
            if self._stopping is not None:
                signal.default_int_handler(number, frame)
            self.stop(OutcomeKind.INTERRUPTED)

        before = signal.signal(signal.SIGINT, on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    # ---- one vCPU -----------------------------------------------------------------

    # [T110]
    def _serve(self, cpu: Cpu) -> None:
        """The life of a vCPU's thread: take, run, put back."""
        self._threads.add(threading.get_ident())
        try:
            while (guest := self._take(cpu)) is not None:
                left = Left.STOP
                try:
                    left = self._run_slice(cpu, guest)
                finally:
                    self._put_back(cpu, guest, left)
        except BaseException as error:
            with self._changed:
                self._error = self._error or error
            self.stop()
        for other in self._cpus:
            other.post(lib.ATTENTION_STOP)

    def _run_slice(self, cpu: Cpu, guest: Guest) -> Left:
        alarm = None
        if self._always_slice or len(self._cpus) > 1 or self._ready or self._halted:
            alarm = self.clock.after(self.slice_seconds, partial(cpu.post, lib.ATTENTION_SLICE))
        lost = False
        try:
            return run_slice(cpu, guest)
        except MachineBroken:
            lost = True
            raise
        finally:
            if alarm is not None:
                alarm.cancel()
            # A vCPU that was lost would never come back from this.
            if len(self._cpus) > 1 and not lost:
                cpu.put_down()

    def _take(self, cpu: Cpu) -> Guest | None:
        """The next Guest for this vCPU; None when the run is over."""
        with self._changed:
            self._idle += 1
            try:
                while not self._over():
                    guest = self._choose(cpu)
                    if guest is not None:
                        self._ready.remove(guest)
                        self._busy += 1
                        guest.move(cpu)
                        if self._ready:
                            self._changed.notify_all()
                        return guest
                    self._changed.wait()
                self._changed.notify_all()  # goal() may have come true since the others asked
                return None
            finally:
                self._idle -= 1

    def _over(self) -> bool:
        if self._stopping is not None or self._error is not None or self._goal():
            return True
        return not (self._ready or self._halted or self._busy)

    def _choose(self, cpu: Cpu) -> Guest | None:
        """The head of the queue, but for a Guest that an idle vCPU should have instead."""
        for guest in self._ready:
            if self._idle < 2 or guest.state.last_cpu != cpu.index:
                return guest
        return None

    def _put_back(self, cpu: Cpu, guest: Guest, left: Left) -> None:
        with self._changed:
            self._busy -= 1
            guest.move(None)
            if guest.outcome is None:
                if left is Left.HALTED and not _has_reason(guest):
                    self._halted.add(guest)
                else:
                    self._ready.append(guest)
            self._changed.notify_all()
