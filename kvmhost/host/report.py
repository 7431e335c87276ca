"""What is shown when a Guest dies: the trap, its registers, the instruction, those before it, and advice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvmhost._native import lib
from kvmhost.host.faults import where_is
from kvmhost.host.hypercalls import NAMES
from kvmhost.host.traps import HAS_ERROR_CODE, Trap
from kvmhost.kvm import was_reset

if TYPE_CHECKING:
    from kvmhost.host.cpu import Cpu
    from kvmhost.host.guest import Guest
    from kvmhost.kvm import Exit

CODE_BYTES = 24
_ROWS = (
    ("eax", "ebx", "ecx", "edx"),
    ("esi", "edi", "ebp", "esp"),
    ("eip", "eflags", "trapnum", "errcode"),
    ("cs", "ss", "ds", "es"),
    ("fs", "gs"),
)


def disassemble(code: bytes, address: int, instructions: int = 3) -> list[str]:
    """The first instructions of some 32-bit code, a line each.

    >>> disassemble(b"\\xfa\\xf4", 0x100000)
    ['0x00100000  fa                    cli', '0x00100001  f4                    hlt']
    """
    import capstone

    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32)
    lines = []
    for found in engine.disasm(code, address, instructions):
        text = f"{found.mnemonic} {found.op_str}".rstrip()
        lines.append(f"{found.address:#010x}  {found.bytes.hex(' '):<20}  {text}")
    if not lines and code:
        lines.append(f"{address:#010x}  {code[:8].hex(' '):<20}  (no instruction)")
    return lines


def registers(guest: Guest) -> list[str]:
    """The frame of a Guest, four registers a line."""
    values = guest.frame.snapshot()
    return ["  ".join(f"{name:>7} {values[name]:08x}" for name in row) for row in _ROWS]


def last_traps(guest: Guest) -> list[str]:
    """What the shim noted of the last traps, oldest first, a line each; the last one is what ended it."""
    state = guest.state
    noted = state.traps_noted
    numbers = range(max(0, noted - lib.TRAP_NOTES), noted)
    return [trap_line(state.trap_notes[number % lib.TRAP_NOTES]) for number in numbers]


def trap_line(note: Any) -> str:
    """One trap: which, where, and what it was about."""
    if note.trapnum == lib.HYPERCALL_VECTOR:
        what = f"hypercall {NAMES.get(note.eax, note.eax)}"
    else:
        what = Trap(min(note.trapnum, lib.NO_TRAP)).name.lower().replace("_", " ")
        if note.trapnum in HAS_ERROR_CODE:
            what += f", error code {note.errcode:#x}"
        if note.trapnum == Trap.PAGE_FAULT:
            what += f", address {note.cr2:#010x}"
    return f"  eip {note.eip:#010x} ring {note.cs & 3}  {what}"


def last_moments(cpu: Cpu, guest: Guest, stop: Exit) -> str:
    """Of a vCPU that left the VM and cannot go on: where it was, and what its Guest had done, several lines.

    Where it was is not known any more after a shutdown that reset it, as an AMD CPU's does.
    """
    lines = [] if was_reset(cpu.vcpu, stop) else [where_is(cpu)]
    if guest.state.traps_noted:
        lines += [f"The last traps of {guest.name}, oldest first:", *last_traps(guest)]
    return "\n".join(lines)


def guest_report(guest: Guest, reason: str, advice: str = "", extra: tuple[str, ...] = ()) -> str:
    """The whole report of a Guest's death, several lines."""
    lines = [f"Guest {guest.name}: {reason}", *extra, *registers(guest)]
    code = guest.read_linear(guest.frame.eip, CODE_BYTES)
    if code:
        lines += disassemble(code, guest.frame.eip)
    else:
        lines.append(f"{guest.frame.eip:#010x}  (not mapped)")
    if guest.state.traps_noted:
        lines += ["The last traps, oldest first:", *last_traps(guest)]
    if advice:
        lines.append(f"What to do: {advice}")
    return "\n".join(lines)
