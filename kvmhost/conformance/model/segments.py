"""Descriptors: what their eight bytes say, and what loading one into a register demands.

SDM vol. 3, "Segment Descriptors" and "Protection"; for each register the checks of its own instruction, in
the order of vol. 2's operation sections.
"""

from __future__ import annotations

from dataclasses import dataclass

from .faults import GP, NP, SS, Fault

#: Types of system descriptors.
TSS16, LDT, TSS32 = 1, 2, 9
TSS16_BUSY, TSS32_BUSY = 3, 11
CALL16, TASK, INTERRUPT16, TRAP16 = 4, 5, 6, 7
CALL32, INTERRUPT32, TRAP32 = 12, 14, 15
IN_THE_IDT = frozenset({TASK, INTERRUPT16, TRAP16, INTERRUPT32, TRAP32})


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One descriptor.  limit is in bytes, of the last one; type has four bits, code_or_data is S."""

    base: int
    limit: int
    type: int
    code_or_data: bool
    dpl: int
    present: bool
    big: bool

    @property
    def code(self) -> bool:
        return self.code_or_data and bool(self.type & 8)

    @property
    def data(self) -> bool:
        return self.code_or_data and not self.type & 8

    @property
    def conforming(self) -> bool:
        return self.code and bool(self.type & 4)

    @property
    def expands_down(self) -> bool:
        return self.data and bool(self.type & 4)

    @property
    def writable(self) -> bool:
        return self.data and bool(self.type & 2)

    @property
    def readable(self) -> bool:
        return self.data or (self.code and bool(self.type & 2))

    @property
    def accessed(self) -> bool:
        return bool(self.type & 1)

    def holds(self, offset: int, size: int) -> bool:
        """Whether so many bytes from an offset on lie inside the segment.

        >>> decode(bytes.fromhex("0f0000000096 4000".replace(" ", ""))).holds(0xF, 1)
        False
        """
        last = offset + size - 1
        if self.expands_down:
            return self.limit < offset and last <= (0xFFFFFFFF if self.big else 0xFFFF)
        return last <= self.limit


def decode(raw: bytes) -> Descriptor:
    """Eight bytes as a descriptor.

    >>> decode(bytes.fromhex("ffff0000009acf00")).limit
    4294967295
    """
    limit = int.from_bytes(raw[:2], "little") | (raw[6] & 15) << 16
    if raw[6] & 0x80:
        limit = limit << 12 | 0xFFF
    return Descriptor(
        base=int.from_bytes(raw[2:5], "little") | raw[7] << 24,
        limit=limit,
        type=raw[5] & 15,
        code_or_data=bool(raw[5] & 0x10),
        dpl=raw[5] >> 5 & 3,
        present=bool(raw[5] & 0x80),
        big=bool(raw[6] & 0x40),
    )


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate of a table: selector and offset of where it leads, or of a task."""

    selector: int
    offset: int
    type: int
    dpl: int
    present: bool
    system: bool
    count: int


def decode_gate(raw: bytes) -> Gate:
    """Eight bytes as a gate; 16-bit ones have no upper half of the offset.

    >>> hex(decode_gate(bytes.fromhex("34126000008e7856")).offset)
    '0x56781234'
    """
    kind = raw[5] & 15
    offset = int.from_bytes(raw[:2], "little")
    if kind in (CALL32, INTERRUPT32, TRAP32):
        offset |= int.from_bytes(raw[6:8], "little") << 16
    return Gate(
        selector=int.from_bytes(raw[2:4], "little"),
        offset=offset,
        type=kind,
        dpl=raw[5] >> 5 & 3,
        present=bool(raw[5] & 0x80),
        system=not raw[5] & 0x10,
        count=raw[4] & 31,
    )


def check_data(selector: int, found: Descriptor, cpl: int) -> None:
    """What DS, ES, FS and GS take (MOV, "Loading a segment register while in protected mode").

    >>> check_data(0x68, decode(bytes.fromhex("ffff00000093cf00")), 1)
    Traceback (most recent call last):
    ...
    kvmhost.conformance.model.faults.Fault: vector 13, error 104
    """
    error = selector & ~3
    if not found.readable:
        raise Fault(GP, error)
    if not found.conforming and (selector & 3 > found.dpl or cpl > found.dpl):
        raise Fault(GP, error)
    if not found.present:
        raise Fault(NP, error)


def check_stack(selector: int, found: Descriptor, cpl: int) -> None:
    """What SS takes, by MOV and POP."""
    error = selector & ~3
    if selector & 3 != cpl or found.dpl != cpl or not found.writable:
        raise Fault(GP, error)
    if not found.present:
        raise Fault(SS, error)
