"""Frames and stacks that a Guest may not run with, offered to the Host (SEC-025).

By two ways: written into the frame before the Guest starts, and by a handler while it runs.  The Guest then
tells which ring, IOPL and IF it runs with; one that is refused executes nothing more.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from kvmhost.host.errors import KvmhostError
from kvmhost.host.outcome import OutcomeKind
from kvmhost.host.traps import Trap
from kvmhost.kvm import CpuidEntry, Kvm

from .script import SECONDS, STACK_TOP, Script, dword, machine_of

if TYPE_CHECKING:
    from kvmhost.host.guest import Guest
    from kvmhost.host.machine import Machine

TOLD = 0x3000
# pushf; pop [TOLD]; mov eax, cs; mov [TOLD+4], eax; mov eax, ss; mov [TOLD+8], eax
TELL = b"\x9c\x8f\x05" + dword(TOLD) + b"\x8c\xc8\xa3" + dword(TOLD + 4) + b"\x8c\xd0\xa3" + dword(TOLD + 8)
IOPL, IF, VM = 0x3000, 0x200, 0x20000
SWITCHER = 0xFFC00000


def _set(**fields: int) -> Callable[[Any], None]:
    def change(frame: Any) -> None:
        for name, value in fields.items():
            setattr(frame, name, value)

    return change


def _flags(on: int = 0, off: int = 0) -> Callable[[Any], None]:
    def change(frame: Any) -> None:
        frame.eflags = frame.eflags & ~off | on

    return change


FRAMES: Mapping[str, Callable[[Any], None]] = {
    "iopl-3": _flags(on=IOPL),
    "if-0": _flags(off=IF),
    "vm-1": _flags(on=VM),
    "cs-rpl-0": _set(cs=0x60),
    "ss-rpl-0": _set(ss=0x68),
}
STACKS = {"esp1-in-the-switcher": (0x69, SWITCHER + 0x800, 1), "ss1-rpl-0": (0x68, STACK_TOP, 1)}


def told(guest: Guest) -> str:
    """What a Guest ran with."""
    eflags, cs, ss = struct.unpack("<III", guest.ram.read(TOLD, 12))
    return f"ring {cs & 3}, stack of ring {ss & 3}, IOPL {eflags >> 12 & 3}, IF {int(bool(eflags & IF))}"


def outcome(machine: Machine, guest: Guest, offered: Callable[[], int]) -> str:
    """Let a Guest run into what was offered; `offered` says how often the vCPU had gone in by then."""
    try:
        end = guest.run(timeout=SECONDS)
    except KvmhostError as error:
        return f"the machine was lost: {error.message}"
    if end.kind is OutcomeKind.RESTARTED:
        return told(guest)
    return "refused" if machine.cpus[0].c.runs == offered() else f"entered, and {end.kind.value}"


def from_start(machine: Machine, change: Callable[[Any], None]) -> str:
    """The frame is changed before the first entry."""
    script = Script()
    script.raw(TELL)
    script.end()
    guest = script.guest(machine)
    change(guest.frame)
    before = machine.cpus[0].c.runs
    return outcome(machine, guest, lambda: before)


def from_handler(machine: Machine, change: Callable[[Any], None]) -> str:
    """The frame is changed by a handler of the first hypercall."""
    script = Script()
    script.raw(TELL)
    script.end()
    guest = script.guest(machine)
    before: list[int] = []

    @guest.on(Trap.HYPERCALL)
    def forge(trap: Any) -> None:
        trap.default()
        if not before:
            before.append(machine.cpus[0].c.runs)
            change(trap.regs)

    return outcome(machine, guest, lambda: before[0])


def from_call(machine: Machine, selector: int, esp: int, pages: int) -> str:
    """SET_STACK: where a trap from ring 3 straight to ring 1 would land."""
    script = Script()
    script.call("SET_STACK", selector, esp, pages)
    script.raw(TELL)
    script.end()
    guest = script.guest(machine)
    before: list[int] = []

    @guest.on(Trap.HYPERCALL)
    def count(trap: Any) -> None:
        before.append(machine.cpus[0].c.runs)
        trap.default()

    return outcome(machine, guest, lambda: before[1])


def sec_025(kvm: Kvm, cpuid: tuple[CpuidEntry, ...], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, a Guest each."""
    with machine_of(kvm, parameters) as machine:
        found = {f"start.{name}": from_start(machine, change) for name, change in FRAMES.items()}
        found |= {f"handler.{name}": from_handler(machine, change) for name, change in FRAMES.items()}
        found |= {name: from_call(machine, *stack) for name, stack in STACKS.items()}
    return found
