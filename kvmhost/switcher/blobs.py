"""The Switchers that ship, and what any Switcher is once it is loaded: a Blob.

A Switcher is one page of text that runs at SWITCHER_BASE in two address spaces,
a table of 256 entry points in it, and the Layout it was assembled against.  The
build leaves text and symbols as package data; here they are read, and believed
only after they have been checked: a wrong byte in this page is not an exception
later, it is a triple fault.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kvmhost._native import lib

from .errors import SwitcherError
from .layout import Layout

SHIPPED = ("seed", "hardened")
_REINSTALL = "install kvmhost again: pip install --force-reinstall"


@dataclass(frozen=True, slots=True)
class Blob:
    """A Switcher ready to be mapped at SWITCHER_BASE.

    text is at most a page; symbols and default_idt_entries are offsets in it, in bytes; sha256 is
    that of the text.

    >>> blob = load("hardened")
    >>> len(blob.default_idt_entries), len(blob.text) <= 4096
    (256, True)
    """

    name: str
    text: bytes
    symbols: Mapping[str, int]
    default_idt_entries: tuple[int, ...]
    layout: Layout
    sha256: str
    _places: tuple[tuple[int, str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self)
        # The last one named at a place stays; a boundary says more than a symbol.
        names = {self.symbols[name]: name for name in sorted(self.symbols, key=_is_boundary)}
        object.__setattr__(self, "_places", tuple(sorted(names.items())))

    def __hash__(self) -> int:
        return hash(self.sha256)

    def address(self, symbol: str) -> int:
        """Linear address of a symbol; SwitcherError if the text has no such symbol.

        >>> hex(load("seed").address("start_switcher_text"))
        '0xffc00000'
        """
        if symbol not in self.symbols:
            raise SwitcherError(
                f"Switcher {self.name} has no symbol {symbol}",
                f"it has {', '.join(sorted(self.symbols))}",
                "use one of those",
            )
        return int(lib.SWITCHER_BASE) + self.symbols[symbol]

    def gate_address(self, vector: int) -> int:
        """Linear address of the stub of a vector, 0 to 255."""
        return int(lib.SWITCHER_BASE) + self.default_idt_entries[vector]

    def locate(self, address: int) -> str:
        """Name the place in the text that a linear address falls into, for reports.

        A labelled boundary gives its label alone, anything behind it label+bytes; a stub gives
        its vector.

        >>> load("hardened").locate(load("hardened").gate_address(14))
        'the stub of vector 14'
        """
        offset = address - int(lib.SWITCHER_BASE)
        if not 0 <= offset < len(self.text):
            return f"outside the Switcher ({address:#010x})"
        entries = self.default_idt_entries
        last = bisect_right(self._places, offset, key=itemgetter(0)) - 1
        name_at, name = self._places[last] if last >= 0 else (0, "start_switcher_text")
        vector = bisect_right(entries, offset) - 1
        if vector >= 0 and entries[vector] >= name_at:
            name_at, name = entries[vector], f"the stub of vector {vector}"
        return name if name_at == offset else f"{name}+{offset - name_at}"


def load(name: str, frame: str | None = None, descriptors: int | None = None) -> Blob:
    """Load a shipped Switcher by its name, or any Switcher object by its path.

    frame and descriptors are for objects: the kernel generation they were built from ("2.6.23"
    or "2.6.24" for that and all later ones; 8 or 6).  Raises SwitcherError.

    >>> load("seed").layout.frame
    '2.6.23'
    """
    if name in SHIPPED:
        return _shipped(name)
    if not Path(name).exists():
        raise SwitcherError(
            f"no such Switcher: {name}",
            "it is neither shipped nor a file",
            f"name one of {', '.join(SHIPPED)}, or the path of a Switcher object",
        )
    from .foreign import load as load_object

    return load_object(Path(name), frame, descriptors)


def read_data(name: str) -> tuple[bytes, dict[str, Any]]:
    """Read a text that the build made (seed, hardened, host) and what is known of it.

    The bytes are checked against their sha256.  Raises SwitcherError when the installation is
    incomplete or changed.
    """
    folder = Path(__file__).parent.parent / "data" / "switcher"
    try:
        text = (folder / f"{name}.bin").read_bytes()
        about: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    except PermissionError as error:
        raise SwitcherError(
            f"cannot read the shipped text {name}", str(error), "let this user read kvmhost's installation"
        ) from error
    except (OSError, ValueError) as error:
        raise SwitcherError(f"cannot read the shipped text {name}", str(error), _REINSTALL) from error
    if hashlib.sha256(text).hexdigest() != about.get("sha256"):
        raise SwitcherError(f"the shipped text {name} is damaged", "its sha256 is another", _REINSTALL)
    return text, about


@cache
def _shipped(name: str) -> Blob:
    text, about = read_data(name)
    return Blob(
        name=name,
        text=text,
        symbols=MappingProxyType(dict(about["symbols"])),
        default_idt_entries=tuple(about["default_idt_entries"]),
        layout=Layout.of(about["frame"], about["descriptors"]),
        sha256=about["sha256"],
    )


def _is_boundary(name: str) -> bool:
    """Boundaries are labelled with a letter and two digits: B17_load_guest_cr3."""
    return name[1:3].isdigit() and name[3:4] == "_"


def _check(blob: Blob) -> None:
    """What must hold of any Switcher before a CPU may see it (conformance SW-STB-001)."""
    size, entries = len(blob.text), blob.default_idt_entries
    if not 0 < size <= lib.PAGE_BYTES:
        _refuse(blob, f"its text takes {size} bytes", f"it must fit one page of {lib.PAGE_BYTES}")
    if "switch_to_guest" not in blob.symbols:
        _refuse(blob, "it has no switch_to_guest", "give an object built from a Switcher's source")
    if len(entries) != lib.IDT_ENTRIES:
        _refuse(blob, f"its table has {len(entries)} entries", f"there must be {lib.IDT_ENTRIES}")
    for vector, (this, following) in enumerate(zip(entries, (*entries[1:], size), strict=True)):
        if not 0 <= this < following <= size:
            _refuse(
                blob,
                f"entry {vector} of its table is at {this:#x}, the next at {following:#x}",
                f"entries must increase and lie in the text, below {size:#x}",
            )
    outside = [name for name, at in blob.symbols.items() if not 0 <= at <= size]
    if outside:
        _refuse(blob, f"{outside[0]} lies outside its text", "build the object again")


def _refuse(blob: Blob, cause: str, next_step: str) -> None:
    raise SwitcherError(f"Switcher {blob.name} cannot be used", cause, next_step)
