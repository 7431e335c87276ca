"""Page tables in both 32-bit formats (Intel SDM vol. 3, "32-Bit Paging", "PAE Paging").

The stage has five pages for one set of tables: the top (a directory, or the four PDPTEs), under PAE the
directories of the first and the last gigabyte, and two tables, for the arena's 4 KiB pages and for those at
the Switcher's address.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

PagingFormat: TypeAlias = Literal["legacy", "pae"]

PAGE = 4096
PRESENT, RW, USER, PWT, PCD, ACCESSED, DIRTY, LARGE, GLOBAL = (1 << bit for bit in range(9))
NX = 1 << 63
FLAGS: Mapping[str, int] = {
    "present": PRESENT,
    "rw": RW,
    "us": USER,
    "pwt": PWT,
    "pcd": PCD,
    "a": ACCESSED,
    "d": DIRTY,
    "g": GLOBAL,
    "nx": NX,
}
ARENA_BASE, SWITCHER_BASE = 0x00400000, 0xFFC00000


@dataclass(frozen=True, slots=True)
class Slot:
    """Where an entry lies (physical), and its width in bytes."""

    address: int
    width: int


def reach(paging: PagingFormat) -> int:
    """Bytes of linear addresses that one table of 4 KiB pages covers."""
    return 0x400000 if paging == "legacy" else 0x200000


def table_slot(paging: PagingFormat, pages: Mapping[str, int], linear: int) -> Slot | None:
    """The entry of a 4 KiB page, or None if no table of the stage covers its address."""
    width = 4 if paging == "legacy" else 8
    for base, page in ((ARENA_BASE, "PT"), (SWITCHER_BASE, "SWPT")):
        if base <= linear < base + reach(paging):
            return Slot(pages[page] + (linear - base) // PAGE * width, width)
    return None


def directory_slot(paging: PagingFormat, pages: Mapping[str, int], linear: int) -> Slot | None:
    """The directory entry of an address, or None if the stage has no directory for it (PAE: 1 to 3 GiB)."""
    if paging == "legacy":
        return Slot(pages["TOP"] + (linear >> 22) * 4, 4)
    directory = {0: "PD0", 3: "PD3"}.get(linear >> 30)
    return Slot(pages[directory] + (linear >> 21 & 0x1FF) * 8, 8) if directory else None


def top_slot(paging: PagingFormat, pages: Mapping[str, int], linear: int) -> Slot | None:
    """The PDPTE of an address; None without PAE."""
    return Slot(pages["TOP"] + (linear >> 30) * 8, 8) if paging == "pae" else None


def build_tables(
    paging: PagingFormat, pages: Mapping[str, int], mapped: Mapping[int, tuple[int, bool, bool]]
) -> dict[int, bytes]:
    """One set of tables: linear page to (physical, writable, user).  Entries by address.

    A and D are set everywhere, so that a CPU that walks the tables has nothing to write.
    """
    entries: dict[int, bytes] = {}

    def put(slot: Slot | None, value: int) -> None:
        assert slot is not None, "the stage's own pages have tables"
        entries[slot.address] = value.to_bytes(slot.width, "little")

    for linear, (physical, writable, user) in mapped.items():
        value = physical | PRESENT | ACCESSED | DIRTY | RW * writable | USER * user
        put(table_slot(paging, pages, linear), value)
    for base, table in ((ARENA_BASE, "PT"), (SWITCHER_BASE, "SWPT")):
        put(directory_slot(paging, pages, base), pages[table] | PRESENT | RW | USER | ACCESSED)
    if paging == "pae":
        put(top_slot(paging, pages, 0), pages["PD0"] | PRESENT)
        put(top_slot(paging, pages, 3 << 30), pages["PD3"] | PRESENT)
    return entries
