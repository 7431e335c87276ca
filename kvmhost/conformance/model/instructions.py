"""What the model can execute: the instructions that rows are about, and those that lead to them.

Each is its operation section in SDM vol. 2, with the checks in that order.  One that is not here ends the
case without an opinion.
"""

from __future__ import annotations

from collections.abc import Callable

from . import arithmetic, paging, segments, transfers
from .decode import GPRS, LOCK, SREGS, Decoder
from .faults import BP, BR, DB, DE, GP, UD, Fault, Unknown
from .faults import OF as OVERFLOW
from .machine import AC, AF, ALL, CR0_AM, IF, IOPL, NO_PAGE, OF, PF, RF, SF, TF, UMIP, VM, ZF, Machine

Run = Callable[[Decoder], None]
#: EIP while an instruction runs that has not said where it goes on.
NOWHERE = -1
#: With these the ring is asked before anything else is (SDM vol. 3, "Privileged Instructions").
PRIVILEGED = frozenset({0xF4, 0x0F06, 0x0F08, 0x0F09, 0x0F32})


def step(machine: Machine) -> None:
    """Execute one instruction, or deliver what it raises.  Raises Unknown and Shutdown."""
    if machine.eflags & TF:
        raise Unknown("single steps")
    if machine.eflags & AC and machine.cr0 & CR0_AM and machine.cpl == 3:
        raise Unknown("alignment checks")
    machine.code_page = NO_PAGE
    try:
        decoder = Decoder(machine)
        execute(decoder)
    except Fault as fault:
        machine.raise_fault(fault)
        return
    machine.eflags &= ~RF


def execute(d: Decoder) -> None:
    """Find the instruction and do it; EIP moves on unless the instruction has set it."""
    machine, opcode = d.machine, d.opcode
    if opcode == 0x0F:
        d.last = d.byte()
        opcode = 0x0F00 | d.last
    saved = machine.snapshot()
    machine.eip = NOWHERE
    try:
        run = TABLE.get(opcode)
        if d.prefix == LOCK and opcode not in (0xFE, 0xFF):
            raise Unknown("LOCK")
        if opcode in PRIVILEGED:
            privileged(d, opcode)
        elif run is None:
            raise Unknown(f"opcode {opcode:x}")
        else:
            run(d)
    except Fault:
        machine.restore(saved)
        raise
    if machine.eip == NOWHERE:
        machine.eip = d.at


def privileged(d: Decoder, opcode: int) -> None:
    """#GP(0) outside of ring 0, before any operand is looked at."""
    if d.machine.cpl:
        raise Fault(GP, 0)
    raise Unknown(f"opcode {opcode:x} in ring 0")


def int_n(d: Decoder) -> None:
    """INT n: a trap, whose gate's DPL counts; EXT is 0."""
    software(d, d.immediate(1))


def software(d: Decoder, vector: int) -> None:
    """INT n, INT3, INTO: the saved EIP is that of the next instruction."""
    d.machine.eip = d.at
    d.machine.deliver(vector, None, ext=0, software=True)


def into(d: Decoder) -> None:
    """INTO: only with OF set."""
    if d.machine.eflags & OF:
        software(d, OVERFLOW)


def int1(d: Decoder) -> None:
    """INT1: a trap like #DB, for which no DPL counts."""
    d.machine.eip = d.at
    d.machine.deliver(DB, None, ext=1)


def ud(d: Decoder) -> None:
    """UD2."""
    raise Fault(UD)


def nop(d: Decoder) -> None:
    """NOP."""


def mov_to_rm(d: Decoder) -> None:
    """MOV r/m, r."""
    size = 1 if d.opcode == 0x88 else d.size
    register, operand = d.modrm()
    d.put(operand, size, d.get(type(operand)(False, register), size))


def mov_from_rm(d: Decoder) -> None:
    """MOV r, r/m."""
    size = 1 if d.opcode == 0x8A else d.size
    register, operand = d.modrm()
    d.put(type(operand)(False, register), size, d.get(operand, size))


