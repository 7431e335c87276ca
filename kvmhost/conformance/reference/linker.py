"""Lay a reference Switcher out: bytes, and where everything in them is.

The parts come first, the stubs behind them in the order of their vectors.  All jumps have 32-bit distances,
so an instruction more or less changes nothing but places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType

from .reference import VECTORS, Instruction, Part, Reference, ReferenceFileError, Stubs

PAGE = 4096
_DISTANCE = 4


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes [start, end) of the text that belong to one label, for listings and reports."""

    label: str
    start: int
    end: int
    listing: str


@dataclass(frozen=True, slots=True)
class Linked:
    """A Switcher ready to be put at SW.  symbols and entries are offsets into text, in bytes.

    symbols has the names of the parts, every instruction's label and name (SW.pop_gs in rows), and for
    each vector n the stub Sn and its boundaries B40vn (only where the stub makes up an error code), B41vn and
    B42vn.
    Labels of return_to_host exist twice, B43 and B43r, as those of deliver_to_host end in d.
    """

    name: str
    text: bytes = field(repr=False)
    symbols: Mapping[str, int]
    entries: tuple[int, ...]
    frame: str
    descriptors: int
    regions: tuple[Region, ...] = field(repr=False)
    boundaries: tuple[str, ...] = field(repr=False)
    """Labels of all instructions that lie in no stub, in the order of the text."""

    exits: tuple[str, ...] = field(repr=False)
    """The part that each vector's stub jumps to."""

    def way(self, vector: int | None = None) -> tuple[str, ...]:
        """The boundaries passed in order: those of a vector's stub and its exit, or None: of the entry.

        >>> from kvmhost.conformance.reference import load
        >>> link(load("seed")).way(2)
        ('B40v2', 'B41v2', 'B42v2', 'N00', 'N01')
        """
        start = "switch_to_guest" if vector is None else self.exits[vector]
        stub = tuple(n for n in (f"B40v{vector}", f"B41v{vector}", f"B42v{vector}") if n in self.symbols)
        own = [region for region in self.regions if region.start >= self.symbols[start]]
        length = next(n for n, region in enumerate(own, 1) if region.listing in _LAST)
        return stub + tuple(region.label for region in own[:length])


_LAST = frozenset({"iret", "jmp eax"})
"""What ends a way through the Switcher."""


def link(reference: Reference, insert: Mapping[str, bytes] = MappingProxyType({})) -> Linked:
    """Lay a Reference out, with bytes inserted just before the instructions of some labels.

    A jump to such a label reaches the inserted bytes first.  Raises ReferenceFileError if the text is longer
    than its page, or insert names a label that does not exist.

    >>> from kvmhost.conformance.reference import load
    >>> seed = link(load("seed"))
    >>> seed.symbols["B03"], seed.entries[0] == seed.symbols["B40v0"]
    (1, True)
    """
    pieces = [*_parts(reference), *_stub_pieces(reference.stubs)]
    unknown = set(insert) - {instruction.label for _, instruction in pieces}
    if unknown:
        raise ReferenceFileError(reference.name, f"there is no boundary {', '.join(sorted(unknown))}")
    symbols, regions, at = _lay_out(pieces, insert)
    if at > PAGE:
        raise ReferenceFileError(reference.name, f"its text takes {at} bytes, a page has {PAGE}")
    return Linked(
        name=reference.name,
        text=_emit(pieces, insert, symbols),
        symbols=MappingProxyType(symbols),
        entries=tuple(symbols[f"S{vector}"] for vector in range(VECTORS)),
        frame=reference.frame,
        descriptors=reference.descriptors,
        regions=tuple(regions),
        boundaries=tuple(i.label for part in reference.parts for i in part.code),
        exits=reference.stubs.exits,
    )


_Piece = tuple[tuple[str, ...], Instruction]
"""The symbols that begin with an instruction, and the instruction."""


def _parts(reference: Reference) -> list[_Piece]:
    return [
        (_names(part, number, instruction.label), instruction)
        for part in reference.parts
        for number, instruction in enumerate(part.code)
    ]


def _names(part: Part, number: int, label: str) -> tuple[str, ...]:
    begins = (part.symbol,) if number == 0 else ()
    return (*begins, f"{label}r") if part.symbol == "return_to_host" else begins


@cache
def _stub_pieces(rule: Stubs) -> tuple[_Piece, ...]:
    """Most of the text, and the same whatever is inserted elsewhere."""
    return tuple(piece for vector in range(VECTORS) for piece in _stub(rule, vector))


def _stub(rule: Stubs, vector: int) -> list[_Piece]:
    code = [
        Instruction(f"B41v{vector}", rule.number(vector), f"push {vector:#x}"),
        Instruction(f"B42v{vector}", rule.jump, f"jmp {rule.exits[vector]}", rule.exits[vector]),
    ]
    if rule.pushes_zero(vector):
        code.insert(0, Instruction(f"B40v{vector}", rule.push_zero, "push 0"))
    return [((f"S{vector}",) if number == 0 else (), i) for number, i in enumerate(code)]


def _length(instruction: Instruction) -> int:
    return len(instruction.code) + (_DISTANCE if instruction.target else 0)


def _lay_out(pieces: list[_Piece], insert: Mapping[str, bytes]) -> tuple[dict[str, int], list[Region], int]:
    symbols: dict[str, int] = {}
    regions: list[Region] = []
    at = 0
    for names, instruction in pieces:
        for name in (*names, instruction.label, *((instruction.name,) if instruction.name else ())):
            symbols[name] = at
        end = at + len(insert.get(instruction.label, b"")) + _length(instruction)
        regions.append(Region(instruction.label, at, end, instruction.listing))
        at = end
    return symbols, regions, at


def _emit(pieces: list[_Piece], insert: Mapping[str, bytes], symbols: Mapping[str, int]) -> bytes:
    text = bytearray()
    for _, instruction in pieces:
        text += insert.get(instruction.label, b"") + instruction.code
        if instruction.target:
            distance = symbols[instruction.target] - (len(text) + _DISTANCE)
            text += distance.to_bytes(_DISTANCE, "little", signed=True)
    return bytes(text)
