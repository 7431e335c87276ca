"""Where a Guest's time goes, and in what order things happened.

Nobody is watched unless asked for: a Guest without a Watch costs one test a stay
in the Guest.  With one, every stay is timed at both ends.  What lies between two
stays is Python's, and belongs to the trap that ended the first; what lies inside
one is the VM's, KVM's and the shim's, told apart with the shim's own clock and
with the price of an empty visit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from time import monotonic_ns
from typing import TYPE_CHECKING

from kvmhost._native import lib
from kvmhost.host.hypercalls import NAMES
from kvmhost.host.traps import Trap

if TYPE_CHECKING:
    from kvmhost.host.cpu import Cpu
    from kvmhost.host.guest import Guest
    from kvmhost.host.trace import TraceFile

INTERRUPT = "interrupt to the Host"
VISITS = 200


@dataclass(frozen=True, slots=True)
class Times:
    """Where time went, in nanoseconds of the host's monotonic clock.

    python: by kind of trap, (how often, nanoseconds in Python).  inside: in the VM, the Guest and the
    world switch.  kvm: in the kernel's KVM, at the price of `exit_ns` for each of `runs` KVM_RUN; what
    a single exit costs beyond an empty one counts as inside.  shim: in C and in the call to it.
    """

    python: Mapping[str, tuple[int, int]]
    inside: int
    kvm: int
    shim: int
    exit_ns: int
    runs: int

    @property
    def python_ns(self) -> int:
        """In Python, all kinds together."""
        return sum(spent for _, spent in self.python.values())

    def __add__(self, later: Times) -> Times:
        """Both together; the price of an empty exit is the later one's."""
        python = dict(self.python)
        for kind, (count, spent) in later.python.items():
            before = python.get(kind, (0, 0))
            python[kind] = before[0] + count, before[1] + spent
        return Times(
            python,
            self.inside + later.inside,
            self.kvm + later.kvm,
            self.shim + later.shim,
            later.exit_ns,
            self.runs + later.runs,
        )

    @property
    def traps(self) -> int:
        """How many stays ended by a trap or an interrupt."""
        return sum(count for count, _ in self.python.values())


class Watch:
    """Times one Guest's stays; with a TraceFile it writes each of them down.

    Only the thread of the Guest's vCPU calls enter() and pause(); event() may come from any thread.
    """

    def __init__(self, guest: Guest, trace: TraceFile | None = None) -> None:
        self.guest = guest
        self.trace = trace
        self._spent: dict[str, list[int]] = {}
        self._in_enter = 0
        self._in_run = 0
        self._runs = 0
        self._kind: str | None = None
        self._left_at = 0
        self._eip = 0
        self._cr2 = 0

    def enter_on(self, cpu: Cpu) -> Callable[[Guest], int]:
        """What the run loop calls instead of cpu.enter."""
        return partial(self.enter, cpu)

    def enter(self, cpu: Cpu, guest: Guest) -> int:
        """One stay in the Guest, timed: a LEFT_* value, or -errno, as Cpu.enter()."""
        if cpu.settled is not guest or guest.state.changed:
            cpu.prepare(guest)
        c = cpu.c
        c.timed = 1
        run_before, runs_before = c.run_ns, c.runs
        entered = monotonic_ns()
        self._settled(cpu, entered)
        left = int(lib.kvmhost_enter(c))
        self._left_at = monotonic_ns()
        self._in_enter += self._left_at - entered
        self._in_run += c.run_ns - run_before
        self._runs += c.runs - runs_before
        self._kind = _kind(guest, left)
        self._eip, self._cr2 = guest.frame.eip, cpu.mailbox.cr2
        return left

    def pause(self, cpu: Cpu) -> None:
        """The Guest leaves its vCPU for a while, or for ever: what it waits for is nobody's time."""
        self._settled(cpu, monotonic_ns())

    def event(self, name: str, **details: object) -> None:
        """Something happened at this moment that is no trap: a device was kicked, an interrupt raised."""
        if self.trace is not None:
            self.trace.instant(self.guest, name, monotonic_ns(), details)

    def _settled(self, cpu: Cpu, now: int) -> None:
        """What Python did for the last trap is done."""
        kind, self._kind = self._kind, None
        if kind is None:
            return
        if kind == "page fault":
            moved = self.guest.frame.eip != self._eip
            kind = "page fault, reflected or emulated" if moved else "page fault, filled in"
        spent = self._spent.setdefault(kind, [0, 0])
        spent[0] += 1
        spent[1] += now - self._left_at
        if self.trace is not None:
            details: dict[str, object] = {"eip": f"{self._eip:#010x}"}
            if kind.startswith("page fault"):
                details["cr2"] = f"{self._cr2:#010x}"
            self.trace.span(self.guest, cpu.index, kind, self._left_at, now, details)

    def times(self, exit_ns: int) -> Times:
        """What was found so far; `exit_ns` is the price of an empty exit (price_of_an_exit)."""
        kvm = min(self._in_run, exit_ns * self._runs)
        return Times(
            python={kind: (count, spent) for kind, (count, spent) in self._spent.items()},
            inside=self._in_run - kvm,
            kvm=kvm,
            shim=self._in_enter - self._in_run,
            exit_ns=exit_ns,
            runs=self._runs,
        )


def _kind(guest: Guest, left: int) -> str:
    """What ended a stay, for people."""
    if left == lib.LEFT_ATTENTION:
        return INTERRUPT
    if left != lib.LEFT_TRAP:
        return "the last of it"
    vector = guest.trapnum[0]
    if vector == lib.HYPERCALL_VECTOR:
        number = guest.frame.eax
        return f"hypercall {NAMES.get(number, number)}"
    return Trap(vector).name.lower().replace("_", " ") if vector <= lib.NO_TRAP else "no trap"


def price_of_an_exit(cpu: Cpu) -> int:
    """Nanoseconds of one KVM_RUN in which the Host does nothing but leave again: the median of some.

    Only while nobody runs on the vCPU.
    """
    cpu.c.timed = 1
    found = []
    for _ in range(VISITS):
        before = cpu.c.run_ns
        cpu.visit(lib.WORK_STAY)
        found.append(int(cpu.c.run_ns - before))
    return sorted(found)[VISITS // 2]
