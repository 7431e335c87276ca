"""From a linear address to a physical one: the walk, its rights, its accessed and dirty bits, its faults.

SDM vol. 3, "Paging": "32-Bit Paging", "PAE Paging", "Access Rights", "Page-Fault Exceptions".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .faults import GP, PF, Fault

PRESENT, WRITABLE, USER, ACCESSED, DIRTY, LARGE = 1, 2, 4, 0x20, 0x40, 0x80
NX = 1 << 63
#: Bits of a page fault's error code.
E_PRESENT, E_WRITE, E_USER, E_RESERVED, E_FETCH = 1, 2, 4, 8, 16
#: How wide a physical address of the model is (MAXPHYADDR); the entries' bits above it are reserved.
ADDRESS_BITS = 40


class Memory(Protocol):
    """Physical memory."""

    def physical_read(self, address: int, size: int) -> int: ...
    def physical_write(self, address: int, size: int, value: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Mode:
    """What of the control registers a walk depends on."""

    cr3: int
    pae: bool
    pse: bool
    write_protect: bool
    no_execute: bool
    smep: bool
    smap: bool


@dataclass(frozen=True, slots=True)
class Access:
    """One access; `user` at CPL 3, unless the CPU itself looks at a table; ac is EFLAGS.AC."""

    write: bool = False
    user: bool = False
    fetch: bool = False
    ac: bool = False


def translate(memory: Memory, mode: Mode, linear: int, access: Access) -> int:
    """The physical address; Fault PF with its error code and CR2."""
    entries = pae_entries(memory, mode, linear) if mode.pae else legacy_entries(memory, mode, linear)
    present, error = all(entry & PRESENT for _, _, entry in entries), fault_code(mode, access)
    if not present:
        raise Fault(PF, error, linear)
    if any(reserved(mode, level, entry) for level, (_, _, entry) in rights(mode, entries)):
        raise Fault(PF, error | E_PRESENT | E_RESERVED, linear)
    with_rights = [entry for _, (_, _, entry) in rights(mode, entries)]
    if refused(mode, access, with_rights):
        raise Fault(PF, error | E_PRESENT, linear)
    last = entries[-1][2]
    for number, (at, width, entry) in enumerate(entries):
        if mode.pae and number == 0:
            continue  # a PDPTE has no such bits
        wanted = entry | ACCESSED | (DIRTY if access.write and number == len(entries) - 1 else 0)
        if wanted != entry:
            memory.physical_write(at, width, wanted)
    return frame(mode, len(entries), last) | linear & (reach(mode, len(entries)) - 1)


def legacy_entries(memory: Memory, mode: Mode, linear: int) -> list[tuple[int, int, int]]:
    """Address, width and value of each entry, down to the page or to the first that is not present."""
    at = (mode.cr3 & 0xFFFFF000) + (linear >> 22) * 4
    directory = memory.physical_read(at, 4)
    if not directory & PRESENT or (directory & LARGE and mode.pse):
        return [(at, 4, directory)]
    below = (directory & 0xFFFFF000) + (linear >> 12 & 0x3FF) * 4
    return [(at, 4, directory), (below, 4, memory.physical_read(below, 4))]


def pae_entries(memory: Memory, mode: Mode, linear: int) -> list[tuple[int, int, int]]:
    """The same for the three levels of PAE."""
    at = (mode.cr3 & 0xFFFFFFE0) + (linear >> 30) * 8
    found = [(at, 8, memory.physical_read(at, 8))]
    for shift in (21, 12):
        _, _, above = found[-1]
        if not above & PRESENT or (len(found) == 2 and above & LARGE):
            break
        at = (above & 0xFFFFFFFFFF000) + (linear >> shift & 0x1FF) * 8
        found.append((at, 8, memory.physical_read(at, 8)))
    return found


def rights(mode: Mode, entries: list[tuple[int, int, int]]) -> list[tuple[int, tuple[int, int, int]]]:
    """The entries that have rights, with their levels from the top; a PDPTE has none."""
    numbered = list(enumerate(entries))
    return numbered[1:] if mode.pae else numbered


def reserved(mode: Mode, level: int, entry: int) -> bool:
    """Whether an entry has a bit set that must be 0."""
    if not mode.pae:
        return bool(entry & LARGE and level == 0 and mode.pse and entry & 0x3FE000 & ~0x1FE000)
    if entry >> ADDRESS_BITS & (1 << 63 - ADDRESS_BITS) - 1 or (entry & NX and not mode.no_execute):
        return True
    return bool(level == 1 and entry & LARGE and entry & 0x1FE000)


def refused(mode: Mode, access: Access, entries: list[int]) -> bool:
    """Whether the rights of a translation forbid an access."""
    user_page = all(entry & USER for entry in entries)
    writable = all(entry & WRITABLE for entry in entries)
    executable = not (mode.no_execute and any(entry & NX for entry in entries))
    if access.fetch:
        forbidden = not user_page if access.user else user_page and mode.smep
        return forbidden or not executable
    if access.user:
        return not user_page or (access.write and not writable)
    if user_page and mode.smap and not access.ac:
        return True
    return access.write and not writable and mode.write_protect


def fault_code(mode: Mode, access: Access) -> int:
    """The bits of the error code that tell of the access itself."""
    code = (E_WRITE if access.write else 0) | (E_USER if access.user else 0)
    return code | (E_FETCH if access.fetch and (mode.no_execute or mode.smep) else 0)


def reach(mode: Mode, levels: int) -> int:
    """How many bytes the last of so many levels maps."""
    if mode.pae:
        return 4096 if levels == 3 else 1 << 21
    return 4096 if levels == 2 else 1 << 22


def frame(mode: Mode, levels: int, entry: int) -> int:
    """The physical address of a page."""
    size = reach(mode, levels)
    if not mode.pae and size > 4096:
        return entry & 0xFFC00000 | (entry >> 13 & 0xFF) << 32  # PSE-36
    return entry & (1 << ADDRESS_BITS) - 1 & -size


def check_pdptes(memory: Memory, cr3: int) -> None:
    """What MOV CR3 demands of the four entries under PAE: no reserved bit in one that is present."""
    for number in range(4):
        entry = memory.physical_read((cr3 & 0xFFFFFFE0) + 8 * number, 8)
        if entry & PRESENT and (entry & 0x1E6 or entry >> ADDRESS_BITS):
            raise Fault(GP, 0)
