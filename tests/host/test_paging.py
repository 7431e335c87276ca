"""Shadow tables case by case: linear mode, kills, dirty pages, roots, the stack, the pool, the Switcher."""

import doctest
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from host.paging_model import (
    BLOCK,
    CPUS,
    KERNEL,
    NX,
    PS,
    RAM,
    RAM_BYTES,
    REGISTERS,
    RW,
    SWITCHER,
    TEXT,
    US,
    A,
    D,
    Fault,
    G,
    Hit,
    Mmu,
    P,
    make,
)

from kvmhost.host.errors import GuestBroke, MachineBroken
from kvmhost.host.memory import VmMemory
from kvmhost.host.page_pool import LEAST_PAGES, PagePool, PoolEmpty

READ, WRITE, USER, FETCH = 0, 2, 4, 16
TOP, TABLE, KERNEL_TABLE, OTHER = 0x100000, 0x101000, 0x102000, 0x103000


@pytest.fixture
def memory() -> Iterator[VmMemory]:
    with VmMemory() as opened:
        yield opened


def put32(memory: VmMemory, physical: int, entry: int) -> None:
    memory.write(RAM + physical, entry.to_bytes(4, "little"))


def put64(memory: VmMemory, physical: int, entry: int) -> None:
    memory.write(RAM + physical, entry.to_bytes(8, "little"))


def get32(memory: VmMemory, physical: int) -> int:
    return int.from_bytes(memory.read(RAM + physical, 4), "little")


def two_level(memory: VmMemory, last: int = 0x400000 | P | RW | US, **options: Any) -> Any:
    """A Guest with linear 0x1000 and KERNEL + 0x1000 mapped by `last`, its first NEW_PGTABLE done."""
    tables = make(memory, **options)
    put32(memory, TOP, TABLE | 0x67)
    put32(memory, TOP + 0x300 * 4, KERNEL_TABLE | 0x67)
    put32(memory, TABLE + 4, last)
    put32(memory, KERNEL_TABLE + 4, last)
    tables.new_pgtable(TOP)
    return tables


def access(tables: Any, address: int, write: bool = False, user: bool = False) -> Hit | Fault:
    return Mmu(tables.memory).access(tables.root, address, write, user, False)


@pytest.mark.parametrize("name", ["errors", "memory", "paging", "paging_guest"])
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"kvmhost.host.{name}"))
    assert result.attempted > 0
    assert result.failed == 0


# ---- linear mode (abi 7.2)


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


# ---- the format of the Guest's tables (abi 7.6)


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


# ---- what kills (abi 7.1, 7.3, 5.5)

END = RAM_BYTES

TWO_LEVEL_KILLS: dict[str, tuple[Callable[[Any, VmMemory], Any], str]] = {
    "PDE with PSE": (
        lambda tables, memory: (put32(memory, TOP, P | RW | PS), tables.demand_page(0, READ)),
        "PGD entry 0x83 has bits",
    ),
    "PDE with an available bit": (
        lambda tables, memory: (put32(memory, TOP, TABLE | 0x267), tables.demand_page(0, READ)),
        "PGD entry 0x101267 has bits",
    ),
    "PDE beyond RAM": (
        lambda tables, memory: (put32(memory, TOP, END | 0x67), tables.demand_page(0, READ)),
        "PGD entry 0x800067 leads beyond",
    ),
    "PTE with PAT": (
        lambda tables, memory: (put32(memory, TABLE, P | PS), tables.demand_page(0, READ)),
        "page table entry 0x81 has the PAT bit",
    ),
    "PTE beyond RAM": (
        lambda tables, memory: (put32(memory, TABLE, END | P), tables.demand_page(0, READ)),
        "page table entry 0x800001 leads beyond",
    ),
    "PTE of the local APIC": (
        lambda tables, memory: (put32(memory, TABLE, 0xFEE00000 | P | RW), tables.demand_page(0, WRITE)),
        "page table entry 0xfee00003 leads beyond",
    ),
    "SET_PTE in the Switcher": (
        lambda tables, memory: tables.set_pte(TOP, SWITCHER, 0),
        "SET_PTE for 0xffc00000, which is the Switcher's",
    ),
    "SET_PTE at the very top": (
        lambda tables, memory: tables.set_pte(TOP, 0xFFFFFFFF, 0),
        "SET_PTE for 0xffffffff, which is the Switcher's",
    ),
    "SET_PTE beyond RAM, used": (
        lambda tables, memory: (tables.demand_page(0x1000, READ), tables.set_pte(TOP, 0, END | P | A)),
        "page table entry 0x800021 leads beyond",
    ),
    "SET_PTE with PAT, dirty": (
        lambda tables, memory: (tables.demand_page(0x1000, READ), tables.set_pte(TOP, 0, P | D | PS)),
        "page table entry 0xc1 has the PAT bit",
    ),
    "SET_PGD past the table": (lambda tables, memory: tables.set_pgd(TOP, 1024), "SET_PGD for entry 1024 of"),
    "SET_PGD far away": (
        lambda tables, memory: tables.set_pgd(TOP, 0xFFFFFFFF),
        "SET_PGD for entry 4294967295",
    ),
    "SET_PMD without PAE": (lambda tables, memory: tables.set_pmd(TOP, 0), "SET_PMD for entry 0 of"),
    "NEW_PGTABLE beyond RAM": (lambda tables, memory: tables.new_pgtable(END), "page directory at 0x800000"),
    "NEW_PGTABLE nowhere": (
        lambda tables, memory: tables.new_pgtable(0xFFFFFFFF),
        "page directory at 0xfffff000",
    ),
}

