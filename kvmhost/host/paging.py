"""Shadow page tables: what the CPU walks while a Guest runs.

A Guest writes page tables of its own, but the CPU never sees them: it walks these.  They start empty.  Every
first touch faults, demand_page() looks the address up in the Guest's tables, and if the Guest itself allows
the access one entry more is filled in; otherwise the fault is the Guest's own business and is reflected.  The
Guest tells by hypercall what it changes, and entries are dropped or replaced here.  (abi 7.)

The Switcher changes CR3 and nothing else, so Host and shadow tables must have one format: shadows are always
PAE, and a 4 MiB entry of a two-level Guest spans two of our directory entries.  Four roots are kept, each the
shadow of one of the Guest's address spaces.  All of a Guest's shadows lie in its own block of VM memory,
beside its state, and nothing about them is remembered anywhere else.

Three frames in them are not the Guest's: the Switcher's text, and this CPU's pair.  They hang in one table
that all roots share.  Ring 1 counts as supervisor, so what protects the Host is that nothing else of it is
mapped, and that the only writable one of the three cannot be executed (conformance 1.14).
"""

from collections.abc import Callable
from typing import Any, Final

from kvmhost._native import lib
from kvmhost.host.errors import GuestBroke, MachineBroken
from kvmhost.host.memory import VmMemory
from kvmhost.host.page_bits import (
    ACCESSED,
    DIRTY,
    FAULT_FETCH,
    FAULT_RESERVED,
    FAULT_USER,
    FAULT_WRITE,
    FRAME,
    LARGE_PAGE,
    NX,
    PAGE,
    PAGE_SIZE,
    PRESENT,
    RW,
    SHADOW_FLAGS,
    USER,
)
from kvmhost.host.page_pool import PoolEmpty
from kvmhost.host.paging_audit import audit
from kvmhost.host.paging_guest import GuestTables, pgdir_key
from kvmhost.host.paging_shadow import ROOTS, SWITCHER_BASE, ShadowTrees

NOBODY: Final[int] = lib.NO_PGDIR
POOL_PAGES: Final = (lib.GUEST_BLOCK_SIZE - lib.GUEST_POOL_OFFSET) // PAGE

_LINEAR: Final = PRESENT | RW | ACCESSED | DIRTY


