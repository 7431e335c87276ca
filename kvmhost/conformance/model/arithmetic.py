"""Arithmetic, conditional jumps and the system registers: what a Switcher is made of besides moves.

Flags as in SDM vol. 1, appendix "EFLAGS Cross-Reference"; those that are undefined are left clear.
"""

from __future__ import annotations

from collections.abc import Callable

from . import paging
from .decode import GPRS, Decoder
from .faults import GP, UD, Fault, Unknown
from .machine import AF, ALL, CF, OF, PAE, PF, PGE, SF, ZF, Machine, Segment

ARITHMETIC = CF | PF | AF | ZF | SF | OF
ADD, OR, AND, SUB, XOR, CMP = 0, 1, 4, 5, 6, 7
SYSENTER_CS = 0x174


def compute(machine: Machine, kind: int, left: int, right: int, size: int) -> int:
    """The result of one of the eight, with all flags."""
    mask, top = (1 << 8 * size) - 1, 1 << 8 * size - 1
    if kind == ADD:
        whole = left + right
        flags = (CF if whole > mask else 0) | (OF if ~(left ^ right) & (left ^ whole) & top else 0)
        flags |= AF if (left ^ right ^ whole) & 16 else 0
    elif kind in (SUB, CMP):
        whole = left - right
        flags = (CF if whole < 0 else 0) | (OF if (left ^ right) & (left ^ whole) & top else 0)
        flags |= AF if (left ^ right ^ whole) & 16 else 0
    elif kind in (OR, AND, XOR):
        whole = left | right if kind == OR else left & right if kind == AND else left ^ right
        flags = 0
    else:
        raise Unknown("ADC and SBB")
    result = whole & mask
    machine.eflags = machine.eflags & ~ARITHMETIC | flags | of_result(result, top)
    return result


def of_result(result: int, top: int) -> int:
    """ZF, SF and PF."""
    flags = ZF if result == 0 else 0
    flags |= SF if result & top else 0
    return flags | (PF if bin(result & 0xFF).count("1") % 2 == 0 else 0)


def immediate_group(d: Decoder) -> None:
    """80, 81, 83: one of the eight with an immediate."""
    size = 1 if d.opcode == 0x80 else d.size
    kind, operand = d.modrm()
    right = d.immediate(size) if d.opcode != 0x83 else d.signed(1) & (1 << 8 * size) - 1
    left = d.get(operand, size) if kind == CMP else d.modified(operand, size)
    result = compute(d.machine, kind, left, right, size)
    if kind != CMP:
        d.put(operand, size, result)


def accumulator(d: Decoder) -> None:
    """05, 0D, 25, ..: one of the eight on EAX with an immediate."""
    kind, right = d.opcode >> 3, d.immediate(d.size)
    if d.size != 4:
        raise Unknown("arithmetic on AX")
    result = compute(d.machine, kind, d.machine.regs["eax"], right, 4)
    if kind != CMP:
        d.machine.regs["eax"] = result


def with_register(d: Decoder) -> None:
    """01, 09, 21, .. and 03, 0B, 23, ..: one of the eight between a register and r/m."""
    kind, to_register = d.opcode >> 3, bool(d.opcode & 2)
    size = d.size if d.opcode & 1 else 1
    register, operand = d.modrm()
    own = type(operand)(False, register)
    target, other = (own, operand) if to_register else (operand, own)
    left = d.get(target, size) if kind == CMP else d.modified(target, size)
    result = compute(d.machine, kind, left, d.get(other, size), size)
    if kind != CMP:
        d.put(target, size, result)


def test(d: Decoder) -> None:
    """TEST: AND without a result."""
    if d.opcode in (0xA8, 0xA9):
        size = 1 if d.opcode == 0xA8 else d.size
        left, right = d.machine.regs["eax"] & (1 << 8 * size) - 1, d.immediate(size)
    else:
        size = 1 if d.opcode == 0x84 else d.size
        register, operand = d.modrm()
        left, right = d.get(operand, size), d.get(type(operand)(False, register), size)
    compute(d.machine, AND, left, right, size)