def mov_immediate(d: Decoder) -> None:
    """MOV r, imm."""
    if 0xB8 <= d.opcode < 0xC0:
        value = d.immediate(d.size)
        mask = (1 << 8 * d.size) - 1
        name = GPRS[d.opcode & 7]
        d.machine.regs[name] = d.machine.regs[name] & ~mask & ALL | value
        return
    size = 1 if d.opcode == 0xC6 else d.size
    number, operand = d.modrm()
    value = d.immediate(size)
    if number:
        raise Fault(UD)
    d.put(operand, size, value)


def mov_moffs(d: Decoder) -> None:
    """MOV between EAX or AL and an address."""
    offset, size = d.immediate(4), 1 if d.opcode in (0xA0, 0xA2) else d.size
    segment = d.override or "ds"
    mask = (1 << 8 * size) - 1
    if d.opcode in (0xA0, 0xA1):
        value = d.machine.read(segment, offset, size)
        d.machine.regs["eax"] = d.machine.regs["eax"] & ~mask & ALL | value
    else:
        d.machine.write(segment, offset, size, d.machine.regs["eax"] & mask)


def mov_from_sreg(d: Decoder) -> None:
    """MOV r/m16, Sreg: a register gets zeros above it."""
    number, operand = d.modrm()
    if number > 5:
        raise Fault(UD)
    value = d.machine.segs[SREGS[number]].selector
    d.put(operand, 2 if operand.memory else d.size, value)


def mov_to_sreg(d: Decoder) -> None:
    """MOV Sreg, r/m16."""
    number, operand = d.modrm()
    if number > 5 or SREGS[number] == "cs":
        raise Fault(UD)
    d.machine.load_data(SREGS[number], d.get(operand, 2))


def push(d: Decoder) -> None:
    """PUSH of a register or an immediate."""
    if d.opcode == 0x68:
        value = d.immediate(d.size)
    elif d.opcode == 0x6A:
        value = d.signed(1)
    else:
        value = d.machine.regs[GPRS[d.opcode & 7]]
    d.machine.push(value, d.size)


def pop(d: Decoder) -> None:
    """POP of a register."""
    value = d.machine.peek(0, d.size)
    d.machine.drop(d.size)
    mask = (1 << 8 * d.size) - 1
    name = GPRS[d.opcode & 7]
    d.machine.regs[name] = d.machine.regs[name] & ~mask & ALL | value


PUSHED = {0x06: "es", 0x0E: "cs", 0x16: "ss", 0x1E: "ds", 0x0FA0: "fs", 0x0FA8: "gs"}
POPPED = {0x07: "es", 0x17: "ss", 0x1F: "ds", 0x0FA1: "fs", 0x0FA9: "gs"}


def pusher(name: str) -> Run:
    """PUSH Sreg."""
    return lambda d: d.machine.push(d.machine.segs[name].selector, d.size)


def popper(name: str) -> Run:
    """POP Sreg."""

    def run(d: Decoder) -> None:
        d.machine.load_data(name, d.machine.peek(0, d.size) & 0xFFFF)
        d.machine.drop(d.size)

    return run


def pushf(d: Decoder) -> None:
    """PUSHF: RF and VM are not in the image."""
    d.machine.push(d.machine.eflags & ~(RF | VM), d.size)


def popf(d: Decoder) -> None:
    """POPF: IOPL only in ring 0, IF only within IOPL, the rest silently kept."""
    machine = d.machine
    flags = machine.peek(0, d.size)
    allowed = transfers.ORDINARY if d.size == 4 else transfers.ORDINARY & 0xFFFF
    allowed |= IOPL if machine.cpl == 0 else 0
    allowed |= IF if machine.cpl <= (machine.eflags & IOPL) >> 12 else 0
    machine.drop(d.size)
    machine.eflags = machine.eflags & ~allowed & ~RF | flags & allowed | 2


def iret(d: Decoder) -> None:
    """IRET."""
    transfers.iret(d.machine, d.size)


