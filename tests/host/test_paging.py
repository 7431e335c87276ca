"""Shadow tables case by case: linear mode, formats, rights, accessed and dirty (abi 7.2, 7.6)."""

import doctest
import importlib

import pytest
from host.paging_cases import (
    FETCH,
    OTHER,
    READ,
    TABLE,
    TOP,
    USER,
    WRITE,
    access,
    get32,
    put32,
    put64,
    two_level,
)
from host.paging_model import KERNEL, NX, RAM, RAM_BYTES, RW, SWITCHER, US, A, D, Fault, G, Hit, Mmu, P, make

from kvmhost.host.errors import GuestBroke
from kvmhost.host.memory import VmMemory


@pytest.mark.parametrize("name", ["errors", "memory", "paging", "paging_guest"])
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"kvmhost.host.{name}"))
    assert result.attempted > 0
    assert result.failed == 0


def test_linear_mode_maps_ram_one_to_one_in_large_pages(memory: VmMemory) -> None:
    tables = make(memory)
    assert tables.demand_page(0x345678, READ)
    assert access(tables, 0x345678, write=True) == Hit(RAM + 0x345678)
    assert access(tables, 0x200000, write=True) == Hit(RAM + 0x200000), "the whole 2 MiB came at once"
    assert access(tables, 0x1FFFFF) == Fault(0)
    assert access(tables, 0x345678, user=True) == Fault(5)
    assert tables.audit() == []


def test_linear_mode_ends_exactly_with_ram(memory: VmMemory) -> None:
    ram = 0x403000
    tables = make(memory, ram=ram)
    for page in (0x400000, 0x401000, 0x402000):
        assert access(tables, page) == Fault(0)
        assert tables.demand_page(page + 0xFFF, WRITE)
        assert access(tables, page + 0xFFF, write=True) == Hit(RAM + page + 0xFFF)
    assert access(tables, 0x403000) == Fault(0)
    with pytest.raises(GuestBroke, match="0x403000 lies beyond its 0x403000 bytes"):
        tables.demand_page(0x403000, READ)
    assert tables.audit() == []


def test_linear_mode_never_shows_the_rest_of_a_page(memory: VmMemory) -> None:
    tables = make(memory, ram=0x401800)
    with pytest.raises(GuestBroke, match="beyond"):
        tables.demand_page(0x401000, READ)


@pytest.mark.parametrize(
    ("address", "error"), [(0x1000, USER), (0x1000, USER | WRITE), (SWITCHER, READ), (0xFFFFFFFF, WRITE)]
)
def test_linear_mode_reflects_ring_3_and_the_switcher(memory: VmMemory, address: int, error: int) -> None:
    tables = make(memory)
    assert tables.demand_page(address, error) is False
    assert tables.audit() == []


def test_linear_translation_is_the_identity_below_the_end(memory: VmMemory) -> None:
    tables = make(memory)
    assert tables.translate(0) == 0
    assert tables.translate(RAM_BYTES - 1, write=True) == RAM_BYTES - 1
    assert tables.translate(RAM_BYTES) is None
    assert tables.translate(SWITCHER) is None


def test_init_clears_but_stays_linear(memory: VmMemory) -> None:
    tables = make(memory)
    tables.demand_page(0x1000, WRITE)
    tables.flush_all()
    assert access(tables, 0x1000) == Fault(0)
    assert tables.state.linear == 1
    assert tables.demand_page(0x1000, WRITE)


def test_the_first_new_pgtable_ends_linear_mode_for_ever(memory: VmMemory) -> None:
    tables = make(memory)
    tables.demand_page(0x5000, WRITE)
    put32(memory, TOP, TABLE | 0x67)
    tables.new_pgtable(TOP)
    assert access(tables, 0x5000) == Fault(0)
    assert tables.demand_page(0x5000, READ) is False
    tables.flush_all()
    assert tables.demand_page(0x5000, READ) is False
    assert tables.audit() == []