PAE_KILLS: dict[str, tuple[Callable[[Any, VmMemory], Any], str]] = {
    "PGD with RW": (
        lambda tables, memory: (put64(memory, TOP, TABLE | P | RW), tables.demand_page(0, READ)),
        "PGD entry 0x101003 has bits",
    ),
    "PGD with NX": (
        lambda tables, memory: (put64(memory, TOP, TABLE | P | NX), tables.demand_page(0, READ)),
        "PGD entry 0x8000000000101001 leads beyond",
    ),
    "PMD with PSE": (
        lambda tables, memory: (put64(memory, TABLE, P | RW | PS), tables.demand_page(0, READ)),
        "PMD entry 0x83 has bits",
    ),
    "PMD with NX": (
        lambda tables, memory: (put64(memory, TABLE, OTHER | 0x67 | NX), tables.demand_page(0, READ)),
        "PMD entry 0x8000000000103067 leads beyond",
    ),
    "PMD above 4 GiB": (
        lambda tables, memory: (put64(memory, TABLE, 1 << 32 | OTHER | 0x67), tables.demand_page(0, READ)),
        "PMD entry 0x100103067 leads beyond",
    ),
    "PTE above 4 GiB": (
        lambda tables, memory: (put64(memory, OTHER, 1 << 32 | P), tables.demand_page(0, READ)),
        "page table entry 0x100000001 leads beyond",
    ),
    "PTE with ignored bits": (
        lambda tables, memory: (put64(memory, OTHER, 1 << 52 | P), tables.demand_page(0, READ)),
        "page table entry 0x10000000000001 leads beyond",
    ),
    "SET_PTE above 4 GiB": (
        lambda tables, memory: (tables.demand_page(0x1000, READ), tables.set_pte(TOP, 0, P | A, 1)),
        "page table entry 0x100000021 leads beyond",
    ),
    "SET_PGD past the table": (
        lambda tables, memory: tables.set_pgd(TOP, 4),
        "SET_PGD for entry 4 of a table of 4",
    ),
    "SET_PMD past the table": (lambda tables, memory: tables.set_pmd(TABLE, 512), "SET_PMD for entry 512 of"),
}


@pytest.mark.parametrize("what", TWO_LEVEL_KILLS)
def test_a_two_level_guest_dies(memory: VmMemory, what: str) -> None:
    break_it, reason = TWO_LEVEL_KILLS[what]
    tables = two_level(memory)
    with pytest.raises(GuestBroke) as caught:
        break_it(tables, memory)
    assert caught.value.reason.startswith(reason)
    assert caught.value.advice
    assert tables.audit() == []


@pytest.mark.parametrize("what", PAE_KILLS)
def test_a_pae_guest_dies(memory: VmMemory, what: str) -> None:
    break_it, reason = PAE_KILLS[what]
    tables = make(memory)
    put64(memory, TOP, TABLE | P)
    put64(memory, TABLE, OTHER | 0x67)
    put64(memory, OTHER + 8, 0x400000 | P | RW)
    tables.new_pgtable(TOP)
    with pytest.raises(GuestBroke) as caught:
        break_it(tables, memory)
    assert caught.value.reason.startswith(reason)
    assert caught.value.advice
    assert tables.audit() == []


@pytest.mark.parametrize("top", [RAM_BYTES - 0x10, RAM_BYTES, 0xFFFFFFE0, 0xFFFFFFFF])
def test_a_first_table_beyond_ram_kills_in_linear_mode(memory: VmMemory, top: int) -> None:
    tables = make(memory, ram=RAM_BYTES - 0x10)
    with pytest.raises(GuestBroke, match="beyond its memory"):
        tables.new_pgtable(top)
    assert tables.state.linear == 1
    assert tables.demand_page(0x1000, READ), "and nothing else happened"


