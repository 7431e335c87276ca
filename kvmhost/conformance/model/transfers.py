"""Ways from one code segment to another: IRET, far CALL, JMP and RET.

SDM vol. 2, the operation sections of each, protected mode.
"""

from __future__ import annotations

from . import paging, segments
from .faults import GP, NP, SS, Fault, Unknown
from .machine import AC, AF, ALL, CF, DIRECTION, IF, IOPL, NT, OF, PF, RF, SF, TF, VM, ZF, Machine, Segment
from .segments import Descriptor

#: What any IRET and POPF may change of EFLAGS.
ORDINARY = CF | PF | AF | ZF | SF | TF | DIRECTION | OF | NT | AC | 1 << 21


def iret(machine: Machine, size: int) -> None:
    """IRET, IRETD."""
    if machine.eflags & NT:
        raise Unknown("a task return")
    eip, cs = machine.peek(0, size), machine.peek(size, size) & 0xFFFF
    flags = machine.peek(2 * size, size)
    if size == 4 and flags & VM and machine.cpl == 0:
        raise Unknown("virtual-8086 mode")
    found = return_target(machine, cs)
    before = machine.cpl
    if cs & 3 > before:
        return_outward(machine, cs, found, eip, machine.peek(3 * size, size), machine.peek(4 * size, 2))
    else:
        if eip > found.limit:
            raise Fault(GP, 0)
        machine.drop(3 * size)
        enter(machine, cs, found, eip)
    allowed = ORDINARY | (RF if size == 4 else 0)
    allowed |= IOPL if before == 0 else 0
    allowed |= IF if before <= (machine.eflags & IOPL) >> 12 else 0
    machine.eflags = machine.eflags & ~allowed | flags & allowed | 2


def return_target(machine: Machine, selector: int) -> Descriptor:
    """The code segment that IRET or RET leads to."""
    if selector & ~3 == 0:
        raise Fault(GP, 0)
    found, ring = machine.descriptor(selector), selector & 3
    bad = not found.code or ring < machine.cpl
    if bad or (found.dpl > ring if found.conforming else found.dpl != ring):
        raise Fault(GP, selector & ~3)
    if not found.present:
        raise Fault(NP, selector & ~3)
    return found


def return_outward(machine: Machine, cs: int, code: Descriptor, eip: int, esp: int, ss: int) -> None:
    """To an outer ring, whose stack comes from the inner one."""
    if ss & ~3 == 0:
        raise Fault(GP, 0)
    stack = machine.descriptor(ss)
    if ss & 3 != cs & 3 or not stack.writable or stack.dpl != cs & 3:
        raise Fault(GP, ss & ~3)
    if not stack.present:
        raise Fault(SS, ss & ~3)
    if eip > code.limit:
        raise Fault(GP, 0)
    if not stack.big:
        raise Unknown("a 16-bit stack in the outer ring")
    machine.cpl = cs & 3
    enter(machine, cs, code, eip)
    machine.segs["ss"] = Segment(ss, machine.touch(ss, stack))
    machine.regs["esp"] = esp
    machine.forget_inner_segments()


def enter(machine: Machine, selector: int, found: Descriptor, eip: int) -> None:
    """CS and EIP."""
    machine.segs["cs"] = Segment(selector, machine.touch(selector, found))
    machine.eip = eip & ALL


def far(machine: Machine, selector: int, offset: int, back: int | None, size: int) -> None:
    """Far JMP, or far CALL if there is a way back (the EIP after it)."""
    if selector & ~3 == 0:
        raise Fault(GP, 0)
    found = machine.descriptor(selector)
    if found.code:
        to_code(machine, selector, found, offset, back, size)
    elif not found.code_or_data and found.type in (segments.CALL32, segments.CALL16):
        through_call_gate(machine, selector, back)
    elif found.code_or_data or found.type not in KNOWN_SYSTEM:
        raise Fault(GP, selector & ~3)
    else:
        raise Unknown("a far transfer to a task")


#: System descriptors that a far transfer may lead to.
KNOWN_SYSTEM = (segments.TSS16, segments.TSS32, segments.TSS16_BUSY, segments.TSS32_BUSY, segments.TASK)


def to_code(
    machine: Machine, selector: int, found: Descriptor, offset: int, back: int | None, size: int
) -> None:
    """To a code segment of the same ring, or a conforming one."""
    wrong = found.dpl > machine.cpl
    if not found.conforming:
        wrong = found.dpl != machine.cpl or selector & 3 > machine.cpl
    if wrong:
        raise Fault(GP, selector & ~3)
    if not found.present:
        raise Fault(NP, selector & ~3)
    if offset > found.limit:
        raise Fault(GP, 0)
    if back is not None:
        machine.push(machine.segs["cs"].selector, size)
        machine.push(back, size)
    enter(machine, selector & ~3 | machine.cpl, found, offset)


def through_call_gate(machine: Machine, selector: int, back: int | None) -> None:
    """What a call gate demands; an inner ring's stack is not known here."""
    place = machine.descriptor_place(selector)
    assert place is not None
    gate = segments.decode_gate(machine.linear_read(place, 8, paging.Access()))
    if gate.dpl < machine.cpl or selector & 3 > gate.dpl:
        raise Fault(GP, selector & ~3)
    if not gate.present:
        raise Fault(NP, selector & ~3)
    if gate.selector & ~3 == 0:
        raise Fault(GP, 0)
    target = machine.descriptor(gate.selector)
    if not target.code or target.dpl > machine.cpl:
        raise Fault(GP, gate.selector & ~3)
    if back is None and not target.conforming and target.dpl != machine.cpl:
        raise Fault(GP, gate.selector & ~3)
    if not target.present:
        raise Fault(NP, gate.selector & ~3)
    raise Unknown("a call through a gate")
