"""Four roots, the stack in each of them, and the pool they are made of (abi 5.5, 7.3)."""

from typing import Any

import pytest
from host.paging_cases import (
    KERNEL_TABLE,
    OTHER,
    READ,
    TABLE,
    TOP,
    WRITE,
    access,
    get32,
    put32,
    put64,
    spaces,
    two_level,
)
from host.paging_model import BLOCK, KERNEL, RAM, RW, SWITCHER, TEXT, A, D, Fault, Hit, P, make

from kvmhost.host.errors import GuestBroke
from kvmhost.host.memory import VmMemory
from kvmhost.host.page_pool import LEAST_PAGES, PagePool, PoolEmpty


def test_four_address_spaces_are_kept_and_a_fifth_costs_one(memory: VmMemory) -> None:
    tables, tops = spaces(memory, 5)
    for top in tops[:4]:
        tables.new_pgtable(top)
        assert tables.demand_page(0x1000, READ)
        assert tables.demand_page(KERNEL + 0x1000, READ)
    for number, top in enumerate(tops[:4]):
        tables.new_pgtable(top)
        assert access(tables, 0x1000) == Hit(RAM + 0x400000 + number * 0x1000), "still there"
    tables.new_pgtable(tops[4])
    assert access(tables, 0x1000) == Fault(0), "nothing of another address space"
    assert access(tables, KERNEL + 0x1000) == Hit(RAM + 0x500000), "but the kernel is the same in all"
    kept = []
    for top in tops[:4]:
        if top in [tables.state.pgdir[index] for index in range(4)]:
            tables.new_pgtable(top)
            kept.append(isinstance(access(tables, 0x1000), Hit))
    assert kept == [True] * 3
    assert tops[3] in [tables.state.pgdir[index] for index in range(4)], "the one just left is the last to go"
    assert tables.audit() == []


@pytest.mark.parametrize("address", [KERNEL, KERNEL + 0x1000])
def test_set_pte_for_the_kernel_reaches_every_root(memory: VmMemory, address: int) -> None:
    tables, tops = spaces(memory, 4)
    put32(memory, KERNEL_TABLE, 0x502000 | P | RW)
    for top in tops:
        tables.new_pgtable(top)
        assert tables.demand_page(address, WRITE)
    tables.set_pte(0x00700000, address, 0x501000 | P | RW | A)
    for top in tops:
        tables.new_pgtable(top)
        assert access(tables, address) == Hit(RAM + 0x501000)
        assert access(tables, address, write=True) == Fault(3)


def test_set_pte_for_a_user_reaches_only_that_root(memory: VmMemory) -> None:
    tables, tops = spaces(memory, 3)
    for top in tops:
        tables.new_pgtable(top)
        tables.demand_page(0x1000, WRITE)
    tables.set_pte(tops[1], 0x1000, 0)
    tables.set_pte(0x00700000, 0x1000, 0)
    seen = []
    for top in tops:
        tables.new_pgtable(top)
        seen.append(isinstance(access(tables, 0x1000), Hit))
    assert seen == [True, False, True]


def test_flush_user_is_for_the_current_root_and_below_the_kernel(memory: VmMemory) -> None:
    tables, tops = spaces(memory, 2)
    for top in tops:
        tables.new_pgtable(top)
        tables.demand_page(0x1000, WRITE)
        tables.demand_page(KERNEL + 0x1000, WRITE)
    tables.flush_user()
    assert access(tables, 0x1000) == Fault(0)
    assert isinstance(access(tables, KERNEL + 0x1000), Hit)
    tables.new_pgtable(tops[0])
    assert isinstance(access(tables, 0x1000), Hit)


def test_flush_user_stops_short_of_the_switcher(memory: VmMemory) -> None:
    tables = two_level(memory, kernel=0xFFFFF000)
    tables.demand_page(KERNEL + 0x1000, WRITE)
    tables.flush_user()
    assert access(tables, KERNEL + 0x1000) == Fault(0)
    assert access(tables, SWITCHER) == Hit(TEXT)
    assert tables.audit() == []


def test_set_pgd_drops_both_halves_in_that_root_alone(memory: VmMemory) -> None:
    tables, tops = spaces(memory, 2)
    put32(memory, KERNEL_TABLE + 512 * 4, 0x502000 | P)
    for top in tops:
        tables.new_pgtable(top)
        tables.demand_page(KERNEL + 0x1000, READ)
        tables.demand_page(KERNEL + 0x200000, READ)
    tables.set_pgd(tops[0], 0x300)
    assert isinstance(access(tables, KERNEL + 0x1000), Hit)
    tables.new_pgtable(tops[0])
    assert access(tables, KERNEL + 0x1000) == Fault(0)
    assert access(tables, KERNEL + 0x200000) == Fault(0)


@pytest.mark.parametrize("current", [True, False])
def test_set_pgd_of_the_switchers_slot_leaves_the_switcher(memory: VmMemory, current: bool) -> None:
    tables, tops = spaces(memory, 2)
    for top in tops:
        tables.new_pgtable(top)
    tables.set_pgd(tops[1 if current else 0], 1023)
    for top in tops:
        tables.new_pgtable(top)
        assert access(tables, SWITCHER) == Hit(TEXT)
    assert tables.audit() == []


