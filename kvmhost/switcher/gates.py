"""Gates and descriptors: the eight-byte words that decide where a trap leads.

Intel SDM vol. 3, "Interrupt Descriptor Table (IDT)" and "Segment Descriptors",
gives the bits; abi 1.2 and 5.2 say which values lguest uses.  A table entry is
always two dwords, (low, high), as the hypercalls and the tables carry them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvmhost._native import lib

if TYPE_CHECKING:
    from .blobs import Blob

Entry = tuple[int, int]

TASK_GATE = 0x5
INTERRUPT_GATE = 0xE
TRAP_GATE = 0xF
TSS_AVAILABLE = 0x9
TSS_BUSY = 0xB
# Value 2, which is bit number 1 of the type: what tells a busy TSS from an available one.
TSS_BUSY_BIT = 1 << (8 + 1)
TSS_LIMIT = 0x67

PRESENT = 1 << 15
_DPL_SHIFT = 13
_NOT_SYSTEM = 1 << 12
# What a Guest's gate keeps of its high dword: bit 12 goes, everything else stays (abi 5.1).
_GUEST_GATE_MASK = 0xFFFFEF00


@dataclass(frozen=True, slots=True)
class Gate:
    """One entry of an IDT, taken apart: offset is a 32-bit linear address, kind the 4-bit type."""

    offset: int
    selector: int
    kind: int
    dpl: int
    present: bool


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One entry of a GDT, taken apart: base in bytes, limit as the 20 bits stand in the entry."""

    base: int
    limit: int
    kind: int
    system: bool
    dpl: int
    present: bool
    flags: int


def pack_gate(offset: int, selector: int, kind: int, dpl: int = 0, present: bool = True) -> Entry:
    """Build a 32-bit gate.

    >>> [hex(word) for word in pack_gate(0xFFC00123, 0x50, INTERRUPT_GATE)]
    ['0x500123', '0xffc08e00']
    """
    low = (selector & 0xFFFF) << 16 | offset & 0xFFFF
    high = offset & 0xFFFF0000 | (PRESENT if present else 0) | dpl << _DPL_SHIFT | kind << 8
    return low, high


def unpack_gate(low: int, high: int) -> Gate:
    """Take a gate apart.

    >>> unpack_gate(*pack_gate(0xC0100000, 0x61, TRAP_GATE, dpl=3)).dpl
    3
    """
    return Gate(
        offset=high & 0xFFFF0000 | low & 0xFFFF,
        selector=low >> 16,
        kind=high >> 8 & 0xF,
        dpl=high >> _DPL_SHIFT & 3,
        present=bool(high & PRESENT),
    )


def default_gate(blob: Blob, vector: int, dpl: int | None = None) -> Entry:
    """The gate that leads a vector to its stub in the Switcher (abi 5.2).

    A 32-bit interrupt gate to LGUEST_CS.  dpl None means lguest's own choice: 1 for the
    hypercall's vector 0x1F, so that ring 1 may ask, and 0 for all others.

    >>> from kvmhost.switcher import load
    >>> unpack_gate(*default_gate(load("seed"), 0x1F)).dpl
    1
    """
    if dpl is None:
        dpl = 1 if vector == lib.HYPERCALL_VECTOR else 0
    return pack_gate(blob.gate_address(vector), int(lib.LGUEST_CS), INTERRUPT_GATE, dpl)


def direct_gate(low: int, high: int) -> Entry:
    """A Guest's own gate as it may stand in the live IDT (abi 5.1).

    The selector is the Guest kernel's whatever the Guest wrote, so no gate leads to ring 0; a
    gate that is not present becomes all zero.

    >>> [hex(word) for word in direct_gate(0x00601234, 0xC010EF00)]
    ['0x611234', '0xc010ef00']
    """
    if not high & PRESENT:
        return 0, 0
    return int(lib.GUEST_CS) << 16 | low & 0xFFFF, high & _GUEST_GATE_MASK


def flat_code(dpl: int = 0) -> Entry:
    """4 GiB of code from 0, its accessed bit already set: the live GDT is read-only (abi 1.2).

    >>> [hex(word) for word in flat_code(dpl=1)]
    ['0xffff', '0xcfbb00']
    """
    return 0x0000FFFF, 0x00CF9B00 | dpl << _DPL_SHIFT


def flat_data(dpl: int = 0) -> Entry:
    """4 GiB of data from 0, writable and already accessed.

    >>> hex(flat_data()[1])
    '0xcf9300'
    """
    return 0x0000FFFF, 0x00CF9300 | dpl << _DPL_SHIFT


def tss_descriptor(base: int) -> Entry:
    """An available 32-bit TSS of 104 bytes at a linear address.

    >>> [hex(word) for word in tss_descriptor(0xFFC02020)]
    ['0x20200067', '0xff0089c0']
    """
    low = TSS_LIMIT | (base & 0xFFFF) << 16
    high = base & 0xFF000000 | base >> 16 & 0xFF | PRESENT | TSS_AVAILABLE << 8
    return low, high


def unpack_descriptor(low: int, high: int) -> Descriptor:
    """Take a GDT entry apart.

    >>> hex(unpack_descriptor(*tss_descriptor(0xFFC02020)).base)
    '0xffc02020'
    """
    return Descriptor(
        base=high & 0xFF000000 | (high & 0xFF) << 16 | low >> 16,
        limit=high & 0x000F0000 | low & 0xFFFF,
        kind=high >> 8 & 0xF,
        system=not high & _NOT_SYSTEM,
        dpl=high >> _DPL_SHIFT & 3,
        present=bool(high & PRESENT),
        flags=high >> 20 & 0xF,
    )
