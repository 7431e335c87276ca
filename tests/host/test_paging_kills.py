"""What in its tables, and which calls, end a Guest (abi 7.1, 7.3), and what looks bad and does not."""

from collections.abc import Callable
from typing import Any

import pytest
from host.paging_cases import OTHER, READ, TABLE, TOP, WRITE, access, put32, put64, two_level
from host.paging_model import NX, PS, RAM, RAM_BYTES, RW, SWITCHER, A, D, Fault, Hit, P, make

from kvmhost.host.errors import GuestBroke, MachineBroken
from kvmhost.host.memory import VmMemory

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