def jump_short(d: Decoder) -> None:
    """JMP rel."""
    near(d, d.signed(1 if d.opcode == 0xEB else d.size))


def near(d: Decoder, distance: int) -> None:
    """To a place in the same segment."""
    target = d.at + distance & ALL
    code = d.machine.segs["cs"].descriptor
    if code is not None and target > code.limit:
        raise Fault(GP, 0)
    d.machine.eip = target


def call(d: Decoder) -> None:
    """CALL rel."""
    distance = d.signed(d.size)
    d.machine.push(d.at, d.size)
    near(d, distance)


def ret(d: Decoder) -> None:
    """RET."""
    target = d.machine.peek(0, d.size)
    code = d.machine.segs["cs"].descriptor
    if code is not None and target > code.limit:
        raise Fault(GP, 0)
    d.machine.drop(d.size)
    d.machine.eip = target


def far_direct(d: Decoder) -> None:
    """CALL and JMP ptr16:32."""
    offset = d.immediate(d.size)
    selector = d.immediate(2)
    transfers.far(d.machine, selector, offset, d.at if d.opcode == 0x9A else None, d.size)


def group5(d: Decoder) -> None:
    """INC, DEC, far CALL and JMP, PUSH of r/m; INC and DEC of a byte."""
    number, operand = d.modrm()
    size = 1 if d.opcode == 0xFE else d.size
    if number < 2:
        value, by = d.modified(operand, size), 1 if number == 0 else -1
        count(d, value, by, size, lambda result: d.put(operand, size, result))
    elif d.opcode == 0xFF and number in (3, 5) and operand.memory:
        offset = d.machine.read(operand.segment, operand.offset, d.size)
        selector = d.machine.read(operand.segment, operand.offset + d.size, 2)
        transfers.far(d.machine, selector, offset, d.at if number == 3 else None, d.size)
    elif d.opcode == 0xFF and number == 4:
        near(d, d.get(operand, 4) - d.at)
    elif d.opcode == 0xFF and number == 6:
        d.machine.push(d.get(operand, d.size), d.size)
    else:
        raise Unknown(f"opcode {d.opcode:x} /{number}")


def count(d: Decoder, value: int, by: int, size: int, put: Callable[[int], None]) -> None:
    """INC and DEC: all arithmetic flags but CF."""
    mask, top = (1 << 8 * size) - 1, 1 << 8 * size - 1
    result = value + by & mask
    put(result)
    flags = ZF if result == 0 else 0
    flags |= SF if result & top else 0
    flags |= PF if bin(result & 0xFF).count("1") % 2 == 0 else 0
    flags |= AF if (value ^ result) & 16 else 0
    flags |= OF if result == (top if by > 0 else top - 1) else 0
    d.machine.eflags = d.machine.eflags & ~(ZF | SF | PF | AF | OF) | flags


def inc_register(d: Decoder) -> None:
    """INC and DEC of a register."""
    name = GPRS[d.opcode & 7]
    if d.size != 4:
        raise Unknown("INC of 16 bits")
    by = 1 if d.opcode < 0x48 else -1
    count(d, d.machine.regs[name], by, 4, lambda value: d.machine.regs.__setitem__(name, value))


def interrupt_flag(d: Decoder) -> None:
    """CLI and STI: within IOPL, or #GP(0)."""
    machine = d.machine
    if machine.cpl > (machine.eflags & IOPL) >> 12:
        raise Fault(GP, 0)
    if d.opcode == 0xFB:
        raise Unknown("the shadow after STI")
    machine.eflags &= ~IF


def group6(d: Decoder) -> None:
    """SLDT, STR, LLDT, LTR, VERR, VERW."""
    number, operand = d.modrm()
    machine = d.machine
    if number in (0, 1):
        if machine.cpl and machine.cr4 & UMIP:
            raise Fault(GP, 0)  # UMIP
        found = machine.ldtr if number == 0 else machine.tr
        d.put(operand, 2 if operand.memory else d.size, found.selector)
    elif number in (2, 3):
        if machine.cpl:
            raise Fault(GP, 0)
        if number == 2:
            arithmetic.lldt(machine, d.get(operand, 2))
            return
        machine.load_task(d.get(operand, 2))
    elif number in (4, 5):
        verify(d, d.get(operand, 2), write=number == 5)
    else:
        raise Fault(UD)