def test_operations_before_there_are_tables_change_nothing(memory: VmMemory) -> None:
    tables = make(memory)
    tables.demand_page(0x1000, WRITE)
    tables.set_pte(TOP, KERNEL + 0x1000, 0x1000 | P | RW | A | D)
    tables.set_pte(TOP, 0x1000, 0)
    tables.set_pgd(TOP, 0)
    assert access(tables, 0x1000, write=True) == Hit(RAM + 0x1000)
    assert access(tables, KERNEL + 0x1000) == Fault(0)
    tables.set_pmd(TOP, 0)
    tables.flush_user()
    assert tables.demand_page(0x1000, WRITE)
    assert tables.audit() == []


@pytest.mark.parametrize("ram", [RAM_BYTES, 0x100000], ids=["large pages", "small pages"])
def test_set_pte_in_linear_mode_does_not_touch_memory(memory: VmMemory, ram: int) -> None:
    tables = make(memory, ram=ram, kernel=0)
    tables.demand_page(0x1000, WRITE)
    put64(memory, 8, 0x1122334455667788)
    tables.set_pte(TOP, 0x1000, 0)
    assert access(tables, 0x1000, write=True) == Hit(RAM + 0x1000)
    assert memory.read(RAM + 8, 8) == bytes.fromhex("8877665544332211")


@pytest.mark.parametrize(
    ("words", "pae"),
    [
        ([TABLE | 0x067, OTHER | 0x067], False),
        ([TABLE | 0x063, 0], False),
        ([TABLE | 0x063, OTHER | 0x063, 0, 0, 0, 0, 0, 0], False),
        ([TABLE | 0x001, 0, 0, 0, 0, 0, TABLE | 0x001, 0], True),
        ([0, 0, 0, 0, 0, 0, TABLE | 0x001, 0], True),
        ([TABLE | 0x001, OTHER | 0x001], False),
        ([TABLE | 0x001, 0, OTHER | 0x067, 0], False),
        ([0] * 8, False),
    ],
)
def test_the_format_is_seen_at_the_first_new_pgtable(memory: VmMemory, words: list[int], pae: bool) -> None:
    tables = make(memory)
    for index, word in enumerate(words):
        put32(memory, TOP + 4 * index, word)
    tables.new_pgtable(TOP)
    assert tables.state.pae == pae


def test_pae_tops_are_objects_of_32_bytes(memory: VmMemory) -> None:
    tables = make(memory)
    for top, frame in ((TOP, 0x400000), (TOP + 0x20, 0x401000)):
        middle, last = OTHER + top % 0x1000 * 0x100, OTHER + 0x4000 + top % 0x1000 * 0x100
        put64(memory, top, middle | P)
        put64(memory, middle, last | 0x67)
        put64(memory, last + 8, frame | P | RW)
    for top, frame in ((TOP, 0x400000), (TOP + 0x20, 0x401000), (TOP + 0x38, 0x401000)):
        tables.new_pgtable(top)
        assert tables.state.pae == 1
        assert tables.demand_page(0x1000, READ) or access(tables, 0x1000) == Hit(RAM + frame)
        assert access(tables, 0x1000) == Hit(RAM + frame)
    assert [tables.state.pgdir[index] for index in range(2)] == [TOP, TOP + 0x20]
    assert tables.audit() == []


@pytest.mark.parametrize("above", [P, P | RW, P | US, P | RW | US])
@pytest.mark.parametrize("last", [P, P | RW, P | US, P | RW | US, 0, RW | US])
@pytest.mark.parametrize("error", [READ, WRITE, USER, USER | WRITE])
def test_rights_are_those_of_both_levels(memory: VmMemory, above: int, last: int, error: int) -> None:
    tables = two_level(memory, 0x400000 | last)
    put32(memory, TOP, TABLE | above)
    wanted = P | (RW if error & WRITE else 0) | (US if error & USER else 0)
    allowed = above & last & wanted == wanted
    assert tables.demand_page(0x1000, error) is allowed
    seen = access(tables, 0x1000, bool(error & WRITE), bool(error & USER))
    assert isinstance(seen, Hit) is allowed
    assert tables.translate(0x1000, bool(error & WRITE)) == (
        0x400000 if last & P and not (error & WRITE and not above & last & RW) else None
    )