class ShadowTables:
    """The shadow tables of one Guest.

    memory: VM memory.  block: VM-physical address of the Guest's block.  state: cdata `struct kvmhost_guest
    *` at the start of it, with mem_base (a multiple of 2 MiB) and limit_bytes set.  The Guest is put into
    linear mode with empty tables.  pool_pages: how much of the pool may be used.  executable: who has the
    last word on each entry filled after a fault: it gets the linear address, the error code, and the entry.

    After map_switcher() the current `root` can be loaded; every change is seen at the next load of CR3.

    >>> from kvmhost._native import ffi
    >>> with VmMemory() as memory:
    ...     state = ffi.cast("struct kvmhost_guest *", memory.u8 + 0x200000)
    ...     state.mem_base, state.limit_bytes = 0x400000, 0x100000
    ...     shadow = ShadowTables(memory, 0x200000, state)
    ...     # 0x1000: a directory; its entry for 0xC0000000 leads to 0x2000: a table; entry 5: frame 0x3000
    ...     memory.u32[0x401C00 // 4], memory.u32[0x402014 // 4] = 0x2067, 0x3003
    ...     linear = shadow.demand_page(0x1234, FAULT_WRITE), shadow.demand_page(0x1234, FAULT_USER)
    ...     shadow.new_pgtable(0x1000)
    ...     own = shadow.demand_page(0xC0005678, FAULT_WRITE), shadow.demand_page(0x1234, FAULT_WRITE)
    ...     hex(shadow.root), linear, own, hex(shadow.translate(0xC0005678)), shadow.audit()
    ('0x203000', (True, False), (True, False), '0x3678', [])
    """

    def __init__(self, memory: VmMemory, block: int, state: Any, pool_pages: int = POOL_PAGES) -> None:
        if block % PAGE or state.mem_base % PAGE:
            raise MachineBroken(
                f"a Guest's block at {block:#x} or memory at {state.mem_base:#x} is not aligned"
            )
        self.memory = memory
        self.block = block
        self.state = state
        self.guest = GuestTables(memory, state)
        state.linear = 1
        state.current_root = 0
        for index in range(ROOTS):
            state.pgdir[index] = NOBODY
        self.executable: Callable[[int, int, int], int] | None = None
        self.trees = ShadowTrees(memory, block, state, pool_pages)
        self._u64 = memory.u64

    @property
    def root(self) -> int:
        """CR3 value of the current root: VM-physical, 32-byte aligned."""
        return self.trees.root

    def map_switcher(self, text: int, registers: int, state_page: int, pair: int) -> None:
        """Show this Guest the Switcher and the pair of the CPU it will run on, and nothing else above it.

        text, registers, state_page: VM-physical pages.  pair: linear address of the pair.  Cheap when nothing
        changed since the last call.  Raises MachineBroken if an address cannot be right.
        """
        self.trees.map_switcher(text, registers, state_page, pair)

    # [T100]
    def demand_page(self, address: int, error_code: int) -> bool:
        """A page fault at linear `address` (CR2): fill in the missing entry if the Guest allows the access.

        True: fixed, run on.  False: reflect the fault to the Guest.  Raises GuestBroke if the Guest's tables
        break a rule, or in linear mode beyond the end of RAM; MachineBroken if the CPU found a reserved bit.
        (abi 7.2)
        """
        if error_code & FAULT_RESERVED:
            raise MachineBroken(
                f"the CPU found a reserved bit in the shadow tables at {address:#x}",
                cause="EFER.NXE is off, or the tables were overwritten",
            )
        try:
            return self._fill(address, error_code)
        except PoolEmpty:
            self.flush_all()
            return self._fill(address, error_code)

    def new_pgtable(self, pgdir: int) -> None:
        """NEW_PGTABLE: the Guest loads its CR3 with Guest-physical `pgdir`; the first call ends linear mode.

        Raises GuestBroke if the table does not lie in RAM, or the pinned stack is not mapped by it.
        """
        state = self.state
        if state.linear:
            state.pae = state.pae or self.guest.looks_pae(pgdir_key(pgdir, 1))
            self.guest.check_top(pgdir_key(pgdir, state.pae))
            state.linear = 0
            self.trees.drop_everything()
        key = pgdir_key(pgdir, state.pae)
        self.guest.check_top(key)
        index = self._find_root(key)
        state.current_root = self._take_root(key) if index is None else index
        try:
            empty = self.trees.hang_switcher()
            if empty or index is None:
                self._pin()
        except PoolEmpty:
            self.flush_all()

    def set_pte(self, pgdir: int, address: int, low: int, high: int = 0) -> None:
        """SET_PTE: the Guest has set the last entry for linear `address` in `pgdir` to `high`:`low`.

        At and above kernel_address all roots are meant. An entry used before is filled in at once, writable
        only if it is dirty; others wait for their fault. Raises GuestBroke for the Switcher's range and for a
        bad entry.
        """
        state = self.state
        if address >= SWITCHER_BASE:
            raise GuestBroke(
                f"SET_PTE for {address:#x}, which is the Switcher's",
                "stay below 4 GiB minus lguest_data.reserve_mem",
            )
        if state.linear:
            return
        value = low | high << 32 if state.pae else low
        if address >= state.kernel_address:
            roots = range(ROOTS)
        else:
            index = self._find_root(pgdir_key(pgdir, state.pae))
            roots = range(0) if index is None else range(index, index + 1)
        entry: int | None = None
        for index in roots:
            place = self.trees.last_entry(index, address)
            if place is not None:
                entry = self._early_entry(value) if entry is None else entry
                self._u64[place] = entry

    def set_pgd(self, pgdir: int, index: int) -> None:
        """SET_PGD: top entry `index` of `pgdir` changed; what hangs below it in that one root is dropped.

        The Switcher stays where it is: what a Guest writes into its own slot there has no effect.
        Raises GuestBroke if the table has no such entry. (Called SET_PMD by kernels before 2.6.31.)
        """
        state = self.state
        count = 4 if state.pae else 1024
        if index >= count:
            raise GuestBroke(
                f"SET_PGD for entry {index} of a table of {count}", "the index counts entries from 0"
            )
        root = self._find_root(pgdir_key(pgdir, state.pae))
        if root is not None:
            span = 512 if state.pae else 2
            self.trees.free_slots(root, index * span, (index + 1) * span)

    def set_pmd(self, pmd: int, index: int) -> None:
        """SET_PMD (PAE): entry `index` of the middle table at Guest-physical `pmd` changed.

        Dropped is what hangs below it, in each root that leads there; in all of them if it is the kernel's.
        (abi 7.3 drops everything: a Guest that forks and executes would fault it all in again and again.)

        Raises GuestBroke for an index beyond 511, or from a Guest with two-level tables, or if the stack is
        pinned and not mapped any more.
        """
        state = self.state
        if index >= 512 or not (state.pae or state.linear):
            raise GuestBroke(
                f"SET_PMD for entry {index} of the table at {pmd:#x}",
                "only PAE Guests call it, with an index to 511",
            )
        if state.linear:
            self.flush_all()
            return
        found = self._leading_to(pmd)
        for root, gib in found:
            slot = gib * 512 + index
            shared = slot >= self._kernel_slot()
            for each in range(ROOTS) if shared else (root,):
                self.trees.free_slots(each, slot, slot + 1)
        if found:
            self.pin_stack()

    def flush_user(self) -> None:
        """FLUSH_TLB(0): drop what the current root shows below kernel_address."""
        self.trees.free_slots(self.state.current_root, 0, self._kernel_slot())

    def flush_all(self) -> None:
        """FLUSH_TLB(1), INIT: drop everything in all roots; the mode and the current root stay.

        Raises GuestBroke if the stack is pinned and not mapped any more.
        """
        self.trees.drop_everything()
        self._pin()

    def pin_stack(self) -> None:
        """SET_STACK: make the pages below state.esp1 present and writable, for direct traps to ring 1.

        Raises GuestBroke for more than 2 pages, a stack that is not ring 1's, or one that is not mapped. (abi
        5.5)
        """
        try:
            self._pin()
        except PoolEmpty:
            self.flush_all()

    def translate(self, address: int, write: bool = False) -> int | None:
        """Guest-physical address of linear `address` for the Guest's kernel by its own tables, or None.

        The identity in linear mode. Only this one byte is promised to lie in RAM, and with `write` to be
        writable.
        """
        if self.state.linear:
            return address if address < min(self.state.limit_bytes, SWITCHER_BASE) else None
        return self.guest.translate(address, write) if address < SWITCHER_BASE else None

    def register_address(self, address: int, write: bool) -> int | None:
        """Guest-physical address of the device register that the Guest's kernel means by linear `address`.

        None if there is memory, nothing, or no right to `write`. Such an entry is never shown to the CPU, so
        every access faults. Raises GuestBroke for a bad upper entry. (abi 7.2 step 8)
        """
        if not self.state.mmio_end or address >= SWITCHER_BASE:
            return None
        if self.state.linear:
            return address if self.guest.is_register(address) else None
        found = self.guest.find(address)
        if found is None:
            return None
        above, _, entry = found
        if not entry & PRESENT or (write and not above & entry & RW) or not self.guest.is_register(entry):
            return None
        return entry & FRAME | address & (PAGE - 1)

    def audit(self) -> list[str]:
        """What breaks the rules that protect the Host, a sentence each (SEC-007, SEC-024)."""
        return audit(self)

    def _fill(self, address: int, error_code: int) -> bool:
        if address >= SWITCHER_BASE:
            return False
        if self.state.linear:
            return self._fill_linear(address, error_code)
        found = self.guest.find(address)
        if found is None:
            return False
        above, place, entry = found
        allowed = above & entry
        if not entry & PRESENT:
            return False
        if error_code & FAULT_WRITE and not allowed & RW:
            return False
        if error_code & FAULT_USER and not allowed & USER:
            return False
        if error_code & FAULT_FETCH and entry & NX:
            return False
        if self.state.mmio_end and self.guest.is_register(entry):
            return False
        self.guest.check_last(entry)
        used = entry | ACCESSED | (DIRTY if error_code & FAULT_WRITE else 0)
        shadow = self._shadow_entry(used)
        if self.executable is not None:
            shadow = self.executable(address, error_code, shadow)
        self._u64[self.trees.table(address, above) // 8 + (address >> 12 & 0x1FF)] = shadow
        if used != entry:
            self.guest.write_entry(place, used, self.state.pae)
        return True

    def _fill_linear(self, address: int, error_code: int) -> bool:
        """Guest RAM 1:1 for ring 1, in 2 MiB where that much of it is there."""
        if error_code & FAULT_USER:
            return False
        state = self.state
        pages = state.limit_bytes // PAGE * PAGE
        if self.guest.is_register(address):
            return False
        if address >= pages:
            raise GuestBroke(
                f"address {address:#x} lies beyond its {state.limit_bytes:#x} bytes of memory",
                "before the first NEW_PGTABLE linear addresses are physical ones",
            )
        start = address & -LARGE_PAGE
        if start + LARGE_PAGE <= min(pages, SWITCHER_BASE) and state.mem_base % LARGE_PAGE == 0:
            self._u64[self.trees.directory_entry(address)] = state.mem_base + start | _LINEAR | PAGE_SIZE
        else:
            table = self.trees.table(address, RW)
            self._u64[table // 8 + (address >> 12 & 0x1FF)] = state.mem_base + (address & FRAME) | _LINEAR
        return True

    def _shadow_entry(self, entry: int) -> int:
        """The shadow of a checked last entry: its rights, but writable only once it is dirty."""
        shadow: int = self.state.mem_base + (entry & FRAME) | entry & SHADOW_FLAGS
        if self.state.pae:
            shadow |= entry & NX
        return shadow if entry & DIRTY else shadow & ~RW

    def _early_entry(self, value: int) -> int:
        """What SET_PTE puts into the shadow: the entry if it has been used before, else nothing."""
        if not value & PRESENT or not value & (ACCESSED | DIRTY):
            return 0
        if self.guest.is_register(value):
            return 0
        self.guest.check_last(value)
        kernels = NX if self.executable is not None and not value & USER else 0
        return self._shadow_entry(value) | kernels if value & ACCESSED else 0

    def _find_root(self, key: int) -> int | None:
        pgdir = self.state.pgdir
        for index in range(ROOTS):
            if pgdir[index] == key:
                return index
        return None

    def _leading_to(self, pmd: int) -> list[tuple[int, int]]:
        """PAE: (root, top entry) wherever the Guest's tables behind a root lead to the middle table `pmd`."""
        wanted = pmd & FRAME | PRESENT
        return [
            (root, gib)
            for root in range(ROOTS)
            if self.state.pgdir[root] != NOBODY
            for gib in range(4)
            if self.guest.read_entry(self.state.pgdir[root] + 8 * gib, 1) == wanted
        ]

    def _take_root(self, key: int) -> int:
        """A root for an address space not seen lately: one never used, else the one after the current.

        What another address space showed of the kernel stays: the kernel is the same in all (abi 7.3).
        """
        unused = self._find_root(NOBODY)
        index = (int(self.state.current_root) + 1) % ROOTS if unused is None else unused
        self.trees.free_slots(index, 0, self._kernel_slot())
        self.state.pgdir[index] = key
        return index

    def _kernel_slot(self) -> int:
        """The first slot of 2 MiB that belongs to the kernel, rounded up to a top entry of 4 MiB."""
        span = 2 * LARGE_PAGE
        return (int(self.state.kernel_address) + span - 1) // span * 2

    def _pin(self) -> None:
        state = self.state
        if not state.stack_pages:
            return
        if state.stack_pages > 2 or state.ss1 & 3 != 1:
            raise GuestBroke(
                f"a kernel stack of {state.stack_pages} pages with selector {state.ss1:#x}",
                "SET_STACK takes at most 2 pages and a ring 1 selector",
            )
        for page in range(state.stack_pages):
            address = (state.esp1 - 1 - page * PAGE) & 0xFFFFFFFF
            if not self._is_writable(address) and not self._fill(address, FAULT_WRITE):
                raise GuestBroke(
                    f"its kernel stack page at {address & FRAME:#x} is not writable",
                    "map the stack before SET_STACK, and keep it mapped in every address space",
                )

    def _is_writable(self, address: int) -> bool:
        """Whether the current root shows linear `address` writable for ring 1 already."""
        if self.state.linear or address >= SWITCHER_BASE:
            return False
        place = self.trees.last_entry(self.state.current_root, address)
        return place is not None and self._u64[place] & (PRESENT | RW) == PRESENT | RW
