"""A Switcher under test, as data: its text, where its symbols are, and the layout of the pages it works on.

What is said here about the layouts comes from the catalogue (0.1) and from the kernel's history, not from
native/abi: if the product's headers move a field, its own checks must fail.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FRAME_OFFSET = 0x1000 - 72
_TAIL = ("trapnum", "errcode", "eip", "cs", "eflags", "esp", "ss")
FRAME_ORDERS: Mapping[str, tuple[str, ...]] = {
    "2.6.23": ("ebx", "ecx", "edx", "esi", "edi", "ebp", "gs", "eax", "fs", "ds", "es", *_TAIL),
    "2.6.24": ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp", "gs", "fs", "ds", "es", *_TAIL),
}
PAGE = 4096
TEXT_LIMIT = 2 * PAGE


class SwitcherImageError(ValueError):
    """A Switcher that cannot be put on the stage; says what is missing in which file."""


@dataclass(frozen=True, slots=True)
class SwitcherImage:
    """text is linked for SW.  symbols and entries (256 stubs) are offsets in it.

    frame is "2.6.23" or "2.6.24", descriptors the bytes of an LGDT operand in the state page, 6 or 8.
    boundaries are the labelled instructions, by their short names and in the order of the text: "B12"; and
    "B43r", "B43d" where the paths of return and deliver have one each.
    """

    name: str
    text: bytes = field(repr=False)
    symbols: Mapping[str, int] = field(repr=False)
    entries: tuple[int, ...] = field(repr=False)
    frame: str
    descriptors: int
    boundaries: Mapping[str, int] = field(repr=False)

    def __post_init__(self) -> None:
        if not 0 < len(self.text) <= TEXT_LIMIT:
            raise SwitcherImageError(f"{self.name}: {len(self.text)} bytes of text; 1 to {TEXT_LIMIT} fit")
        if self.frame not in FRAME_ORDERS or self.descriptors not in (6, 8):
            raise SwitcherImageError(
                f"{self.name}: frame {self.frame!r} with descriptors {self.descriptors!r}: there are frames"
                f" {', '.join(FRAME_ORDERS)} and descriptors 6, 8"
            )
        if "switch_to_guest" not in self.symbols:
            raise SwitcherImageError(
                f"{self.name}: no symbol switch_to_guest, so nothing says where it begins"
            )
        if len(self.entries) != 256:
            raise SwitcherImageError(
                f"{self.name}: {len(self.entries)} stub addresses; a CPU has 256 vectors"
            )

    def frame_offsets(self) -> dict[str, int]:
        """Offset of each saved register in its page."""
        return {name: FRAME_OFFSET + 4 * place for place, name in enumerate(FRAME_ORDERS[self.frame])}

    def state_offsets(self) -> dict[str, int]:
        """Offset of each field in the state page."""
        sizes = (
            ("host_cr3", 4),
            ("host_idt_desc", self.descriptors),
            ("host_gdt_desc", self.descriptors),
            ("host_sp", 4),
            ("guest_idt_desc", self.descriptors),
            ("guest_gdt_desc", self.descriptors),
            ("guest_tss", 104),
            ("guest_idt", 256 * 8),
            ("guest_gdt", 32 * 8),
        )
        places: dict[str, int] = {}
        place = 0
        for name, size in sizes:
            places[name] = place
            place += size
        places["end"] = place
        return places


def load(binary: Path, facts: Path, name: str | None = None) -> SwitcherImage:
    """Read a Switcher from its text and a JSON file of facts.

    The facts are an object with frame, descriptors, symbols {name: offset}, default_idt_entries [256 offsets]
    and perhaps boundaries {label: offset}.  Raises SwitcherImageError.
    """
    try:
        text, said = binary.read_bytes(), json.loads(facts.read_text())
    except OSError as error:
        raise SwitcherImageError(f"{error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise SwitcherImageError(f"{facts}: no JSON: {error}") from error
    return from_facts(name or binary.stem, text, said, str(facts))


def from_facts(name: str, text: bytes, said: Any, where: str) -> SwitcherImage:
    """Build a SwitcherImage from decoded facts; where is named in errors.  Raises SwitcherImageError."""
    if not isinstance(said, dict):
        raise SwitcherImageError(f"{where}: an object is expected, with frame, descriptors and symbols")
    missing = [key for key in ("frame", "descriptors", "symbols", "default_idt_entries") if key not in said]
    if missing:
        raise SwitcherImageError(
            f"{where}: {', '.join(missing)} missing; without them nobody can tell where this Switcher's"
            " instructions and pages are"
        )
    labelled = _offsets(said.get("boundaries", {}), "boundaries", where, len(text))
    # What an instruction does is the same in every Switcher, whatever number its boundary has.
    deeds = {label.split("_", 1)[1]: offset for label, offset in labelled.items() if "_" in label}
    symbols = {**deeds, **_offsets(said["symbols"], "symbols", where, len(text))}
    entries = said["default_idt_entries"]
    if not isinstance(entries, list) or not all(
        type(entry) is int and 0 <= entry < len(text) for entry in entries
    ):
        raise SwitcherImageError(f"{where}: default_idt_entries must be offsets below {len(text)}")
    return SwitcherImage(
        name=name,
        text=text,
        symbols=symbols,
        entries=tuple(entries),
        frame=said["frame"],
        descriptors=said["descriptors"],
        boundaries=_short(labelled),
    )


def _offsets(table: Any, key: str, where: str, size: int) -> dict[str, int]:
    if not isinstance(table, dict):
        raise SwitcherImageError(f"{where}: {key} must be an object of names and offsets")
    for name, offset in table.items():
        if type(offset) is not int or not 0 <= offset <= size:
            raise SwitcherImageError(f"{where}: {key}.{name} is {offset!r}; the text has {size} bytes")
    return dict(table)


def _short(labelled: Mapping[str, int]) -> dict[str, int]:
    """B43_push_es_return becomes B43r, and B30_enter_guest B30: only what is there twice needs a path."""
    names: dict[str, list[tuple[str, int]]] = {}
    for label, offset in sorted(labelled.items(), key=lambda item: item[1]):
        names.setdefault(label.split("_", 1)[0], []).append((label, offset))
    short: dict[str, int] = {}
    for number, places in names.items():
        for label, offset in places:
            path = "r" if label.endswith("return") else "d"
            short[number + (path if len(places) > 1 else "")] = offset
    return dict(sorted(short.items(), key=lambda item: item[1]))
