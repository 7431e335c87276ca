"""Segment descriptors, gates and the TSS as bytes (Intel SDM vol. 3, "Segment Descriptors", "IDT
Descriptors", "Task-State Segment (TSS)").

Written from the manual's figures, on purpose without a look at native/abi: these bytes judge those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# Type field and S bit.  "down" is expand-down.  The accessed bit (value 1 of S=1 types) is separate.
SEGMENT_TYPES: Mapping[str, int] = {
    "data-ro": 0,
    "data-rw": 2,
    "data-ro-down": 4,
    "data-rw-down": 6,
    "code-x": 8,
    "code-rx": 10,
    "code-x-conforming": 12,
    "code-rx-conforming": 14,
}
SYSTEM_TYPES: Mapping[str, int] = {
    "tss16": 1,
    "ldt": 2,
    "tss16-busy": 3,
    "call16": 4,
    "task": 5,
    "interrupt16": 6,
    "trap16": 7,
    "tss32": 9,
    "tss32-busy": 11,
    "call32": 12,
    "interrupt32": 14,
    "trap32": 15,
}
GATE_TYPES = frozenset({"call16", "task", "interrupt16", "trap16", "call32", "interrupt32", "trap32"})
SEGMENT_KEYS = frozenset({"base", "limit", "type", "s", "dpl", "p", "g", "b", "l", "avl", "a"})
GATE_KEYS = frozenset({"type", "selector", "offset", "dpl", "p", "count"})

# 32-bit TSS: offset and width in bytes of each field.
TSS_FIELDS: Mapping[str, tuple[int, int]] = {
    "link": (0x00, 2),
    "esp0": (0x04, 4),
    "ss0": (0x08, 2),
    "esp1": (0x0C, 4),
    "ss1": (0x10, 2),
    "esp2": (0x14, 4),
    "ss2": (0x18, 2),
    "cr3": (0x1C, 4),
    "eip": (0x20, 4),
    "eflags": (0x24, 4),
    "eax": (0x28, 4),
    "ecx": (0x2C, 4),
    "edx": (0x30, 4),
    "ebx": (0x34, 4),
    "esp": (0x38, 4),
    "ebp": (0x3C, 4),
    "esi": (0x40, 4),
    "edi": (0x44, 4),
    "es": (0x48, 2),
    "cs": (0x4C, 2),
    "ss": (0x50, 2),
    "ds": (0x54, 2),
    "fs": (0x58, 2),
    "gs": (0x5C, 2),
    "ldt": (0x60, 2),
    "trap": (0x64, 2),
    "io_bitmap_base": (0x66, 2),
}
TSS_BYTES = 0x68


class DescriptorError(ValueError):
    """A field that does not exist or does not fit."""


def segment(
    *,
    base: int = 0,
    limit: int = 0xFFFFF,
    type: str | int = "data-rw",
    s: int | None = None,
    dpl: int = 0,
    p: int = 1,
    g: int = 1,
    b: int = 1,
    l: int = 0,  # noqa: E741 - the manual's name of the bit
    avl: int = 0,
    a: int = 1,
) -> bytes:
    """The 8 bytes of a segment, TSS or LDT descriptor.

    limit is the 20-bit field as it stands there, not scaled by g.  type is a name, or the four bits of the
    field; for a name s and the accessed bit follow from it and from a, for a number s is 1 unless given and
    a is ignored.

    >>> segment(type="code-rx").hex()
    'ffff0000009bcf00'
    """
    if isinstance(type, str):
        if type in SEGMENT_TYPES:
            bits, is_segment = SEGMENT_TYPES[type] | a, 1
        elif type in SYSTEM_TYPES:
            bits, is_segment = SYSTEM_TYPES[type], 0
        else:
            raise DescriptorError(
                f"type {type!r}: there is {', '.join((*SEGMENT_TYPES, *SYSTEM_TYPES))}, or a number"
            )
    else:
        bits, is_segment = type, 1
    s = is_segment if s is None else s
    _fit((("base", base, 32), ("limit", limit, 20), ("type", bits, 4), ("dpl", dpl, 2)))
    _fit((("s", s, 1), ("p", p, 1), ("g", g, 1), ("b", b, 1), ("l", l, 1), ("avl", avl, 1), ("a", a, 1)))
    low = limit & 0xFFFF | (base & 0xFFFF) << 16
    high = base >> 16 & 0xFF | (bits | s << 4 | dpl << 5 | p << 7) << 8 | limit & 0xF0000
    high |= (avl | l << 1 | b << 2 | g << 3) << 20 | base & 0xFF000000
    return low.to_bytes(4, "little") + high.to_bytes(4, "little")


def segment_fields(raw: bytes) -> dict[str, int]:
    """What segment() was given: the fields of 8 bytes, type as four bits and with s."""
    low, high = int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:8], "little")
    return {
        "base": low >> 16 | (high & 0xFF) << 16 | high & 0xFF000000,
        "limit": low & 0xFFFF | high & 0xF0000,
        "type": high >> 8 & 15,
        "s": high >> 12 & 1,
        "dpl": high >> 13 & 3,
        "p": high >> 15 & 1,
        "avl": high >> 20 & 1,
        "l": high >> 21 & 1,
        "b": high >> 22 & 1,
        "g": high >> 23 & 1,
    }


def gate(
    *,
    selector: int = 0,
    offset: int = 0,
    type: str | int = "interrupt32",
    dpl: int = 0,
    p: int = 1,
    count: int = 0,
) -> bytes:
    """The 8 bytes of a gate; count is a call gate's number of parameters.

    >>> gate(selector=0x60, offset=0x40E010).hex()
    '10e06000008e4000'
    """
    if isinstance(type, str):
        if type not in SYSTEM_TYPES:
            raise DescriptorError(f"type {type!r}: a gate is one of {', '.join(sorted(GATE_TYPES))}")
        type = SYSTEM_TYPES[type]
    _fit((("selector", selector, 16), ("offset", offset, 32), ("type", type, 5)))
    _fit((("dpl", dpl, 2), ("p", p, 1), ("count", count, 5)))
    low = offset & 0xFFFF | selector << 16
    high = count | (type | dpl << 5 | p << 7) << 8 | offset & 0xFFFF0000
    return low.to_bytes(4, "little") + high.to_bytes(4, "little")


def gate_fields(raw: bytes) -> dict[str, int]:
    """What gate() was given: the fields of 8 bytes, type as five bits (the highest is S)."""
    low, high = int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:8], "little")
    return {
        "selector": low >> 16,
        "offset": low & 0xFFFF | high & 0xFFFF0000,
        "type": high >> 8 & 31,
        "dpl": high >> 13 & 3,
        "p": high >> 15 & 1,
        "count": high & 31,
    }


def tss(**fields: int) -> bytes:
    """The 104 bytes of a 32-bit TSS; the I/O map base lies behind the limit unless it is given."""
    image = bytearray(TSS_BYTES)
    for name, value in {"io_bitmap_base": TSS_BYTES, **fields}.items():
        offset, width = tss_field(name)
        _fit(((name, value, width * 8),))
        image[offset : offset + width] = value.to_bytes(width, "little")
    return bytes(image)


def tss_field(name: str) -> tuple[int, int]:
    """Offset and width of a TSS field; DescriptorError if there is none of that name."""
    if name not in TSS_FIELDS:
        raise DescriptorError(f"a TSS has no field {name!r}: it has {', '.join(TSS_FIELDS)}")
    return TSS_FIELDS[name]


def _fit(fields: Iterable[tuple[str, int, int]]) -> None:
    for name, value, bits in fields:
        if not 0 <= value < 1 << bits:
            raise DescriptorError(f"{name} {value:#x} does not fit {bits} bit{'s' if bits > 1 else ''}")
