"""What the manuals say about page tables, written a second time and without a look at the product.

`Mmu` walks PAE tables as a CPU with CR0.WP = 1 and EFER.NXE = 1 does.  `World` is a Guest with tables of its
own, in either format, which changes them, tells its Host (or, where the architecture lets it, does not), and
touches memory; after every step it compares what the shadow permits with what its own tables permit.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kvmhost._native import ffi
from kvmhost.host.memory import VmMemory
from kvmhost.host.paging import ShadowTables

P, RW, US, PWT, PCD, A, D, PS, G = 1, 2, 4, 8, 16, 32, 64, 128, 256
NX = 1 << 63
ADDRESS = 0x000FFFFFFFFFF000

BLOCK = 0x00200000
RAM = 0x00400000
RAM_BYTES = 0x00800000
TEXT, REGISTERS = 0x00109000, BLOCK + 0x1000
# CPU n: state page and linear address of its pair
CPUS = [(0x00112000, 0xFFC01000), (0x00117000, 0xFFC03000)]
SWITCHER = 0xFFC00000
KERNEL = 0xC0000000


@dataclass(frozen=True)
class Hit:
    physical: int


@dataclass(frozen=True)
class Fault:
    error: int


@dataclass(frozen=True)
class Leaf:
    """A present last entry of the shadow: where, how big, and what all levels together permit."""

    linear: int
    size: int
    physical: int
    writable: bool
    user: bool
    executable: bool


class Mmu:
    """Intel SDM vol. 3, "PAE Paging" and "Access Rights", for one VM's memory."""

    def __init__(self, memory: VmMemory) -> None:
        self.memory = memory

    def entry(self, physical: int) -> int:
        return int.from_bytes(self.memory.read(physical, 8), "little")

    def access(self, cr3: int, address: int, write: bool, user: bool, fetch: bool) -> Hit | Fault:
        error = 2 * write + 4 * user + 16 * fetch
        top = self.entry((cr3 & ~31) + 8 * (address >> 30))
        if not top & P:
            return Fault(error)
        assert not top & ~(ADDRESS | P), "reserved bits in a PDPTE"
        middle = self.entry((top & ADDRESS) + 8 * ((address >> 21) & 511))
        if not middle & P:
            return Fault(error)
        assert middle & A, "the CPU would have to write into a shadow directory"
        if middle & PS:
            last, base, offset = middle, middle & ADDRESS & ~0x1FFFFF, address & 0x1FFFFF
            assert not middle & 0x1FE000, "reserved bits in a large page"
        else:
            last = self.entry((middle & ADDRESS) + 8 * ((address >> 12) & 511))
            base, offset = last & ADDRESS, address & 0xFFF
        if not last & P:
            return Fault(error)
        both = middle & last
        if (write and not both & RW) or (user and not both & US) or (fetch and (middle | last) & NX):
            return Fault(error | 1)
        assert last & A, "the CPU would have to write into a shadow table"
        assert last & D or not write, "the CPU would have to write into a shadow table"
        return Hit(base + offset)

    def leaves(self, cr3: int) -> Iterator[Leaf]:
        for top_index in range(4):
            top = self.entry(cr3 + 8 * top_index)
            for index, middle in self._table(top & ADDRESS) if top & P else ():
                linear = top_index << 30 | index << 21
                if middle & PS:
                    yield self._leaf(linear, 0x200000, middle, middle)
                    continue
                for last_index, last in self._table(middle & ADDRESS):
                    yield self._leaf(linear | last_index << 12, 0x1000, middle, last)

    def _table(self, physical: int) -> list[tuple[int, int]]:
        content = struct.unpack("<512Q", self.memory.read(physical, 4096))
        found = [(index, entry) for index, entry in enumerate(content) if entry]
        for _, entry in found:
            assert entry & P, f"not present and not zero: {entry:#x} (L1TF)"
        return found

    @staticmethod
    def _leaf(linear: int, size: int, middle: int, last: int) -> Leaf:
        both = middle & last
        executable = not (middle | last) & NX
        return Leaf(linear, size, last & ADDRESS, bool(both & RW), bool(both & US), executable)


def make(
    memory: VmMemory, factory: Any = ShadowTables, ram: int = RAM_BYTES, kernel: int = KERNEL, **options: Any
) -> Any:
    """Shadow tables for a fresh Guest in linear mode, on CPU 0."""
    state = ffi.cast("struct kvmhost_guest *", memory.u8 + BLOCK)
    state.mem_base, state.limit_bytes, state.kernel_address = RAM, ram, kernel
    tables = factory(memory, BLOCK, state, **options)
    tables.map_switcher(TEXT, REGISTERS, *CPUS[0])
    return tables