def visible(machine: Machine, selector: int) -> segments.Descriptor | None:
    """A descriptor that LAR, LSL, VERR and VERW may look at; None leaves ZF clear."""
    place = None if selector & ~3 == 0 else machine.descriptor_place(selector)
    if place is None:
        return None
    found = segments.decode(machine.linear_read(place, 8, paging.Access()))
    hidden = machine.cpl > found.dpl or selector & 3 > found.dpl
    return None if hidden and not found.conforming else found


def zero(machine: Machine, good: bool) -> None:
    """ZF tells whether it was allowed."""
    machine.eflags = machine.eflags & ~ZF | (ZF if good else 0)


def verify(d: Decoder, selector: int, *, write: bool) -> None:
    """VERR, VERW."""
    found = visible(d.machine, selector)
    zero(d.machine, found is not None and (found.writable if write else found.readable))


#: System types that LAR and LSL accept.
LAR_TYPES = frozenset({1, 2, 3, 4, 5, 9, 11, 12})
LSL_TYPES = frozenset({1, 2, 3, 9, 11})


def lar(d: Decoder) -> None:
    """LAR: the second dword of the descriptor, AND 00FxFF00H; the four bits x are undefined."""
    register, selector, found = looked_at(d, LAR_TYPES)
    if found is not None:
        place = d.machine.descriptor_place(selector)
        assert place is not None
        upper = int.from_bytes(d.machine.linear_read(place + 4, 4, paging.Access()), "little")
        d.machine.regs[GPRS[register]] = upper & 0x00F0FF00


def lsl(d: Decoder) -> None:
    """LSL: the limit in bytes."""
    register, _, found = looked_at(d, LSL_TYPES)
    if found is not None:
        d.machine.regs[GPRS[register]] = found.limit


def looked_at(d: Decoder, types: frozenset[int]) -> tuple[int, int, segments.Descriptor | None]:
    """The operands of LAR and LSL; sets ZF."""
    register, operand = d.modrm()
    if d.size != 4:
        raise Unknown("LAR of 16 bits")
    selector = d.get(operand, 2)
    found = visible(d.machine, selector)
    if found is not None and not found.code_or_data and found.type not in types:
        found = None
    zero(d.machine, found is not None)
    return register, selector, found


def group7(d: Decoder) -> None:
    """SGDT, SIDT, LGDT, LIDT, SMSW, LMSW, INVLPG."""
    number, operand = d.modrm()
    machine = d.machine
    if not operand.memory and number not in (4, 6):
        raise Unknown(f"0f 01 /{number} with a register")
    if number in (0, 1, 4) and machine.cpl and machine.cr4 & UMIP:
        raise Fault(GP, 0)  # UMIP
    if number in (0, 1):
        base, limit = machine.gdt if number == 0 else machine.idt
        machine.write(operand.segment, operand.offset, 2, limit)
        machine.write(operand.segment, operand.offset + 2, 4, base)
    elif number == 4:
        d.put(operand, 2 if operand.memory else d.size, machine.cr0)
    elif machine.cpl:
        raise Fault(GP, 0)
    elif number in (2, 3):
        limit = machine.read(operand.segment, operand.offset, 2)
        base = machine.read(operand.segment, operand.offset + 2, 4)
        base &= ALL if d.size == 4 else 0xFFFFFF
        if number == 2:
            machine.gdt = base, limit
        else:
            machine.idt = base, limit
    else:
        raise Unknown(f"0f 01 /{number} in ring 0")


def bound(d: Decoder) -> None:
    """BOUND."""
    register, operand = d.modrm()
    if not operand.memory:
        raise Fault(UD)
    low = signed(d.machine.read(operand.segment, operand.offset, 4))
    high = signed(d.machine.read(operand.segment, operand.offset + 4, 4))
    if not low <= signed(d.machine.regs[GPRS[register]]) <= high:
        raise Fault(BR)