def test_a_later_table_beyond_ram_kills_too(memory: VmMemory) -> None:
    tables = make(memory, ram=RAM_BYTES - 0x10)
    put64(memory, TOP, TABLE | P)
    tables.new_pgtable(TOP)
    with pytest.raises(GuestBroke, match="page directory at 0x7fffe0, beyond"):
        tables.new_pgtable(RAM_BYTES - 0x20)


def test_the_last_entry_of_ram_can_be_a_page_table(memory: VmMemory) -> None:
    tables = two_level(memory)
    put32(memory, TOP, RAM_BYTES - 0x1000 | 0x67)
    put32(memory, RAM_BYTES - 4, 0x400000 | P)
    assert tables.demand_page(0x3FF000, READ)
    assert access(tables, 0x3FF000) == Hit(RAM + 0x400000)


def test_an_entry_that_is_not_present_may_hold_anything(memory: VmMemory) -> None:
    tables = two_level(memory)
    tables.demand_page(0x1000, WRITE)
    tables.set_pte(TOP, 0x1000, 0xFFFFFFFE)
    assert access(tables, 0x1000) == Fault(0)
    assert tables.audit() == []


def test_a_reserved_bit_is_our_own_fault(memory: VmMemory) -> None:
    with pytest.raises(MachineBroken, match="reserved bit"):
        two_level(memory).demand_page(0x1000, 9)


# ---- who may do what (abi 7.2 steps 3 to 7)


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


# ---- accessed and dirty (abi 7.2 steps 10 to 14)


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


# ---- roots (abi 7.3)


def spaces(memory: VmMemory, count: int, **options: Any) -> tuple[Any, list[int]]:
    """Address spaces whose kernel half is the same, and whose linear 0x1000 is a page of their own."""
    tables = make(memory, **options)
    tops = []
    for number in range(count):
        top, table = 0x110000 + number * 0x2000, 0x111000 + number * 0x2000
        put32(memory, top, table | 0x67)
        put32(memory, top + 0x300 * 4, KERNEL_TABLE | 0x67)
        put32(memory, table + 4, 0x400000 + number * 0x1000 | P | RW | US)
        tops.append(top)
    put32(memory, KERNEL_TABLE + 4, 0x500000 | P | RW)
    return tables, tops


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


# ---- the stack (abi 5.5)


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


# ---- the pool


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


# ---- the Switcher (conformance 1.14)


@pytest.mark.parametrize("cpu", [0, 1])
def test_exactly_three_pages_of_the_switchers_range_are_there(memory: VmMemory, cpu: int) -> None:
    tables, tops = spaces(memory, 4)
    for top in tops:
        tables.new_pgtable(top)
    tables.map_switcher(TEXT, REGISTERS, *CPUS[cpu])
    state_page, pair = CPUS[cpu]
    mmu = Mmu(memory)
    for top in tops:
        tables.new_pgtable(top)
        found = {leaf.linear: leaf for leaf in mmu.leaves(tables.root) if leaf.linear >= SWITCHER}
        assert sorted(found) == [SWITCHER, pair, pair + 0x1000]
        assert [found[address].physical for address in sorted(found)] == [TEXT, REGISTERS, state_page]
        assert [found[address].writable for address in sorted(found)] == [False, True, False]
        assert [found[address].executable for address in sorted(found)] == [True, False, False]
        assert not any(leaf.user for leaf in found.values())


@pytest.mark.parametrize(
    "frames",
    [
        (TEXT, REGISTERS, 0x112000, SWITCHER),
        (TEXT, REGISTERS, 0x112000, SWITCHER - 0x2000),
        (TEXT, REGISTERS, 0x112000, SWITCHER + 0x1FF000),
        (TEXT, REGISTERS, 0x112000, SWITCHER + 0x1800),
        (TEXT + 4, REGISTERS, 0x112000, SWITCHER + 0x1000),
    ],
)
def test_a_pair_that_cannot_be_is_refused(memory: VmMemory, frames: tuple[int, int, int, int]) -> None:
    with pytest.raises(MachineBroken, match="cannot be mapped"):
        make(memory).map_switcher(*frames)


# ---- the audit itself


def corrupt_leaf(tables: Any, entry: int) -> None:
    tables.memory.u64[tables.trees.last_entry(0, 0x1000)] = entry