def shift(d: Decoder) -> None:
    """SHL and SHR by an immediate; OF only means something for one place."""
    kind, operand = d.modrm()
    count = d.immediate(1) & 31
    if kind not in (4, 5) or d.size != 4 or not count:
        raise Unknown("this shift")
    value = d.modified(operand, 4)
    result = value << count & ALL if kind == 4 else value >> count
    carry = value >> (32 - count if kind == 4 else count - 1) & 1
    d.machine.eflags = d.machine.eflags & ~ARITHMETIC | carry | of_result(result, 1 << 31)
    d.put(operand, 4, result)


def lea(d: Decoder) -> None:
    """LEA."""
    register, operand = d.modrm()
    if not operand.memory or d.size != 4:
        raise Unknown("this LEA")
    d.machine.regs[GPRS[register]] = operand.offset


def movzx(d: Decoder) -> None:
    """MOVZX."""
    register, operand = d.modrm()
    d.put(type(operand)(False, register), d.size, d.get(operand, 1 if d.last == 0xB6 else 2))


#: The conditions, by the upper three bits of their number; the lowest bit turns them round.
CONDITIONS: tuple[Callable[[int], bool], ...] = (
    lambda f: bool(f & OF),
    lambda f: bool(f & CF),
    lambda f: bool(f & ZF),
    lambda f: bool(f & (CF | ZF)),
    lambda f: bool(f & SF),
    lambda f: bool(f & PF),
    lambda f: bool(f & SF) != bool(f & OF),
    lambda f: bool(f & ZF) or bool(f & SF) != bool(f & OF),
)


def jump_if(d: Decoder) -> None:
    """Jcc."""
    distance = d.signed(1 if d.opcode != 0x0F else d.size)
    number = d.last & 15
    if CONDITIONS[number >> 1](d.machine.eflags) != bool(number & 1):
        code, target = d.machine.segs["cs"].descriptor, d.at + distance & ALL
        if code is not None and target > code.limit:
            raise Fault(GP, 0)
        d.machine.eip = target


def control_register(d: Decoder) -> None:
    """MOV to and from CR2 and CR3, in ring 0; the model has no TLB, so nothing survives a new CR3."""
    byte = d.byte()
    number, register = byte >> 3 & 7, GPRS[byte & 7]
    machine = d.machine
    if number not in (0, 2, 3, 4):
        raise Fault(UD)
    if machine.cpl:
        raise Fault(GP, 0)
    if d.last == 0x20:
        machine.regs[register] = {0: machine.cr0, 2: machine.cr2, 3: machine.cr3, 4: machine.cr4}[number]
    elif number == 2:
        machine.cr2 = machine.regs[register]
    elif number == 3:
        if machine.cr4 & PGE:
            raise Unknown("global pages")
        if machine.cr4 & PAE:
            paging.check_pdptes(machine, machine.regs[register])
        machine.cr3 = machine.regs[register]
    else:
        raise Unknown(f"a new CR{number}")


def lldt(machine: Machine, selector: int) -> None:
    """LLDT, in ring 0."""
    if selector & ~3 == 0:
        machine.ldtr = Segment(selector, None)
        return
    raise Unknown("LLDT of anything but null")


def wrmsr(d: Decoder) -> None:
    """WRMSR, in ring 0, of the one register that a Switcher clears."""
    machine = d.machine
    if machine.cpl:
        raise Fault(GP, 0)
    if machine.regs["ecx"] != SYSENTER_CS or machine.regs["edx"]:
        raise Unknown("WRMSR")


TABLE: dict[int, Callable[[Decoder], None]] = {
    0x80: immediate_group,
    0x81: immediate_group,
    0x83: immediate_group,
    0x84: test,
    0x85: test,
    0xA8: test,
    0xA9: test,
    0xC1: shift,
    0x8D: lea,
    0x0FB6: movzx,
    0x0FB7: movzx,
    0x0F20: control_register,
    0x0F22: control_register,
    0x0F30: wrmsr,
    **{8 * kind + 5: accumulator for kind in (ADD, OR, AND, SUB, XOR, CMP)},
    **{8 * kind + form: with_register for kind in (ADD, OR, AND, SUB, XOR, CMP) for form in range(4)},
    **{0x70 + number: jump_if for number in range(16)},
    **{0x0F80 + number: jump_if for number in range(16)},
}