def test_everything_from_the_switcher_up_is_the_guests_own_business(memory: VmMemory) -> None:
    tables = two_level(memory)
    put32(memory, TOP + 1023 * 4, TABLE | 0x67)
    for address in (SWITCHER + 0x1000, SWITCHER + 0x200000, 0xFFFFFFFF):
        assert tables.demand_page(address, WRITE) is False
        assert tables.translate(address) is None
    assert tables.audit() == []


def test_rights_changed_above_without_a_word_never_add_to_old_entries(memory: VmMemory) -> None:
    tables = two_level(memory)
    put32(memory, TOP, TABLE | 0x63)
    assert tables.demand_page(0x1000, WRITE)
    put32(memory, TOP, OTHER | 0x67)
    put32(memory, OTHER + 8, 0x402000 | P | US)
    assert tables.demand_page(0x2000, USER)
    assert access(tables, 0x2000, user=True) == Hit(RAM + 0x402000)
    assert access(tables, 0x1000, user=True) == Fault(4), "open to ring 3, which neither table ever allowed"


def test_the_first_write_comes_back_to_mark_the_page_dirty(memory: VmMemory) -> None:
    tables = two_level(memory)
    assert tables.demand_page(0x1000, READ)
    assert get32(memory, TABLE + 4) == 0x400000 | P | RW | US | A
    assert access(tables, 0x1000, write=True) == Fault(3)
    assert tables.demand_page(0x1000, 3)
    assert get32(memory, TABLE + 4) == 0x400000 | P | RW | US | A | D
    assert access(tables, 0x1000, write=True) == Hit(RAM + 0x400000)


def test_a_dirty_page_is_writable_from_the_first_read(memory: VmMemory) -> None:
    tables = two_level(memory, 0x400000 | P | RW | D)
    assert tables.demand_page(0x1000, READ)
    assert access(tables, 0x1000, write=True) == Hit(RAM + 0x400000)
    assert get32(memory, TABLE + 4) == 0x400000 | P | RW | A | D


def test_a_refused_access_leaves_no_mark(memory: VmMemory) -> None:
    tables = two_level(memory, 0x400000 | P)
    assert tables.demand_page(0x1000, WRITE) is False
    assert get32(memory, TABLE + 4) == 0x400000 | P


@pytest.mark.parametrize(
    ("value", "readable", "writable"),
    [
        (P | RW | A | D, True, True),
        (P | RW | A, True, False),
        (P | A, True, False),
        (P | A | D, True, False),
        (P | RW, False, False),
        (P | RW | D, False, False),
        (RW | A | D, False, False),
        (0, False, False),
    ],
)
def test_set_pte_installs_what_was_used(memory: VmMemory, value: int, readable: bool, writable: bool) -> None:
    tables = two_level(memory)
    assert tables.demand_page(0x1000, WRITE)
    before = get32(memory, TABLE + 4)
    tables.set_pte(TOP, 0x1000, 0x402000 | value)
    assert isinstance(access(tables, 0x1000), Hit) is readable
    assert isinstance(access(tables, 0x1000, write=True), Hit) is writable
    if readable:
        assert access(tables, 0x1000) == Hit(RAM + 0x402000)
    assert get32(memory, TABLE + 4) == before, "the Guest's own entry is the Guest's to write"
    assert tables.audit() == []


def test_set_pte_without_a_table_waits_for_the_fault(memory: VmMemory) -> None:
    tables = two_level(memory)
    used = len(tables.trees.pool.in_use())
    tables.set_pte(TOP, 0x1000, 0x400000 | P | RW | A | D)
    tables.set_pte(TOP, 0x1000, RAM_BYTES | P | RW | A | D)
    assert access(tables, 0x1000) == Fault(0)
    assert len(tables.trees.pool.in_use()) == used


def test_garbage_in_the_upper_half_means_nothing_without_pae(memory: VmMemory) -> None:
    tables = two_level(memory)
    assert tables.demand_page(0x1000, WRITE)
    tables.set_pte(TOP, 0x1000, 0x402000 | P | A, 0xDEADBEEF)
    assert access(tables, 0x1000) == Hit(RAM + 0x402000)


