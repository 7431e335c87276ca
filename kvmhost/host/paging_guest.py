"""Reading a Guest's own page tables.

They are data of somebody we do not trust: every address in them is checked before it is followed, and an
entry with a bit that an lguest Guest may not set ends the Guest (abi 7.1).  Two formats are read here and
nowhere else, two levels of 4-byte entries or three of 8-byte entries; what comes out is the same for both.
"""

from typing import Any

from kvmhost._native import lib
from kvmhost.host.errors import GuestBroke
from kvmhost.host.memory import VmMemory
from kvmhost.host.page_bits import (
    FLAGS,
    FRAME,
    NX,
    PAGE,
    PAGE_SIZE,
    PRESENT,
    RW,
    TABLE_BITS_FORBIDDEN,
    TABLE_FLAGS,
)

_ADVICE_FLAGS = "lguest Guests have no large pages, and set only P, RW, US, A and D above the last level"
_ADVICE_FRAME = "map only Guest-physical addresses below the end of RAM"


class GuestTables:
    """One Guest's tables. All addresses that come out are Guest-physical.

    state: cdata `struct kvmhost_guest *`; mem_base, limit_bytes, mmio_end, pae, pgdir and current_root are
    read from it.
    """

    def __init__(self, memory: VmMemory, state: Any) -> None:
        self._u32 = memory.u32
        self._u64 = memory.u64
        self._state = state

    def read_entry(self, physical: int, pae: int) -> int:
        """One entry at Guest-physical `physical`, 8 bytes if `pae` else 4. Raises GuestBroke outside RAM."""
        state = self._state
        if physical + (8 if pae else 4) > state.limit_bytes:
            raise GuestBroke(f"page tables at {physical:#x}, beyond its memory", _ADVICE_FRAME)
        at = state.mem_base + physical
        entry: int = self._u64[at // 8] if pae else self._u32[at // 4]
        return entry

    def write_entry(self, physical: int, entry: int, pae: int) -> None:
        """Put back an entry that read_entry() gave out at the same place."""
        at = self._state.mem_base + physical
        if pae:
            self._u64[at // 8] = entry
        else:
            self._u32[at // 4] = entry

    def find(self, address: int) -> tuple[int, int, int] | None:
        """Where the current root's tables describe linear `address`.

        Returns (flags of the entry above, Guest-physical address of the last entry, its value), or None if an
        upper entry is not present. The last entry itself is not checked. Raises GuestBroke for a bad upper
        entry. (A table that lies in memory does so with all of its page; the top was checked.)
        """
        state = self._state
        base, limit = state.mem_base, state.limit_bytes & FRAME
        at = base + state.pgdir[state.current_root]
        if state.pae:
            top = self._u64[(at + (address >> 30) * 8) // 8]
            if not top & PRESENT:
                return None
            if top & FLAGS != PRESENT or top >= limit:
                self._check("PGD", top, PRESENT)
            middle = self._u64[(base + (top & FRAME) + (address >> 21 & 0x1FF) * 8) // 8]
            if not middle & PRESENT:
                return None
            if middle & TABLE_BITS_FORBIDDEN or middle >= limit:
                self._check("PMD", middle, TABLE_FLAGS)
            place = (middle & FRAME) + (address >> 12 & 0x1FF) * 8
            return middle & FLAGS, place, self._u64[(base + place) // 8]
        upper = self._u32[(at + (address >> 22) * 4) // 4]
        if not upper & PRESENT:
            return None
        if upper & TABLE_BITS_FORBIDDEN or upper >= limit:
            self._check("PGD", upper, TABLE_FLAGS)
        place = (upper & FRAME) + (address >> 12 & 0x3FF) * 4
        return upper & FLAGS, place, self._u32[(base + place) // 4]

    def check_last(self, entry: int) -> None:
        """Raise GuestBroke unless a present entry of the lowest level obeys abi 7.1."""
        if entry & PAGE_SIZE:
            raise GuestBroke(f"page table entry {entry:#x} has the PAT bit", "lguest Guests leave PAT at 0")
        if entry >= self._state.limit_bytes & FRAME:
            self._check_frame("page table", entry & ~NX if self._state.pae else entry)

    def translate(self, address: int, write: bool) -> int | None:
        """Guest-physical address of linear `address` for the Guest's kernel, None where it has no right.

        Nothing is marked accessed or dirty, and nothing is killed: a bad entry counts as none.
        """
        try:
            found = self.find(address)
            if found is None or not found[2] & PRESENT:
                return None
            above, _, entry = found
            if write and not above & entry & RW:
                return None
            self.check_last(entry)
        except GuestBroke:
            return None
        return entry & FRAME | address & 0xFFF

    def is_register(self, entry: int) -> bool:
        """Whether an entry leads where devices have registers instead of memory (abi 10.3)."""
        state = self._state
        return bool(state.limit_bytes <= entry & ~NX & ~FLAGS < state.mmio_end)

    def looks_pae(self, pgdir: int) -> bool:
        """Is the table at Guest-physical `pgdir` a PAE top level? (abi 7.6)

        A PAE top entry carries P and nothing else and lies below 4 GiB; a two-level entry that leads anywhere
        has RW or A as well. Linux fills entry 0 of both; our own Guests may not, so all four are looked at.
        """
        entries = [self.read_entry(pgdir + index * 8, 1) for index in range(4)]
        present = [entry for entry in entries if entry]
        return bool(present) and all(entry & ~FRAME == PRESENT for entry in present)

    def check_top(self, pgdir: int) -> None:
        """Raise GuestBroke unless a whole top level fits in RAM at `pgdir`."""
        size = 32 if self._state.pae else PAGE
        if pgdir + size > self._state.limit_bytes:
            raise GuestBroke(f"page directory at {pgdir:#x}, beyond its memory", _ADVICE_FRAME)

    def _check(self, level: str, entry: int, allowed: int) -> None:
        if entry & FLAGS & ~allowed:
            raise GuestBroke(f"{level} entry {entry:#x} has bits that a Guest may not set", _ADVICE_FLAGS)
        self._check_frame(level, entry)

    def _check_frame(self, level: str, entry: int) -> None:
        if entry >> 12 >= self._state.limit_bytes >> 12:
            raise GuestBroke(
                f"{level} entry {entry:#x} leads beyond its {self._state.limit_bytes:#x} bytes of memory",
                _ADVICE_FRAME,
            )


def pgdir_key(pgdir: int, pae: int) -> int:
    """The part of a Guest's CR3 value that names its top level: 32-byte objects with PAE, pages without.

    >>> hex(pgdir_key(0x1234FE7, 1)), hex(pgdir_key(0x1234FE7, 0))
    ('0x1234fe0', '0x1234000')
    """
    return pgdir & (~31 if pae else ~(lib.PAGE_BYTES - 1)) & 0xFFFFFFFF
