"""Loads and stores of device registers in memory: what the CPU would have done, done here.

From 4.0 on a Guest's page tables may name frames behind the end of memory, where devices have their
registers.  Such an entry never reaches the shadow, so each access faults; the instruction is read, and the
half of its work that concerns the CPU's own registers is done for it.  Drivers use six accessors of the
kernel, which are plain MOVs; all forms of MOV between memory and a general register are known here, and
immediates and the widening loads (Intel SDM vol. 2, "Instruction Format" and "MOV—Move").  Anything else is a
page fault of the Guest's own (abi 10.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kvmhost.host.bus import Bus
    from kvmhost.host.guest import Guest

# 66, two bytes of opcode, ModR/M, SIB, displacement, immediate: no form that is known here is longer.
LONGEST: Final = 1 + 2 + 1 + 1 + 4 + 4
OPERAND_SIZE: Final = 0x66
PAGE: Final = 0x1000
REGISTERS: Final = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")


@dataclass(frozen=True, slots=True)
class Access:
    """One instruction: how long it is, how many bytes it moves, which way, and from or to where.

    register: its number as the CPU counts them; of bytes 4 to 7 are AH, CH, DH and BH.  immediate: what is
    stored instead of a register.  fill: bytes of the register that a load fills.  signed: with the sign.
    """

    length: int
    width: int
    store: bool
    register: int = 0
    immediate: int | None = None
    fill: int = 0
    signed: bool = False


@lru_cache(maxsize=64)
def decode(code: bytes) -> Access | None:
    """What the instruction at the start of `code` moves; None if it is none of those known, or cut off.

    >>> decode(bytes.fromhex("668902"))
    Access(length=3, width=2, store=True, register=0, immediate=None, fill=2, signed=False)
    >>> decode(bytes.fromhex("8a4c2408")).register, decode(bytes.fromhex("8b05")) is None
    (1, True)
    """
    start = 1 if code[:1] == bytes([OPERAND_SIZE]) else 0
    operand = 2 if start else 4
    found = _plain(code, start, operand) or _widening(code, start, operand)
    return found if found is not None and found.length <= len(code) else None


def _plain(code: bytes, start: int, operand: int) -> Access | None:
    """MOV: one byte of opcode, of which bit 0 says byte or not and bit 1 which way."""
    opcode = code[start : start + 1]
    if not opcode:
        return None
    number = opcode[0]
    width = operand if number & 1 else 1
    if 0xA0 <= number <= 0xA3:
        return Access(start + 5, width, number >= 0xA2, fill=width)
    if not (0x88 <= number <= 0x8B or 0xC6 <= number <= 0xC7):
        return None
    size = _operand_size(code[start + 1 :])
    if size is None:
        return None
    length = start + 1 + size
    register = code[start + 1] >> 3 & 7
    if number < 0xC6:
        return Access(length, width, number < 0x8A, register, fill=width)
    if register:
        return None
    immediate = int.from_bytes(code[length : length + width], "little")
    return Access(length + width, width, True, immediate=immediate)


def _widening(code: bytes, start: int, operand: int) -> Access | None:
    """MOVZX and MOVSX: 0F B6, B7, BE, BF."""
    opcode = code[start : start + 2]
    if opcode not in (b"\x0f\xb6", b"\x0f\xb7", b"\x0f\xbe", b"\x0f\xbf"):
        return None
    size = _operand_size(code[start + 2 :])
    if size is None:
        return None
    width, signed = 1 + (opcode[1] & 1), bool(opcode[1] & 8)
    return Access(start + 2 + size, width, False, code[start + 2] >> 3 & 7, fill=operand, signed=signed)


def _operand_size(code: bytes) -> int | None:
    """Bytes of ModR/M, SIB and displacement; None if it names no memory, or is cut off.

    >>> [_operand_size(bytes.fromhex(text)) for text in ("00", "4008", "05", "0425", "8400", "C0", "04")]
    [1, 2, 5, 6, 6, None, None]
    """
    if not code:
        return None
    mode, base = code[0] >> 6, code[0] & 7
    if mode == 3:
        return None
    size = 1
    if base == 4:
        if len(code) < 2:
            return None
        base = code[1] & 7
        size = 2
    if mode == 0:
        return size + 4 if base == 5 else size
    return size + (1 if mode == 1 else 4)


# [T105]
def emulate(guest: Guest, bus: Bus, linear: int) -> bool:
    """Perform the access to a device register that faulted at `linear` (CR2).

    True: done, and EIP moved on.  False: there is no device, or no instruction known here, or it is not the
    kernel's: the fault is the Guest's.  Raises GuestBroke where a device does.
    """
    frame = guest.frame
    if not guest.state.mmio_end or frame.cs & 3 != 1:
        return False
    if guest.tables.register_address(linear, False) is None:
        return False
    access = decode(guest.read_linear(frame.eip, LONGEST))
    if access is None:
        return False
    physical = guest.tables.register_address(linear, access.store)
    if physical is None or physical % PAGE + access.width > PAGE:
        return False
    done = _store(guest, bus, physical, access) if access.store else _load(guest, bus, physical, access)
    if done:
        frame.eip += access.length
    return done


def _store(guest: Guest, bus: Bus, physical: int, access: Access) -> bool:
    if access.immediate is not None:
        return bus.write_mmio(physical, access.width, access.immediate)
    number = access.register
    if access.width == 1 and number >= 4:
        value = getattr(guest.frame, REGISTERS[number - 4]) >> 8
    else:
        value = getattr(guest.frame, REGISTERS[number])
    return bus.write_mmio(physical, access.width, value & (1 << 8 * access.width) - 1)


def _load(guest: Guest, bus: Bus, physical: int, access: Access) -> bool:
    value = bus.read_mmio(physical, access.width)
    if value is None:
        return False
    number, shift = access.register, 0
    if access.fill == 1 and number >= 4:
        number, shift = number - 4, 8
    if access.signed and value >> 8 * access.width - 1:
        value -= 1 << 8 * access.width
    mask = (1 << 8 * access.fill) - 1
    name = REGISTERS[number]
    setattr(guest.frame, name, getattr(guest.frame, name) & ~(mask << shift) | (value & mask) << shift)
    return True
