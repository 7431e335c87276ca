"""Counts of what happened: world switches, traps by kind, and who dealt with them."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvmhost.host.traps import Trap, is_interrupt
from kvmhost.host.watch import price_of_an_exit

if TYPE_CHECKING:
    from kvmhost.host.machine import Machine
    from kvmhost.host.watch import Times


@dataclass(frozen=True, slots=True)
class Statistics:
    """A machine's counters since it was made; all are plain counts.

    switches: round trips through the Switcher.  runs: KVM_RUN calls.  traps: by kind, interrupts to
    the Host apart.  handled: (kind or "interrupt", place) to count, place being "Python", "hook" (a
    user's handler; each call in the async ring it saw counts, as far as there were traps) or "shim".
    guest_changes: a vCPU took another Guest.  moves: a Guest took another vCPU.  kicks, stale,
    signals: of the shim.  times: where time went, by the name of each Guest that was watched.
    backend: "vmx", "svm", "lab" or "kvm".
    """

    switches: int
    runs: int
    traps: Mapping[Trap, int]
    interrupts: int
    handled: Mapping[tuple[str, str], int]
    guest_changes: int
    moves: int
    kicks: int
    stale: int
    signals: int
    nmis: int
    times: Mapping[str, Times]
    backend: str
    cpu: str
    kernel: str
    switcher: str

    def __add__(self, later: Statistics) -> Statistics:
        """Both machines' counts: of a Guest that was restarted in another one."""
        sums: dict[str, Any] = {}
        for field in fields(self):
            mine, other = getattr(self, field.name), getattr(later, field.name)
            if isinstance(mine, int):
                sums[field.name] = mine + other
            elif isinstance(mine, Mapping):
                sums[field.name] = {**mine, **other} | {
                    key: mine[key] + other[key] for key in mine if key in other
                }
        return replace(self, **sums)


def backend() -> str:
    """What executes ring 0 to 3 beneath us."""
    if os.environ.get("KVMHOST_IN_LAB"):
        return "lab"
    for module, name in (("kvm_intel", "vmx"), ("kvm_amd", "svm")):
        if Path("/sys/module", module).exists():
            return name
    return "kvm"


def cpu_model() -> str:
    """The CPU's own name for itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def collect(machine: Machine) -> Statistics:
    """Add up all vCPUs and Guests of a machine."""
    traps: Counter[Trap] = Counter()
    interrupts = 0
    for cpu in machine.cpus:
        for vector, count in enumerate(cpu.c.traps):
            if not count:
                continue
            if is_interrupt(vector):
                interrupts += count
            else:
                traps[Trap(vector)] += count
    hooked = sum((guest.hooked for guest in machine.guests), Counter[Trap]())
    handled: Counter[tuple[str, str]] = Counter()
    for trap, count in traps.items():
        handled[trap.name, "hook"] = min(hooked[trap], count)
        handled[trap.name, "Python"] = count - handled[trap.name, "hook"]
    stale = sum(cpu.c.stale for cpu in machine.cpus)
    handled["interrupt", "shim"] = stale + sum(guest.interruptions for guest in machine.guests)
    return Statistics(
        switches=sum(cpu.c.switches for cpu in machine.cpus),
        runs=sum(cpu.c.runs for cpu in machine.cpus),
        traps=dict(sorted(traps.items())),
        interrupts=interrupts,
        handled={place: count for place, count in handled.items() if count},
        guest_changes=sum(cpu.guest_changes for cpu in machine.cpus),
        moves=sum(guest.moves for guest in machine.guests),
        kicks=sum(cpu.c.kicks for cpu in machine.cpus),
        stale=stale,
        signals=sum(cpu.c.signals for cpu in machine.cpus),
        nmis=sum(cpu.mailbox.nmi_host + cpu.mailbox.nmi_switcher for cpu in machine.cpus),
        times=_times(machine),
        backend=backend(),
        cpu=cpu_model(),
        kernel=platform.release(),
        switcher=machine.blob.name,
    )


def _times(machine: Machine) -> dict[str, Times]:
    """Of the Guests that are watched; a machine that runs, or is broken, has no exits to spare."""
    watches = {guest.name: guest.watch for guest in machine.guests if guest.watch is not None}
    if not watches:
        return {}
    able = machine.broken is None and not machine.scheduler.running
    price = price_of_an_exit(machine.cpus[0]) if able else 0
    return {name: watch.times(price) for name, watch in watches.items()}