def signed(value: int) -> int:
    """32 bits as a signed number."""
    return value - (1 << 32) if value >> 31 else value


def group3(d: Decoder) -> None:
    """TEST, and DIV by zero or with too large a quotient; nothing else of the group."""
    number, operand = d.modrm()
    if number == 0:
        size = 1 if d.opcode == 0xF6 else d.size
        right = d.immediate(size)
        arithmetic.compute(d.machine, arithmetic.AND, d.get(operand, size), right, size)
        return
    if number != 6 or d.opcode != 0xF7 or d.size != 4:
        raise Unknown(f"opcode {d.opcode:x} /{number}")
    divisor = d.get(operand, 4)
    dividend = d.machine.regs["edx"] << 32 | d.machine.regs["eax"]
    if divisor == 0 or dividend // divisor > ALL:
        raise Fault(DE)
    d.machine.regs["eax"], d.machine.regs["edx"] = divmod(dividend, divisor)
    raise Unknown("the flags after DIV")


def port(d: Decoder) -> None:
    """IN and OUT: within IOPL, else by the TSS's bitmap."""
    number = d.immediate(1) if d.opcode < 0xE8 else d.machine.regs["edx"] & 0xFFFF
    size = 1 if d.opcode in (0xE4, 0xE6, 0xEC, 0xEE) else d.size
    machine = d.machine
    if machine.cpl > (machine.eflags & IOPL) >> 12 and not permitted(machine, number, size):
        raise Fault(GP, 0)
    raise Unknown("a port that may be used")


def permitted(machine: Machine, number: int, size: int) -> bool:
    """The I/O permission bitmap: SDM vol. 1, "I/O Permission Bit Map"."""
    task = machine.tr.descriptor
    if task is None or task.type not in (segments.TSS32, segments.TSS32_BUSY) or task.limit < 103:
        return False
    raw = machine.linear_read(task.base + 102 & ALL, 2, paging.Access())
    place = int.from_bytes(raw, "little") + number // 8
    if place + 1 > task.limit:
        return False
    bits = int.from_bytes(machine.linear_read(task.base + place & ALL, 2, paging.Access()), "little")
    return not bits >> number % 8 & (1 << size) - 1


TABLE: dict[int, Run] = {
    **arithmetic.TABLE,
    0xCD: int_n,
    0xCC: lambda d: software(d, BP),
    0xCE: into,
    0xF1: int1,
    0x0F0B: ud,
    0x90: nop,
    0x88: mov_to_rm,
    0x89: mov_to_rm,
    0x8A: mov_from_rm,
    0x8B: mov_from_rm,
    0xC6: mov_immediate,
    0xC7: mov_immediate,
    0x8C: mov_from_sreg,
    0x8E: mov_to_sreg,
    0x68: push,
    0x6A: push,
    0x9C: pushf,
    0x9D: popf,
    0xCF: iret,
    0xEB: jump_short,
    0xE9: jump_short,
    0xE8: call,
    0xC3: ret,
    0x9A: far_direct,
    0xEA: far_direct,
    0xFE: group5,
    0xFF: group5,
    0xFA: interrupt_flag,
    0xFB: interrupt_flag,
    0x0F00: group6,
    0x0F01: group7,
    0x0F02: lar,
    0x0F03: lsl,
    0x62: bound,
    0xF6: group3,
    0xF7: group3,
    **dict.fromkeys((228, 229, 230, 231, 236, 237, 238, 239), port),
    **dict.fromkeys(range(160, 164), mov_moffs),
    **dict.fromkeys(range(184, 192), mov_immediate),
    **dict.fromkeys(range(80, 88), push),
    **dict.fromkeys(range(88, 96), pop),
    **dict.fromkeys(range(64, 80), inc_register),
    **{opcode: pusher(name) for opcode, name in PUSHED.items()},
    **{opcode: popper(name) for opcode, name in POPPED.items()},
}
