"""Switchers from elsewhere: any object file that a kernel tree built, loaded by its symbols.

Every lguest kernel had its Switcher in one assembler file, and the names in it
never changed: start_switcher_text, switch_to_guest, the table default_idt_entries.
The object is what a loadable module would be: text and a table with relocations
still to be made.  Here they are made, for SWITCHER_BASE, and whatever would lead
the CPU out of the page is refused while it is still only a file.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from kvmhost._native import lib

from . import recognise
from .blobs import Blob
from .errors import SwitcherError
from .layout import Layout

START, END, TABLE, ENTRY = (
    "start_switcher_text",
    "end_switcher_text",
    "default_idt_entries",
    "switch_to_guest",
)
_BUILD = "give the i386 object that a kernel tree builds from its Switcher's assembler file"
_ALONE = "a Switcher runs where nothing else is mapped: build it without that reference"
# Relocation types of the i386 ABI: S + A, S + A - P, and what assemblers write for a jump.
_R_386_NONE, _R_386_32, _R_386_PC32, _R_386_PLT32 = 0, 1, 2, 4
_WORD = 4
# A symbol that lies in no section: not defined here, a plain number, or not yet placed.
_UNDEFINED, _NUMBER, _COMMON = -1, -2, -3
_SPECIAL = {"SHN_UNDEF": _UNDEFINED, "SHN_ABS": _NUMBER, "SHN_COMMON": _COMMON}


@dataclass(frozen=True, slots=True)
class _Symbol:
    name: str
    section: int
    value: int
    size: int


@dataclass(frozen=True, slots=True)
class _Relocation:
    offset: int
    kind: int
    symbol: _Symbol


class _Object:
    """An ELF32 relocatable object for i386, taken apart as far as a Switcher needs it."""

    def __init__(self, path: Path) -> None:
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile

        self.name = path.name
        try:
            with path.open("rb") as file:
                elf = ELFFile(file)
                self._check_header(elf)
                self._symbols = self._read_symbols(elf)
                self.data = {
                    index: section.data()
                    for index, section in enumerate(elf.iter_sections())
                    if section["sh_type"] == "SHT_PROGBITS"
                }
                self.relocations = self._read_relocations(elf)
        except OSError as error:
            self.refuse(f"it cannot be read: {error.strerror}", "check its path and permissions")
        except SwitcherError:
            raise
        except (ELFError, struct.error, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            self.refuse(f"it is not a whole ELF file: {error}", _BUILD)
        self.by_name = {symbol.name: symbol for symbol in self._symbols if symbol.name}

    def refuse(self, cause: str, next_step: str) -> NoReturn:
        raise SwitcherError(f"cannot load the Switcher {self.name}", cause, next_step)

    def symbol(self, name: str) -> _Symbol:
        """A symbol that must be there and lie in a section."""
        found = self.by_name.get(name)
        if found is None or found.section in _SPECIAL.values():
            self.refuse(f"it does not define {name}", _BUILD)
        if found.section not in self.data:
            self.refuse(f"{name} lies in a section without bytes", _BUILD)
        return found

    def _check_header(self, elf: Any) -> None:
        header = elf.header
        if elf.elfclass != 32:
            self.refuse("it is a 64-bit object", "build it for i386 (ARCH=i386, -m32)")
        if header["e_machine"] != "EM_386":
            self.refuse(f"it is for another machine ({header['e_machine']})", "build it for i386")
        if header["e_type"] != "ET_REL":
            self.refuse(f"it is no relocatable object ({header['e_type']})", _BUILD)

    def _read_symbols(self, elf: Any) -> list[_Symbol]:
        table = elf.get_section_by_name(".symtab")
        if table is None:
            self.refuse("it has no symbols", "do not strip it")
        return [
            _Symbol(s.name, _SPECIAL.get(s["st_shndx"], s["st_shndx"]), s["st_value"], s["st_size"])
            for s in table.iter_symbols()
        ]

    def _read_relocations(self, elf: Any) -> dict[int, list[_Relocation]]:
        found: dict[int, list[_Relocation]] = {}
        for section in elf.iter_sections():
            if section["sh_type"] == "SHT_RELA" and section["sh_info"] in self.data:
                self.refuse("its relocations have explicit addends (RELA)", "i386 objects use REL; " + _BUILD)
            if section["sh_type"] == "SHT_REL":
                found[section["sh_info"]] = [
                    _Relocation(r["r_offset"], r["r_info_type"], self._symbols[r["r_info_sym"]])
                    for r in section.iter_relocations()
                ]
        return found


def load(path: Path, frame: str | None = None, descriptors: int | None = None) -> Blob:
    """Load a Switcher object and relocate it for SWITCHER_BASE.

    frame and descriptors name the generation it was built for, as in Layout.of(); None lets the
    text itself tell.  Raises SwitcherError if the object is no Switcher, or one that could not run.

    >>> load(Path("/dev/null"))
    Traceback (most recent call last):
        ...
    kvmhost.switcher.errors.SwitcherError: cannot load the Switcher null: it is not a whole ELF file: ...
    """
    source = _Object(path)
    start, end = _bounds(source)
    size = end - start.value
    if size > lib.PAGE_BYTES:
        source.refuse(f"its text takes {size} bytes", f"it must fit one page of {lib.PAGE_BYTES}")
    text = _relocate(source, start, end)
    return Blob(
        name=source.name,
        text=text,
        symbols=MappingProxyType(_symbols(source, start, end)),
        default_idt_entries=_table(source, start, end),
        layout=_layout(source, text, frame, descriptors),
        sha256=hashlib.sha256(text).hexdigest(),
    )


def _bounds(source: _Object) -> tuple[_Symbol, int]:
    """Where the text starts, and the offset in its section at which it ends."""
    start, entry = source.symbol(START), source.symbol(ENTRY)
    length = len(source.data[start.section])
    last = source.by_name.get(END)
    end = last.value if last is not None and last.section == start.section else length
    if not start.value < end <= length:
        source.refuse(f"its text ends ({end:#x}) before it starts ({start.value:#x})", _BUILD)
    if entry.section != start.section or not start.value <= entry.value < end:
        source.refuse(f"{ENTRY} lies outside its text", _BUILD)
    return start, end


def _symbols(source: _Object, start: _Symbol, end: int) -> dict[str, int]:
    return {
        name: symbol.value - start.value
        for name, symbol in source.by_name.items()
        if symbol.section == start.section and start.value <= symbol.value <= end
    }


def _relocate(source: _Object, start: _Symbol, end: int) -> bytes:
    """The text with every address in it as SWITCHER_BASE wants it."""
    text = bytearray(source.data[start.section][start.value : end])
    for relocation in source.relocations.get(start.section, ()):
        at = relocation.offset - start.value
        if relocation.kind == _R_386_NONE or not -_WORD < at < len(text):
            continue
        if relocation.kind not in (_R_386_32, _R_386_PC32, _R_386_PLT32):
            source.refuse(
                f"it has a relocation of type {relocation.kind} at offset {at:#x} of its text",
                "build it so that it needs 32-bit ones only",
            )
        if not 0 <= at <= len(text) - _WORD:
            source.refuse(f"a relocation at {relocation.offset:#x} crosses the edge of its text", _BUILD)
        (addend,) = struct.unpack_from("<i", text, at)
        target = _target(source, start, end, relocation, addend)
        if relocation.kind == _R_386_32:
            target += lib.SWITCHER_BASE
        else:
            target -= at
        struct.pack_into("<I", text, at, target & 0xFFFFFFFF)
    return bytes(text)


def _target(source: _Object, start: _Symbol, end: int, relocation: _Relocation, addend: int) -> int:
    """S + A as an offset in the text; refused if it leads out of it."""
    symbol, where = relocation.symbol, f"at offset {relocation.offset - start.value:#x} of its text"
    if symbol.section == _UNDEFINED and symbol.name:
        source.refuse(f"it needs {symbol.name}, which it does not define, {where}", _ALONE)
    target = symbol.value + addend - start.value
    # A jump counts from the end of its four bytes, which the addend has already taken off.
    lands = target + (0 if relocation.kind == _R_386_32 else _WORD)
    if symbol.section != start.section or not 0 <= lands <= end - start.value:
        what = symbol.name or "an address"
        source.refuse(f"it refers to {what} ({addend:+#x}), outside its text, {where}", _ALONE)
    return target


def _table(source: _Object, start: _Symbol, end: int) -> tuple[int, ...]:
    """The 256 entry points, as offsets in the text."""
    table = source.symbol(TABLE)
    data = source.data[table.section]
    relocations = {r.offset: r for r in source.relocations.get(table.section, ())}
    length = _table_length(source, table, relocations)
    if length != lib.IDT_ENTRIES:
        source.refuse(f"{TABLE} has {length} entries", f"there must be {lib.IDT_ENTRIES}")
    entries: list[int] = []
    for at in range(table.value, table.value + _WORD * length, _WORD):
        relocation = relocations[at]
        (addend,) = struct.unpack_from("<i", data, at)
        offset = relocation.symbol.value + addend - start.value
        inside = relocation.symbol.section == start.section and 0 <= offset < end - start.value
        if relocation.kind != _R_386_32 or not inside:
            source.refuse(f"entry {len(entries)} of {TABLE} does not lead into its text", _BUILD)
        entries.append(offset)
    return tuple(entries)


def _table_length(source: _Object, table: _Symbol, relocations: dict[int, _Relocation]) -> int:
    """How many addresses follow each other from the table's start, up to the next symbol or its size."""
    stop = len(source.data[table.section])
    if table.size:
        stop = min(stop, table.value + table.size)
    for symbol in source.by_name.values():
        if symbol.section == table.section and symbol.value > table.value:
            stop = min(stop, symbol.value)
    at = table.value
    while at + _WORD <= stop and at in relocations:
        at += _WORD
    return (at - table.value) // _WORD


def _layout(source: _Object, text: bytes, frame: str | None, descriptors: int | None) -> Layout:
    """The Layout that was asked for, unless the text shows another; or the one the text shows."""
    seen_frame, seen_size = recognise.frame_order(text), recognise.descriptor_size(text)
    if frame is None and seen_frame is None:
        source.refuse("its text does not show its frame order", "say the frame order of its kernel")
    if descriptors is None and seen_size is None:
        source.refuse("its text does not show its descriptor size", "say the descriptor size of its kernel")
    layout = Layout.of(frame or seen_frame or "", descriptors or seen_size or 0)
    if layout.frame != (seen_frame or layout.frame):
        source.refuse(f"it was built for the frame order {seen_frame}, not {frame}", "ask for that one")
    if layout.descriptors != (seen_size or layout.descriptors):
        source.refuse(f"it was built for {seen_size}-byte descriptors, not {descriptors}", "ask for those")
    return layout
