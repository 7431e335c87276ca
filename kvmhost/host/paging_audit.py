"""A proof, taken from the tables as the CPU would walk them, that a Guest cannot reach what is not its own.

It asks nothing of the code that filled the tables: all four roots are walked from the top, and every entry is
either of a kind that is allowed at its place or a sentence in the result.  What is proved (conformance 1.14):
every frame lies in the Guest's RAM, but for the Switcher's text, the register page and one state page, at
their own addresses and in no other (SEC-007, SEC-014, SEC-024); nothing of the Switcher's is both writable
and executable (SEC-013, SEC-021) or open to ring 3 (SEC-017); an entry that is not present is zero; no page
of the pool serves two masters.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kvmhost._native import ffi, lib
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

if TYPE_CHECKING:
    from kvmhost.host.paging import ShadowTables

_UPPER = PRESENT | RW | USER | ACCESSED
_LAST = _UPPER | DIRTY | NX
_LARGE = PRESENT | RW | ACCESSED | DIRTY | PAGE_SIZE


def audit(tables: "ShadowTables") -> list[str]:
    """One sentence for each entry that breaks a rule; an empty list is the proof."""
    return list(_Walk(tables).findings())


class _Walk:
    def __init__(self, tables: "ShadowTables") -> None:
        self.tables = tables
        self.u64 = tables.memory.u64
        state = tables.state
        self.linear = bool(state.linear)
        self.ram = range(state.mem_base, state.mem_base + state.limit_bytes)
        self.spare = tables.trees.pool.in_use()
        self.switcher_table: int = tables.block + lib.GUEST_SWITCHER_PT_OFFSET
        self.roots: int = tables.block + lib.GUEST_PDPT_OFFSET

    def findings(self) -> Iterator[str]:
        block = range(self.tables.block, self.tables.block + lib.GUEST_BLOCK_SIZE)
        host = range(lib.HOST_AREA_BASE + lib.HOST_AREA_SIZE)
        for name, owned in (("the Host area", host), ("its own block", block)):
            if self.ram.start < owned.stop and owned.start < self.ram.stop:
                yield f"the Guest's RAM at {self.ram.start:#x} overlaps {name}"
        for root in range(lib.GUEST_ROOTS):
            yield from self._root(root)
        yield from self._switcher()
        for page in sorted(self.spare):
            yield f"pool page {page:#x} is in use and hangs nowhere"

    def _entries(self, table: int, count: int) -> list[tuple[int, int]]:
        """Index and value of all that is not zero in the table."""
        content: Any = ffi.unpack(self.u64 + table // 8, count)
        return [(index, entry) for index, entry in enumerate(content) if entry]

    def _claim(self, where: str, page: int) -> Iterator[str]:
        if page in self.spare:
            self.spare.remove(page)
        else:
            yield f"{where} leads to {page:#x}, which is no page of the pool or hangs elsewhere too"

    def _root(self, root: int) -> Iterator[str]:
        current = root == self.tables.state.current_root
        tops = dict(self._entries(self.roots + 32 * root, 4))
        if current and 3 not in tops:
            yield f"root {root} is current and has no Switcher"
        for top, entry in tops.items():
            where = f"root {root} entry {top}"
            # QEMU's TCG sets an accessed bit where the architecture has a reserved one.
            if entry & ~FRAME & ~ACCESSED != PRESENT:
                yield f"{where} is {entry:#x}: only P may be set"
            else:
                lost = list(self._claim(where, entry & FRAME))
                yield from lost or self._directory(where, top, entry & FRAME)

    def _directory(self, where: str, top: int, directory: int) -> Iterator[str]:
        expected = self.switcher_table | PRESENT | RW | ACCESSED
        entries = dict(self._entries(directory, 512))
        if top == 3 and entries.pop(510, 0) != expected:
            yield f"{where} does not lead to the Switcher's table, or not with P, RW and A alone"
        for index, entry in entries.items():
            linear = (top * 512 + index) * LARGE_PAGE
            here = f"{where} slot {linear:#x}"
            if linear >= lib.SWITCHER_BASE:
                yield f"{here} is {entry:#x} in the Switcher's range"
            elif entry & PAGE_SIZE:
                yield from self._leaf(here, entry, LARGE_PAGE)
            elif entry & ~FRAME & ~_UPPER or not entry & PRESENT:
                yield f"{here} is {entry:#x}: bits that may not be set, or not present and not zero"
            else:
                lost = list(self._claim(here, entry & FRAME))
                yield from lost or self._table(f"root {where[5]}", linear, entry & FRAME)

    def _table(self, where: str, linear: int, table: int) -> Iterator[str]:
        for index, entry in self._entries(table, 512):
            yield from self._leaf(f"{where} page {linear + index * PAGE:#x}", entry, PAGE)

    def _leaf(self, where: str, entry: int, size: int) -> Iterator[str]:
        allowed = _LARGE if size == LARGE_PAGE else _LAST
        frame = entry & FRAME
        if not entry & PRESENT:
            yield f"{where} is {entry:#x}: not present and not zero"
        elif entry & ~FRAME & ~allowed:
            yield f"{where} is {entry:#x}: bits that may not be set"
        if frame % size or frame not in self.ram or frame + size - 1 not in self.ram:
            yield f"{where} is {entry:#x}: the frame is not the Guest's"
        if entry & RW and not entry & DIRTY:
            yield f"{where} is {entry:#x}: writable before the Guest's own entry is dirty"
        if self.linear and entry & USER:
            yield f"{where} is {entry:#x}: open to ring 3 in linear mode"
        if not self.linear and size == LARGE_PAGE:
            yield f"{where} is {entry:#x}: a large page outside linear mode"

    def _switcher(self) -> Iterator[str]:
        expected: dict[int, int] = {}
        if self.tables.trees.switcher_frames is not None:
            text, registers, state_page, pair = self.tables.trees.switcher_frames
            index = (pair - lib.SWITCHER_BASE) // PAGE
            expected[0] = text | PRESENT | ACCESSED
            expected[index] = registers | PRESENT | RW | ACCESSED | DIRTY | NX
            expected[index + 1] = state_page | PRESENT | ACCESSED | DIRTY | NX
        found = dict(self._entries(self.switcher_table, 512))
        for index in sorted(expected.keys() | found.keys()):
            entry = found.get(index, 0)
            if entry != expected.get(index, 0):
                linear = lib.SWITCHER_BASE + index * PAGE
                yield f"page {linear:#x} of the Switcher is {entry:#x}, not {expected.get(index, 0):#x}"