def corrupt_switcher(tables: Any, index: int, entry: int) -> None:
    tables.memory.u64[(BLOCK + 0x2000) // 8 + index] = entry


def directory(tables: Any, index: int) -> int:
    """Index in u64 of entry `index` of the directory of linear 0xC0000000."""
    return int((tables.memory.u64[tables.root // 8 + 3] & 0xFFFFF000) // 8 + index)


CORRUPTIONS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a frame of the Host": (
        lambda tables: corrupt_leaf(tables, 0x100000 | P | A),
        "the frame is not the Guest's",
    ),
    "a shadow table": (
        lambda tables: corrupt_leaf(tables, BLOCK + 0x4000 | P | A),
        "the frame is not the Guest's",
    ),
    "beyond RAM": (
        lambda tables: corrupt_leaf(tables, RAM + RAM_BYTES | P | A),
        "the frame is not the Guest's",
    ),
    "not zero": (lambda tables: corrupt_leaf(tables, RAM | A), "not present and not zero"),
    "a reserved bit": (
        lambda tables: corrupt_leaf(tables, 1 << 60 | RAM | P | A),
        "bits that may not be set",
    ),
    "a global bit": (lambda tables: corrupt_leaf(tables, RAM | P | A | G), "bits that may not be set"),
    "writable, clean": (lambda tables: corrupt_leaf(tables, RAM | P | A | RW), "writable before"),
    "another pair": (
        lambda tables: corrupt_switcher(tables, 3, 0x11100 | P | RW | A | D | NX),
        "page 0xffc03000",
    ),
    "an executable pair": (
        lambda tables: corrupt_switcher(tables, 1, REGISTERS | P | RW | A | D),
        "page 0xffc01000 of the Switcher is 0x201063",
    ),
    "a writable state page": (
        lambda tables: corrupt_switcher(tables, 2, CPUS[0][0] | P | RW | A | D | NX),
        "page 0xffc02000",
    ),
    "no text": (lambda tables: corrupt_switcher(tables, 0, 0), "page 0xffc00000 of the Switcher is 0x0"),
    "ring 3 in the Switcher": (
        lambda tables: tables.memory.u64.__setitem__(
            directory(tables, 510), BLOCK + 0x2000 | P | RW | A | US
        ),
        "does not lead to the Switcher's table",
    ),
    "the last 2 MiB": (
        lambda tables: tables.memory.u64.__setitem__(directory(tables, 511), BLOCK + 0x2000 | P | RW | A),
        "in the Switcher's range",
    ),
    "a large page": (
        lambda tables: tables.memory.u64.__setitem__(directory(tables, 9), RAM | P | RW | A | D | PS),
        "a large page outside linear mode",
    ),
    "a table used twice": (
        lambda tables: tables.memory.u64.__setitem__(
            directory(tables, 9), tables.memory.u64[directory(tables, 0)]
        ),
        "hangs elsewhere too",
    ),
    "a table outside the pool": (
        lambda tables: tables.memory.u64.__setitem__(directory(tables, 9), RAM | P | RW | A),
        "is no page of the pool",
    ),
    "a lost page": (lambda tables: tables.trees.pool.allocate(), "is in use and hangs nowhere"),
    "no Switcher at all": (
        lambda tables: tables.memory.u64.__setitem__(tables.root // 8 + 3, 0),
        "has no Switcher",
    ),
    "a top with more than P": (
        lambda tables: tables.memory.u64.__setitem__(
            tables.root // 8 + 3, tables.memory.u64[tables.root // 8 + 3] | RW
        ),
        "only P may be set",
    ),
    "RAM over the block": (
        lambda tables: setattr(tables.state, "mem_base", 0x300000),
        "overlaps its own block",
    ),
    "RAM over the Host": (lambda tables: setattr(tables.state, "mem_base", 0), "overlaps the Host area"),
}


@pytest.mark.parametrize("what", CORRUPTIONS)
def test_the_audit_finds(memory: VmMemory, what: str) -> None:
    tables = two_level(memory)
    tables.demand_page(0x1000, WRITE)
    tables.demand_page(KERNEL + 0x1000, WRITE)
    assert tables.audit() == []
    corrupt, expected = CORRUPTIONS[what]
    corrupt(tables)
    assert any(expected in finding for finding in tables.audit())


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (RAM | P | RW | US | A | D | PS, "open to ring 3 in linear mode"),
        (RAM + RAM_BYTES | P | RW | A | D | PS, "the frame is not the Guest's"),
        (RAM + 0x1000 | P | RW | A | D | PS, "the frame is not the Guest's"),
    ],
)
def test_the_audit_finds_in_linear_mode(memory: VmMemory, entry: int, expected: str) -> None:
    tables = make(memory)
    tables.demand_page(0x1000, WRITE)
    assert tables.audit() == []
    memory.u64[(memory.u64[tables.root // 8] & 0xFFFFF000) // 8] = entry
    assert any(expected in finding for finding in tables.audit())