def test_global_and_cache_bits_stay_out(memory: VmMemory) -> None:
    tables = two_level(memory, 0x400000 | P | RW | G | 0x18 | 0xE00)
    assert tables.demand_page(0x1000, WRITE)
    entry = memory.u64[tables.trees.last_entry(0, 0x1000)]
    assert entry == RAM + 0x400000 | P | RW | A | D


def test_set_pmd_drops_what_hangs_below_it_and_nothing_else(memory: VmMemory) -> None:
    """Two address spaces with a GiB of their own, at 0x0, and one that both share, the kernel's."""
    tables = make(memory)
    tops, own, kernel, last = (0x1000, 0x2000), (0x3000, 0x4000), 0x5000, 0x6000
    for top, middle in zip(tops, own, strict=True):
        put64(memory, top, middle | P)
        put64(memory, top + 24, kernel | P)
        for entry in (0, 1):
            put64(memory, middle + 8 * entry, last | 0x67)
            put64(memory, kernel + 8 * entry, last | 0x67)
    put64(memory, last, 0x400000 | P | RW)
    places = (0, 0x200000, KERNEL, KERNEL + 0x200000)

    def seen() -> list[list[bool]]:
        """In each space, at each place: whether the shadow has it."""
        found = []
        for top in tops:
            tables.new_pgtable(top)
            found.append([isinstance(access(tables, place), Hit) for place in places])
        return found

    for top in tops:
        tables.new_pgtable(top)
        assert all(tables.demand_page(place, READ) for place in places)
    assert seen() == [[True] * 4] * 2
    tables.set_pmd(own[0], 1)
    assert seen() == [[True, False, True, True], [True] * 4]
    tables.set_pmd(kernel, 0)
    assert seen() == [[True, False, False, True], [True, True, False, True]]
    tables.set_pmd(0x7000, 0)
    tables.set_pmd(last, 0)
    assert seen() == [[True, False, False, True], [True, True, False, True]]
    put64(memory, tops[1], own[0] | P)
    tables.set_pgd(tops[1], 0)
    tables.set_pmd(own[0], 0)
    assert seen() == [[False, False, False, True], [False, False, False, True]]
    assert tables.audit() == []


def test_set_pmd_leaves_the_stack_where_it_is(memory: VmMemory) -> None:
    tables = make(memory)
    put64(memory, TOP + 24, TABLE | P)
    put64(memory, TABLE, OTHER | 0x67)
    put64(memory, OTHER, 0x400000 | P | RW)
    tables.new_pgtable(TOP)
    tables.state.esp1, tables.state.ss1, tables.state.stack_pages = KERNEL + 0x1000, 0x69, 1
    tables.pin_stack()
    put64(memory, 0x7000, 0x401000 | P | RW)
    put64(memory, TABLE, 0x7000 | 0x67)
    tables.set_pmd(TABLE, 0)
    assert access(tables, KERNEL, write=True) == Hit(RAM + 0x401000)
    put64(memory, TABLE, 0)
    with pytest.raises(GuestBroke, match="kernel stack page"):
        tables.set_pmd(TABLE, 0)


def test_pae_passes_nx_on(memory: VmMemory) -> None:
    tables = make(memory)
    put64(memory, TOP, TABLE | P)
    put64(memory, TABLE, OTHER | 0x67)
    put64(memory, OTHER + 8, 0x400000 | P | RW | NX)
    tables.new_pgtable(TOP)
    assert tables.demand_page(0x1000, FETCH) is False
    assert tables.demand_page(0x1000, WRITE)
    mmu = Mmu(memory)
    assert mmu.access(tables.root, 0x1000, False, False, True) == Fault(17)
    tables.set_pte(TOP, 0x1000, 0x402000 | P | A, NX >> 32)
    assert mmu.access(tables.root, 0x1000, False, False, True) == Fault(17)
    assert mmu.access(tables.root, 0x1000, False, False, False) == Hit(RAM + 0x402000)
