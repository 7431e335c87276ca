"""The trees of shadow entries themselves: four PAE roots, their directories and tables, in a Guest's block.

This file knows where entries lie and nothing about why they change; paging.py has the rules.  Linear
addresses are divided here into slots of 2 MiB, one directory entry each, counted from linear 0.

All roots share one table for the Switcher's addresses, and it has three entries: the text, and the pair of
the CPU that runs this Guest.  A root that is not current may be wholly empty; the current one always leads
there. Accessed and dirty bits are set in advance, so the CPU never has a reason to write into a shadow table.
"""

from typing import Any, Final

from kvmhost._native import ffi, lib
from kvmhost.host.errors import MachineBroken
from kvmhost.host.memory import VmMemory
from kvmhost.host.page_bits import (
    ACCESSED,
    DIRTY,
    FRAME,
    LARGE_PAGE,
    NX,
    PAGE,
    PAGE_SIZE,
    PRESENT,
    RW,
    USER,
)
from kvmhost.host.page_pool import PagePool

SWITCHER_BASE: Final[int] = lib.SWITCHER_BASE
SWITCHER_SLOT: Final = SWITCHER_BASE // LARGE_PAGE
ROOTS: Final[int] = lib.GUEST_ROOTS

_EMPTY_ROOTS = bytes(32 * ROOTS)


class ShadowTrees:
    """The roots and all below them of one Guest; starts empty, with a Switcher table that maps nothing.

    memory: VM memory.  block: VM-physical address of the Guest's block.  state: cdata `struct kvmhost_guest
    *`, of which current_root and the pool's words are used.  PoolEmpty comes out wherever a page is needed.
    """

    def __init__(self, memory: VmMemory, block: int, state: Any, pool_pages: int) -> None:
        self.pool = PagePool(memory, block, state, pool_pages)
        self.switcher_frames: tuple[int, int, int, int] | None = None
        self._u8 = memory.u8
        self._u64 = memory.u64
        self._state = state
        self._roots: int = block + lib.GUEST_PDPT_OFFSET
        self._switcher_table: int = block + lib.GUEST_SWITCHER_PT_OFFSET
        ffi.memmove(self._u8 + self._switcher_table, bytes(PAGE), PAGE)
        self.drop_everything()

    @property
    def root(self) -> int:
        """CR3 value of the current root."""
        return self._roots + 32 * int(self._state.current_root)

    def map_switcher(self, text: int, registers: int, state_page: int, pair: int) -> None:
        """Fill the Switcher's table with three pages (VM-physical) around the linear address `pair`."""
        frames = (text, registers, state_page, pair)
        if frames == self.switcher_frames:
            return
        index = (pair - SWITCHER_BASE) // PAGE
        if any(address % PAGE for address in frames) or not 1 <= index <= 510:
            raise MachineBroken(f"the Switcher cannot be mapped at {[hex(address) for address in frames]}")
        first = self._switcher_table // 8
        ffi.memmove(self._u8 + self._switcher_table, bytes(PAGE), PAGE)
        self._u64[first] = text | PRESENT | ACCESSED
        self._u64[first + index] = registers | PRESENT | RW | ACCESSED | DIRTY | NX
        self._u64[first + index + 1] = state_page | PRESENT | ACCESSED | DIRTY | NX
        self.switcher_frames = frames

    def table(self, address: int, above: int) -> int:
        """The shadow table for `address`, with the rights of the Guest's entry above it, made if need be."""
        place = self.directory_entry(address)
        entry: int = self._u64[place]
        flags = PRESENT | ACCESSED | above & (RW | USER)
        if entry & ~FRAME == flags:
            return entry & FRAME
        if entry:
            # The Guest changed the rights without a word: what was filled in under the old ones must not
            # be seen under the new ones.
            self.pool.free(entry & FRAME)
            self._u64[place] = 0
        table = self.pool.allocate()
        self._u64[place] = table | flags
        return table

    def directory_entry(self, address: int) -> int:
        """Index in u64 of the current root's directory entry for `address`, the directory made if missing."""
        top = self.root // 8 + (address >> 30)
        if not self._u64[top]:
            self._u64[top] = self.pool.allocate() | PRESENT
        directory: int = self._u64[top] & FRAME
        return directory // 8 + (address >> 21 & 0x1FF)

    def last_entry(self, root: int, address: int) -> int | None:
        """Index in u64 of the last entry for `address` in `root`, None where no table hangs."""
        directory: int = self._u64[(self._roots + 32 * root) // 8 + (address >> 30)]
        if not directory:
            return None
        entry: int = self._u64[(directory & FRAME) // 8 + (address >> 21 & 0x1FF)]
        return (entry & FRAME) // 8 + (address >> 12 & 0x1FF) if entry else None

    def free_slots(self, root: int, first: int, end: int) -> None:
        """Drop what hangs in `root` at slots `first` up to `end`, of 2 MiB each, but never the Switcher."""
        end = min(end, SWITCHER_SLOT)
        for top in range(first // 512, (end + 511) // 512):
            place = (self._roots + 32 * root) // 8 + top
            directory: int = self._u64[place] & FRAME
            if not directory:
                continue
            low, high = max(first - top * 512, 0), min(end - top * 512, 512)
            entries = self._u64 + (directory // 8 + low)
            entry: Any
            for entry in ffi.unpack(entries, high - low):
                if entry and not entry & PAGE_SIZE:
                    self.pool.free(entry & FRAME)
            if high - low == 512:
                self._u64[place] = 0
                self.pool.free(directory)
            else:
                ffi.memmove(entries, bytes((high - low) * 8), (high - low) * 8)

    def drop_everything(self) -> None:
        ffi.memmove(self._u8 + self._roots, _EMPTY_ROOTS, len(_EMPTY_ROOTS))
        self.pool.reset()
        self.hang_switcher()

    def hang_switcher(self) -> bool:
        """The current root always leads to the Switcher; the others wait until they are. True: it did not."""
        place = self.directory_entry(SWITCHER_BASE)
        missing = not self._u64[place]
        self._u64[place] = self._switcher_table | PRESENT | RW | ACCESSED
        return missing
