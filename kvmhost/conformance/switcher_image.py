"""A Switcher under test, as data: its text, where its symbols are, and the layout of the pages it works on.

What is said here about the layouts comes from the catalogue (0.1) and from the kernel's history, not from
native/abi: if the product's headers move a field, its own checks must fail.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
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
#: A file with more than this many bytes has no facts of a Switcher in it.
FACTS_LIMIT = 1 << 20
#: The product's two designs: whose expectations a foreign Switcher has where they differ.
DESIGNS = ("seed", "hardened")
#: Where its instructions are: an object file says so itself.
PLACES = ("symbols", "default_idt_entries")
REQUIRED = ("frame", "descriptors")
OPTIONAL = ("boundaries", "follows", "sha256", "size")


class SwitcherImageError(ValueError):
    """A Switcher that cannot be put on the stage; says what is missing in which file."""


class UnknownPlace(LookupError):
    """No label says which instruction of a Switcher does this.

    >>> UnknownPlace("load_guest_idt").place
    'load_guest_idt'
    """

    def __init__(self, place: str) -> None:
        super().__init__(f"no instruction is known for {place}")
        self.place = place


@dataclass(frozen=True, slots=True)
class SwitcherImage:
    """text is linked for SW.  symbols and entries (256 stubs) are offsets in it.

    frame is "2.6.23" or "2.6.24", descriptors the bytes of an LGDT operand in the state page, 6 or 8.
    boundaries are the labelled instructions, by their short names and in the order of the text: "B12"; and
    "B43r", "B43d" where the paths of return and deliver have one each.  follows is the product's design whose
    expectations it has on layer L3-foreign.
    """

    name: str
    text: bytes = field(repr=False)
    symbols: Mapping[str, int] = field(repr=False)
    entries: tuple[int, ...] = field(repr=False)
    frame: str
    descriptors: int
    boundaries: Mapping[str, int] = field(repr=False)
    follows: str = "seed"

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
    """Read a Switcher from its text and a JSON file of facts, as from_facts() takes them.

    Raises SwitcherImageError.
    """
    text = read(binary, TEXT_LIMIT, "a Switcher's text")
    return from_facts(name or binary.stem, text, read_facts(facts), str(facts))


def read(path: Path, most: int, what: str) -> bytes:
    """A file that may have so many bytes.  Raises SwitcherImageError; what is named in it."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise SwitcherImageError(f"{path}: {error.strerror}") from error
    if len(data) > most:
        raise SwitcherImageError(f"{path}: more than {most} bytes, which is too much for {what}")
    return data


def read_facts(path: Path) -> dict[str, Any]:
    """The object in a JSON file, none of its keys unknown.  Raises SwitcherImageError."""
    try:
        said = json.loads(read(path, FACTS_LIMIT, "what is known of a Switcher"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, SwitcherImageError):
            raise
        raise SwitcherImageError(f"{path}: no JSON: {error}") from error
    if not isinstance(said, dict):
        raise SwitcherImageError(f"{path}: an object is expected, with {', '.join(REQUIRED)}")
    known = (*REQUIRED, *PLACES, *OPTIONAL)
    if unknown := [key for key in said if key not in known]:
        raise SwitcherImageError(
            f"{path}: nobody knows {', '.join(map(repr, unknown))}; there are {', '.join(known)}"
        )
    return said


def from_facts(name: str, text: bytes, said: Mapping[str, Any], where: str) -> SwitcherImage:
    """Build a SwitcherImage from what is known of it; where is named in errors.

    said has frame ("2.6.23" or "2.6.24"), descriptors (6 or 8), symbols {name: offset in the text} and
    default_idt_entries [256 offsets].  It may have boundaries {label: offset}, which are told from the text
    otherwise, follows ("seed" or "hardened"), and sha256 and size of the text it speaks of.  Raises
    SwitcherImageError.
    """
    _complete(said, (*REQUIRED, *PLACES), where)
    size = len(text)
    _of_this_text(text, said, where)
    symbols = _offsets(said["symbols"], "symbols", where, size)
    if "boundaries" in said:
        labelled = _offsets(said["boundaries"], "boundaries", where, size)
    else:
        from .deeds import boundaries

        labelled = boundaries(text, symbols)
    # What an instruction does is the same in every Switcher, whatever number its boundary has.
    deeds = {label.split("_", 1)[1]: offset for label, offset in labelled.items() if "_" in label}
    entries = said["default_idt_entries"]
    frame, descriptors = generation(said, where)
    if not isinstance(entries, list) or not all(
        type(entry) is int and 0 <= entry < size for entry in entries
    ):
        raise SwitcherImageError(f"{where}: default_idt_entries must be offsets below {size}")
    return SwitcherImage(
        name=name,
        text=text,
        symbols={**deeds, **symbols},
        entries=tuple(entries),
        frame=frame,
        descriptors=descriptors,
        boundaries=_short(labelled),
        follows=_one_of({"follows": DESIGNS[0], **said}, "follows", DESIGNS, where),
    )


def generation(said: Mapping[str, Any], where: str) -> tuple[str, int]:
    """The frame order and the bytes of a descriptor; SwitcherImageError if they are none."""
    _complete(said, REQUIRED, where)
    return _one_of(said, "frame", FRAME_ORDERS, where), _one_of(said, "descriptors", (6, 8), where)


def _complete(said: Mapping[str, Any], needed: Iterable[str], where: str) -> None:
    if missing := [key for key in needed if key not in said]:
        raise SwitcherImageError(
            f"{where}: {', '.join(missing)} missing; without them nobody can tell where this Switcher's"
            " instructions and pages are"
        )


def _one_of(said: Mapping[str, Any], key: str, allowed: Iterable[Any], where: str) -> Any:
    """A value that is one of a few, and of their type: JSON has 6.0, which is equal to 6."""
    value, values = said[key], list(allowed)
    if not any(type(value) is type(each) and value == each for each in values):
        raise SwitcherImageError(f"{where}: {key} is {value!r}; it may be {' or '.join(map(repr, values))}")
    return value


def _of_this_text(text: bytes, said: Mapping[str, Any], where: str) -> None:
    """Offsets of another text lead anywhere: who says which one they are of is believed."""
    for key, found in (("size", len(text)), ("sha256", hashlib.sha256(text).hexdigest())):
        if said.get(key, found) != found:
            raise SwitcherImageError(f"{where}: {key} is {said[key]!r}, and that of the text is {found!r}")


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
