"""Error codes of reflected page faults, against the manual's table of bits, for every state of an entry."""

from collections.abc import Iterator
from typing import Any

import pytest

from kvmhost._native import ffi
from kvmhost.host.fault_code import for_the_guest
from kvmhost.host.memory import VmMemory
from kvmhost.host.paging import ShadowTables

BLOCK, RAM, RAM_BYTES = 0x200000, 0x400000, 0x100000
TOP, MIDDLE, LAST = 0x1000, 0x2000, 0x3000
ADDRESS = 0x00005123
# Bits of the error code: protection, write, user, fetch.
P, W, U, F = 1, 2, 4, 16


@pytest.fixture
def tables() -> Iterator[ShadowTables]:
    with VmMemory() as memory:
        state = ffi.cast("struct kvmhost_guest *", memory.u8 + BLOCK)
        state.mem_base, state.limit_bytes = RAM, RAM_BYTES
        yield ShadowTables(memory, BLOCK, state)
        state = None


def two_level(tables: ShadowTables, directory: int, entry: int) -> None:
    words: Any = tables.memory.u32
    words[(RAM + TOP) // 4] = directory
    words[(RAM + LAST) // 4 + 5] = entry
    tables.state.linear, tables.state.pae = 0, 0
    tables.state.pgdir[0], tables.state.current_root = TOP, 0


@pytest.mark.parametrize(
    ("directory", "entry", "reported", "expected"),
    [
        pytest.param(LAST | 0x67, 0x7001, W, P | W, id="read-only, never used: the shadow is empty"),
        pytest.param(LAST | 0x67, 0x7001, P | W, P | W, id="read-only, used before"),
        pytest.param(LAST | 0x67, 0x7003, U, P | U, id="ring 3 at the kernel's page"),
        pytest.param(LAST | 0x67, 0, 0, 0, id="nothing there"),
        pytest.param(
            LAST | 0x67, 0x7002, P | W, W, id="gone from the Guest's tables, not yet from the shadow"
        ),
        pytest.param(0, 0x7003, W, W, id="no table"),
        pytest.param(LAST | 0x67, 0, F, 0, id="a fetch, which a two-level CPU does not report"),
    ],
)
def test_a_two_level_guest(
    tables: ShadowTables, directory: int, entry: int, reported: int, expected: int
) -> None:
    two_level(tables, directory, entry)
    assert for_the_guest(tables, ADDRESS, reported) == expected


def test_a_pae_guest_hears_of_fetches(tables: ShadowTables) -> None:
    words: Any = tables.memory.u64
    words[(RAM + TOP) // 8] = MIDDLE | 1
    words[(RAM + MIDDLE) // 8] = LAST | 0x67
    words[(RAM + LAST) // 8 + 5] = 1 << 63 | 0x7001
    tables.state.linear, tables.state.pae, tables.state.pgdir[0] = 0, 1, TOP
    assert for_the_guest(tables, ADDRESS, F) == P | F


def test_in_linear_mode_ram_is_there_and_not_for_ring_3(tables: ShadowTables) -> None:
    assert for_the_guest(tables, ADDRESS, U) == P | U
    assert for_the_guest(tables, RAM_BYTES, P | U) == U


def test_the_switchers_addresses_are_as_the_shadow_has_them(tables: ShadowTables) -> None:
    two_level(tables, LAST | 0x67, 0)
    for code in (0, P | W, P | U):
        assert for_the_guest(tables, 0xFFC01000, code) == code
