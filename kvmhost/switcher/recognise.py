"""Which generation a Switcher was built for, read off its bytes.

An object does not say which frame order or descriptor size it was assembled
with, but two habits that no version changed give it away: the first POP after
the Guest's page table is live takes the frame's first register, and LGDT names
its operands by their distance from the start of the pair.
"""

from __future__ import annotations

import struct

from .layout import DESCRIPTORS, FRAMES, Layout

_MOV_TO_CR3 = b"\x0f\x22"
_LGDT = b"\x0f\x01"
_POP = 0x58
# The 3-bit register numbers of the instruction set (Intel SDM vol. 2, "ModR/M").
_REGISTERS = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")


def frame_order(text: bytes) -> str | None:
    """The frame order of a Switcher's text, or None if it cannot be told.

    >>> frame_order(bytes.fromhex("0f22db 5b 59"))
    '2.6.23'
    """
    at = text.find(_MOV_TO_CR3)
    while at >= 0:
        following = text[at + 3 : at + 4]
        if following and 0 <= following[0] - _POP < len(_REGISTERS):
            return _frame_that_starts_with(_REGISTERS[following[0] - _POP])
        at = text.find(_MOV_TO_CR3, at + 1)
    return None


def _frame_that_starts_with(register: str) -> str | None:
    for frame in FRAMES:
        registers = Layout.of(frame, 6).registers
        if min(registers, key=registers.__getitem__) == register:
            return frame
    return None


def descriptor_size(text: bytes) -> int | None:
    """The bytes that one pseudo-descriptor takes, or None if it cannot be told.

    >>> descriptor_size(bytes.fromhex("0f0190 1a100000 0f0190 0a100000"))
    6
    """
    operands = _lgdt_operands(text)
    for size in DESCRIPTORS:
        layout = Layout.of("2.6.24", size)
        if operands == {layout.in_pair("guest_gdt_desc"), layout.in_pair("host_gdt_desc")}:
            return size
    return None


def _lgdt_operands(text: bytes) -> set[int]:
    """The displacements of every LGDT that addresses base register + 32-bit displacement."""
    found = set()
    at = text.find(_LGDT)
    while at >= 0:
        rest = text[at + 2 : at + 7]
        if len(rest) == 5 and rest[0] & 0xF8 == 0x90 and rest[0] & 7 != 4:
            found.add(struct.unpack_from("<I", rest, 1)[0])
        at = text.find(_LGDT, at + 1)
    return found
