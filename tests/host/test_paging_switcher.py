"""What is mapped at the Switcher's addresses; and the audit finds what should not be (conformance 1.14)."""

from collections.abc import Callable
from typing import Any

import pytest
from host.paging_cases import WRITE, spaces, two_level
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
    G,
    Mmu,
    P,
    make,
)

from kvmhost.host.errors import MachineBroken
from kvmhost.host.memory import VmMemory


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
