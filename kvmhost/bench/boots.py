"""Boots, from an image's name to the stations on a Guest's way, with the traps it took to come there.

Nothing is asked of the Guest.  Its first word is heard at the console, and user space has begun when the
first system call comes from ring 3: until then a gate of the Host's stands where the Guest's own will be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvmhost.bench import guests
from kvmhost.bench.benchmark import Sample
from kvmhost.bench.doing import Outcome
from kvmhost.host import Trap

if TYPE_CHECKING:
    from kvmhost.bench.benchmark import Setting
    from kvmhost.host.guest import Guest
    from kvmhost.host.guest_trap import GuestTrap
    from kvmhost.host.outcome import Outcome as GuestOutcome
    from kvmhost.host.statistics import Statistics
    from kvmhost.launcher.machine import Machine

#: What `kvmhost run` gives a Guest that nobody says anything about.
MEMORY = "64M"
USER_RING = 3
HELLO_OUTPUT, HELLO_OFF = "boot/hello-first-output", "boot/hello-power-off"
LINUX_OUTPUT, LINUX_USER = "boot/linux-first-output", "boot/linux-user-space"


def counts(statistics: Statistics) -> dict[str, int]:
    """Exits and traps by kind, by the names that figures have."""
    traps = {
        f"traps-{trap.name.lower().replace('_', '-')}": count for trap, count in statistics.traps.items()
    }
    return {"exits": statistics.runs, **traps}


@dataclass
class Way:
    """The stations that a Guest has come to: each name once, with the clock and the counters of then.

    last: when all of these have been seen the machine is stopped; nothing stops it for an empty set.
    """

    machine: Machine
    clock: Callable[[], int]
    begun: int
    last: frozenset[str] = frozenset()
    seen: dict[str, Sample | str] = field(default_factory=dict)

    def reach(self, name: str) -> None:
        """From any thread."""
        now = self.clock()
        if name in self.seen:
            return
        self.seen[name] = Sample(now - self.begun, 1, counts(self.machine.statistics()))
        if self.last and self.last <= self.seen.keys():
            self.machine.stop()


def hello(setting: Setting) -> Outcome:
    """One life of the shipped Guest that says hello."""
    clock = guests.clock(setting)
    guests.clean()
    with guests.reasons():
        begun = clock()
        with guests.machine(setting, MEMORY) as machine:
            guest = machine.load("hello")
            way = Way(machine, clock, begun)
            guest.console.append(lambda text: way.reach(HELLO_OUTPUT))
            outcome = _run(way, guests.patience(setting))
            if outcome is not None and outcome.succeeded:
                way.reach(HELLO_OFF)
    return _told(way, (HELLO_OUTPUT, HELLO_OFF), outcome)


def linux(setting: Setting) -> Outcome:
    """One boot of the user's kernel, up to user space."""
    assert setting.kernel is not None
    clock = guests.clock(setting)
    guests.clean()
    with guests.reasons():
        begun = clock()
        with guests.machine(setting, MEMORY) as machine:
            guest = machine.load(setting.kernel, setting.append, initrd=setting.initrd)
            way = Way(machine, clock, begun, frozenset({LINUX_OUTPUT, LINUX_USER}))
            guest.console.append(lambda text: way.reach(LINUX_OUTPUT))
            _watch_for_user_space(guest, way)
            outcome = _run(way, guests.patience(setting))
    return _told(way, (LINUX_OUTPUT, LINUX_USER), outcome)


def _watch_for_user_space(guest: Guest, way: Way) -> None:
    @guest.on(Trap.SYSCALL)
    def call(trap: GuestTrap) -> None:
        if trap.regs.cs & 3 == USER_RING:
            way.reach(LINUX_USER)
            guest.off(Trap.SYSCALL, call)
        trap.default()


def _run(way: Way, seconds: float) -> GuestOutcome | None:
    """Run to the last station, or to the Guest's end; what became of it, None if it was stopped there."""
    outcome = guests.run(way.machine, seconds)
    if outcome is None and not (way.last and way.last <= way.seen.keys()):
        guests.interrupted()
    return outcome


def _told(way: Way, names: tuple[str, ...], outcome: GuestOutcome | None) -> Outcome:
    """Every station, or why the Guest did not come to it."""
    end = "but was stopped" if outcome is None else f"but {outcome.kind.value}: {outcome.reason}"
    return {name: way.seen.get(name, f"the Guest did not come so far, {end}") for name in names}
