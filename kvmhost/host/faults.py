"""Faults at ring 0: what happened, at which boundary, and whose doing it was.

Two doors lead here.  Under the Host's IDT a handler writes the mailbox and leaves
by PORT_HOST_FAULT.  Under the Guest's IDT the hardened Switcher leaves at once by
PORT_SWITCHER_FAULT, touching nothing, and the story is read from the vCPU's
registers and the stack it stopped on.  Either way the address of the faulting
instruction is turned into the name of its boundary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvmhost._native import lib
from kvmhost.host.host_area import TEXT_AT
from kvmhost.host.traps import Trap

if TYPE_CHECKING:
    from kvmhost.host.cpu import Cpu

BAD_SEGMENT = (
    "a segment register of this Guest names a descriptor that cannot be loaded any more: "
    "change the register before the GDT"
)
SEGMENT_TRAPS = (Trap.GENERAL_PROTECTION, Trap.SEGMENT_NOT_PRESENT, Trap.STACK_FAULT, Trap.INVALID_TSS)


@dataclass(frozen=True, slots=True)
class RingZeroFault:
    """A fault at ring 0: the vector, its error code, EIP and CR2, and the boundary's name."""

    vector: int
    error_code: int
    eip: int
    cr2: int
    boundary: str
    in_switcher: bool

    @property
    def reason(self) -> str:
        """One line."""
        where = "the Switcher" if self.in_switcher else "the Host"
        kind = Trap(min(self.vector, lib.NO_TRAP)).name.lower().replace("_", " ")
        return (
            f"{where} faulted at {self.boundary} ({self.eip:#010x}): "
            f"trap {self.vector} ({kind}), error code {self.error_code:#x}"
        )

    @property
    def advice(self) -> str:
        """What to do."""
        if self.in_switcher and self.vector in SEGMENT_TRAPS:
            return BAD_SEGMENT
        return "this is a defect of kvmhost or of the CPU beneath: please report it"

    @property
    def details(self) -> tuple[str, ...]:
        """Lines for the report."""
        return (f"boundary {self.boundary}, CR2 {self.cr2:#010x}",)


# [T120]
def switcher_fault(cpu: Cpu) -> RingZeroFault:
    """Read what the Switcher left: vector, error code, EIP, CS and EFLAGS on its stack.

    The stack is the pair's first page, and CR3 tells which frame that was: the Host's or the Guest's.
    """
    cpu.settle()
    regs, sregs = cpu.vcpu.regs(), cpu.vcpu.sregs()
    page = cpu.area.host_page
    if sregs.cr3 != cpu.area.pdpt and cpu.guest is not None:
        page = cpu.guest.registers_at
    stack = page + regs.rsp % lib.PAGE_BYTES
    raw = cpu.host.memory.read(stack, 20)
    vector, code, eip, _cs, _eflags = (int.from_bytes(raw[i : i + 4], "little") for i in range(0, 20, 4))
    name = cpu.host.blob.locate(eip)
    return RingZeroFault(vector, code, eip, sregs.cr2 & 0xFFFFFFFF, name, True)


def host_fault(cpu: Cpu) -> RingZeroFault:
    """Read the mailbox."""
    cpu.settle()
    box = cpu.mailbox
    eip = box.fault_eip
    in_switcher = eip >= lib.SWITCHER_BASE
    name = cpu.host.blob.locate(eip) if in_switcher else _host_place(cpu, eip)
    return RingZeroFault(box.fault_vector, box.fault_error, eip, box.fault_cr2, name, in_switcher)


def _host_place(cpu: Cpu, eip: int) -> str:
    offset = eip - TEXT_AT
    before = [(at, name) for name, at in cpu.host.symbols.items() if at <= offset]
    if not before or offset >= len(cpu.host.host_text):
        return "an address outside the Host's text"
    at, name = max(before)
    return f"{name}+{offset - at}"


def where_is(cpu: Cpu) -> str:
    """Where a vCPU is, in words: the place, the ring, whether interrupts are on, and its tables."""
    regs, sregs = cpu.vcpu.regs(), cpu.vcpu.sregs()
    eip = regs.rip & 0xFFFFFFFF
    if eip >= lib.SWITCHER_BASE:
        place = f"the Switcher, {cpu.host.blob.locate(eip)}"
    elif sregs.cs.selector & 3 == 0:
        place = f"the Host, {_host_place(cpu, eip)}"
    else:
        place = "the Guest"
    tables = "the Host's" if sregs.cr3 == cpu.area.pdpt else "a Guest's"
    enabled = "on" if regs.rflags & lib.EFLAGS_IF_BIT else "off"
    return (
        f"it is at {eip:#010x} in {place}, ring {sregs.cs.selector & 3}, interrupts {enabled}, "
        f"CR3 {sregs.cr3:#x} ({tables})"
    )