def test_set_pgd_of_the_last_gib_leaves_the_switcher(memory: VmMemory) -> None:
    tables = make(memory)
    put64(memory, TOP + 24, TABLE | P)
    put64(memory, TABLE, OTHER | 0x67)
    put64(memory, OTHER + 8, 0x400000 | P)
    tables.new_pgtable(TOP)
    assert tables.demand_page(KERNEL + 0x1000, READ)
    tables.set_pgd(TOP, 3)
    assert access(tables, KERNEL + 0x1000) == Fault(0)
    assert access(tables, SWITCHER) == Hit(TEXT)
    assert tables.audit() == []


def with_stack(memory: VmMemory, esp1: int, pages: int, ss1: int = 0x69) -> Any:
    tables, tops = spaces(memory, 2)
    tables.new_pgtable(tops[0])
    tables.state.esp1, tables.state.stack_pages, tables.state.ss1 = esp1, pages, ss1
    return tables


def test_the_page_below_the_stack_pointer_is_pinned(memory: VmMemory) -> None:
    tables = with_stack(memory, KERNEL + 0x2000, 1)
    tables.pin_stack()
    assert access(tables, KERNEL + 0x1FFC, write=True) == Hit(RAM + 0x500FFC)
    assert get32(memory, KERNEL_TABLE + 4) & (A | D) == A | D


@pytest.mark.parametrize("how", ["flush", "new root", "emptied root"])
def test_the_stack_is_pinned_again(memory: VmMemory, how: str) -> None:
    tables = with_stack(memory, KERNEL + 0x2000, 1)
    tables.pin_stack()
    if how == "flush":
        tables.flush_all()
    elif how == "new root":
        tables.new_pgtable(0x112000)
    else:
        tables.new_pgtable(0x112000)
        tables.flush_all()
        tables.new_pgtable(0x110000)
    assert isinstance(access(tables, KERNEL + 0x1FFC, write=True), Hit)


@pytest.mark.parametrize(
    ("esp1", "pages", "ss1", "reason"),
    [
        (KERNEL + 0x2000, 3, 0x69, "a kernel stack of 3 pages"),
        (KERNEL + 0x2000, 0xFFFFFFFF, 0x69, "a kernel stack of 4294967295 pages"),
        (KERNEL + 0x2000, 1, 0x68, "a kernel stack of 1 pages with selector 0x68"),
        (KERNEL + 0x2000, 1, 0x7B, "a kernel stack of 1 pages with selector 0x7b"),
        (KERNEL + 0x2000, 2, 0x69, "its kernel stack page at 0xc0000000 is not writable"),
        (KERNEL + 0x2001, 1, 0x69, "its kernel stack page at 0xc0002000 is not writable"),
        (0, 1, 0x69, "its kernel stack page at 0xfffff000 is not writable"),
        (SWITCHER + 0x2000, 1, 0x69, "its kernel stack page at 0xffc01000 is not writable"),
    ],
)
def test_a_bad_stack_kills(memory: VmMemory, esp1: int, pages: int, ss1: int, reason: str) -> None:
    tables = with_stack(memory, esp1, pages, ss1)
    with pytest.raises(GuestBroke) as caught:
        tables.pin_stack()
    assert caught.value.reason.startswith(reason)
    assert caught.value.advice


def test_the_pool_hands_out_each_page_once_and_ends(memory: VmMemory) -> None:
    state = make(memory).state
    pool = PagePool(memory, BLOCK, state, LEAST_PAGES)
    pages = [pool.allocate() for _ in range(LEAST_PAGES)]
    assert pages == [BLOCK + 0x4000 + 0x1000 * index for index in range(LEAST_PAGES)]
    with pytest.raises(PoolEmpty):
        pool.allocate()
    memory.write(pages[3], b"\xff" * 4096)
    pool.free(pages[3])
    pool.free(pages[5])
    assert pool.in_use() == set(pages) - {pages[3], pages[5]}
    assert {pool.allocate(), pool.allocate()} == {pages[3], pages[5]}
    assert memory.read(pages[3], 4096) == bytes(4096)
    with pytest.raises(PoolEmpty):
        pool.allocate()


@pytest.mark.parametrize("pages", [0, LEAST_PAGES - 1, 509])
def test_a_pool_of_an_impossible_size_is_refused(memory: VmMemory, pages: int) -> None:
    with pytest.raises(ValueError, match="a pool of"):
        make(memory, pool_pages=pages)


def test_a_pool_too_small_for_everything_still_gets_on(memory: VmMemory) -> None:
    tables = two_level(memory, pool_pages=LEAST_PAGES)
    tables.state.esp1, tables.state.stack_pages, tables.state.ss1 = KERNEL + 0x2000, 1, 0x69
    tables.pin_stack()
    for index in range(64):
        put32(memory, TOP + index * 4, TABLE | 0x67)
    for address in range(0x1000, 64 << 22, 1 << 22):
        assert tables.demand_page(address, WRITE)
        assert access(tables, address, write=True) == Hit(RAM + 0x400000)
        assert isinstance(access(tables, KERNEL + 0x1FFC, write=True), Hit), "and the stack stays pinned"
        assert tables.audit() == []