SPACES = 6
# Slots of 2 MiB that are apt to go wrong: both halves of a 4 MiB entry, both sides of every border.
USER_SLOTS = [0x00000000, 0x00200000, 0x00400000, 0x3FE00000, 0x40000000, 0xBFC00000, 0xBFE00000]
KERNEL_SLOTS = [0xC0000000, 0xC0200000, 0xFF800000, 0xFFA00000]
SWITCHER_SLOTS = [0xFFC00000, 0xFFE00000]
SLOTS = USER_SLOTS + KERNEL_SLOTS + SWITCHER_SLOTS
PAGES = [0, 1, 3, 511]
STACK_TOP = 0xC0402000
DATA_FRAMES = range(0x400000, 0x410000, 0x1000)


class World:
    """A Guest that lives by the rules of the architecture, and its Host's shadow tables under test."""

    def __init__(self, memory: VmMemory, pae: bool, factory: Any = ShadowTables, **options: Any) -> None:
        self.memory, self.pae, self.mmu = memory, pae, Mmu(memory)
        self.tables = make(memory, factory, **options)
        self.cpu = 0
        self.pool_pages = options.get("pool_pages", 508)
        # What an absent entry's frame number 0 leads to must not be believed.
        self.memory.write(RAM, struct.pack("<512Q", *(DATA_FRAMES[0] | P | RW | US for _ in range(512))))
        self.width = 8 if pae else 4
        self.next_frame = 0x100000
        # A 4 MiB entry and a 2 MiB entry are both "the directory entry" of an address.
        self.shift = 21 if pae else 22
        self.tops = [self.frame() for _ in range(SPACES)]
        # PAE: the middle tables, the kernel's GiB shared by all, as Linux does.
        self.kernel_middle = self.frame()
        self.middles = [[self.frame() for _ in range(3)] + [self.kernel_middle] for _ in range(SPACES)]
        self.choices: dict[tuple[int, int], list[int]] = {}
        for space in range(SPACES):
            if pae:
                for gib in range(4):
                    self.put(self.tops[space] + 8 * gib, self.middles[space][gib] | P)
            else:
                # Without this an empty first entry would leave nothing to tell the format by.
                self.put(self.tops[space] + 4 * 16, self.frame() | 0x67)
        for address in (STACK_TOP - 1, STACK_TOP - 0x1001):
            for space in range(SPACES):
                if not self.get(self.directory_entry(space, address)):
                    self.put(self.directory_entry(space, address), self.choice(0, address, 0) | 0x67)
            place = self.last_entry(0, address)
            assert place is not None
            self.put(place, 0x500000 | address & 0xF000 | P | RW)
        self.space = 0
        self.tables.new_pgtable(self.tops[0])
        assert bool(self.tables.state.pae) == pae
        state = self.tables.state
        state.esp1, state.ss1, state.stack_pages = STACK_TOP, 0x69, 2
        self.tables.pin_stack()

    # ---- the Guest's own tables

    def frame(self) -> int:
        self.next_frame += 0x1000
        return self.next_frame - 0x1000

    def get(self, physical: int) -> int:
        return int.from_bytes(self.memory.read(RAM + physical, self.width), "little")

    def put(self, physical: int, entry: int) -> None:
        self.memory.write(RAM + physical, entry.to_bytes(self.width, "little"))

    def choice(self, space: int, address: int, which: int) -> int:
        """One of two tables that a directory entry may lead to; the kernel's are everybody's."""
        key = (-1 if address >= KERNEL else space, address >> self.shift)
        pair = self.choices.setdefault(key, [])
        while len(pair) < 2:
            pair.append(self.frame())
        return pair[which]

    def directory_entry(self, space: int, address: int) -> int:
        if self.pae:
            return self.middles[space][address >> 30] + 8 * ((address >> 21) & 511)
        return self.tops[space] + 4 * (address >> 22)

    def last_entry(self, space: int, address: int) -> int | None:
        above = self.get(self.directory_entry(space, address))
        linked = not self.pae or self.get(self.tops[space] + 8 * (address >> 30)) & P
        if not above & P or not linked:
            return None
        return (above & 0xFFFFF000) + self.width * ((address >> 12) & (511 if self.pae else 1023))

    def rights(self, space: int, address: int) -> tuple[int, int] | None:
        """What the Guest's own tables say: Guest-physical frame, and the flags of all levels together."""
        place = self.last_entry(space, address)
        last = 0 if place is None else self.get(place)
        if not last & P:
            return None
        above = self.get(self.directory_entry(space, address))
        return last & ADDRESS, above & last & (RW | US) | last & (A | D | NX)

    def allows(self, address: int, write: bool, user: bool, fetch: bool) -> int | None:
        found = self.rights(self.space, address)
        if found is None or address >= SWITCHER:
            return None
        frame, flags = found
        if (write and not flags & RW) or (user and not flags & US) or (fetch and flags & NX):
            return None
        return frame | address & 0xFFF

    # ---- what the Guest does

    def page_entry(self, space: int, address: int, entry: int, told: bool) -> None:
        """Set a last entry. Untold it may only gain: nothing cached can be wrong then."""
        place = self.last_entry(space, address)
        if place is None:
            return
        old = self.get(place)
        entry &= (1 << 8 * self.width) - 1
        if not entry & P:
            entry &= ~PS
        if not told:
            if old & P:
                entry = (old if entry & NX else old & ~NX) | entry & (RW | US)
            self.put(place, entry)
            return
        self.put(place, entry)
        if address < SWITCHER:
            self.tables.set_pte(self.tops[space], address, entry & 0xFFFFFFFF, entry >> 32)

    def directory(self, space: int, address: int, which: int, flags: int, told: bool) -> None:
        """Set a directory entry: one of two tables (which 0, 1) or none (2)."""
        spaces = range(SPACES) if address >= KERNEL else [space]
        entry = self.choice(space, address, which & 1) | A | flags | (0 if which == 2 else P)
        if not told:
            old = self.get(self.directory_entry(space, address))
            if old & P:
                entry = old | flags
        for each in spaces:
            self.put(self.directory_entry(each, address), entry)
        if not told:
            return
        if self.pae:
            self.tables.set_pmd(self.middles[space][address >> 30], address >> 21 & 511)
        elif address < SWITCHER:
            for each in spaces:
                self.tables.set_pgd(self.tops[each], address >> 22)
            if address >= KERNEL:
                self.tables.flush_all()

    def top(self, space: int, gib: int, present: bool) -> None:
        """PAE: link or unlink a whole GiB of user space."""
        if self.pae:
            self.put(self.tops[space] + 8 * gib, self.middles[space][gib] | (P if present else 0))
            self.tables.set_pgd(self.tops[space], gib)

    def switch(self, space: int) -> None:
        self.space = space
        self.tables.new_pgtable(self.tops[space])
        assert self.tables.state.pgdir[self.tables.state.current_root] == self.tops[space]

    def touch(self, address: int, write: bool, user: bool, fetch: bool) -> None:
        """One access, with the fault it may cause, as a CPU would do it."""
        allowed = self.allows(address, write, user, fetch)
        seen = self.mmu.access(self.tables.root, address, write, user, fetch)
        if isinstance(seen, Fault):
            fixed = self.tables.demand_page(address, seen.error)
            assert fixed == (allowed is not None), f"{address:#x} error {seen.error:#x}: fixed is {fixed}"
            seen = self.mmu.access(self.tables.root, address, write, user, fetch)
        elif address >= SWITCHER:
            pages = (SWITCHER, CPUS[self.cpu][1], CPUS[self.cpu][1] + 0x1000)
            assert address & ~0xFFF in pages, "something in the Switcher's range that is not the Switcher's"
            assert not user, "ring 3 in the Switcher"
            return
        if allowed is None:
            assert isinstance(seen, Fault), f"{address:#x} is open and the Guest's own tables forbid it"
            return
        assert seen == Hit(RAM + allowed), f"{address:#x}: {seen}, not {RAM + allowed:#x}"
        place = self.last_entry(self.space, address)
        assert place is not None
        assert self.get(place) & A, "used and not marked accessed"
        assert self.get(place) & D or not write, "written and not marked dirty"

    def move(self, cpu: int) -> None:
        self.cpu = cpu
        self.tables.map_switcher(TEXT, REGISTERS, *CPUS[cpu])

    def flush_user(self) -> None:
        self.tables.flush_user()

    def flush_all(self) -> None:
        self.tables.flush_all()

    # ---- what must hold after every step

    def check(self) -> None:
        assert self.tables.audit() == []
        assert len(self.tables.trees.pool.in_use()) <= self.pool_pages
        state = self.tables.state
        for index in range(4):
            if state.pgdir[index] in self.tops:
                space = self.tops.index(state.pgdir[index])
                for leaf in self.mmu.leaves(BLOCK + 0x3000 + 32 * index):
                    self.check_leaf(space, leaf)
        for page in (STACK_TOP - 0x1000, STACK_TOP - 0x2000):
            seen = self.mmu.access(self.tables.root, page, True, False, False)
            assert isinstance(seen, Hit), "the kernel stack is not pinned"

    def check_leaf(self, space: int, leaf: Leaf) -> None:
        if leaf.linear >= SWITCHER:
            state_page, pair = CPUS[self.cpu]
            expected = {
                SWITCHER: Leaf(SWITCHER, 0x1000, TEXT, False, False, True),
                pair: Leaf(pair, 0x1000, REGISTERS, True, False, False),
                pair + 0x1000: Leaf(pair + 0x1000, 0x1000, state_page, False, False, False),
            }
            assert expected.get(leaf.linear) == leaf
            return
        assert leaf.size == 0x1000, "a large page outside linear mode"
        found = self.rights(space, leaf.linear)
        assert found is not None, f"{leaf.linear:#x} is open and the Guest's own tables forbid it"
        frame, flags = found
        assert leaf.physical == RAM + frame
        assert flags & RW or not leaf.writable, f"{leaf.linear:#x} is writable and must not be"
        assert flags & D or not leaf.writable, f"{leaf.linear:#x} is writable and not dirty"
        assert flags & US or not leaf.user, f"{leaf.linear:#x} is open to ring 3 and must not be"
        assert not flags & NX or not leaf.executable, f"{leaf.linear:#x} is executable and must not be"
        assert flags & A, f"{leaf.linear:#x} is open and not marked accessed"
