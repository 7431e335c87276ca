"""Kernels 2.6.30 to 3.0: no VMCALL is ever executable, in whatever way it came into memory."""

import pytest
from host.native_guest import BY_NAME, RAM_AT, native

from kvmhost.host.abi import ABIS
from kvmhost.host.guest import Guest
from kvmhost.host.memory import VmMemory

READ, WRITE, USER, FETCH = 0, 2, 4, 16
VMCALL, INT_1F = b"\x0f\x01\xc1", b"\xcd\x1f\x90"
NX = 1 << 63
RW = 2
CODE = 0x200000
ELSEWHERE = 0x300000


@pytest.fixture
def guest(memory: VmMemory) -> Guest:
    guest = native(memory, BY_NAME["2.6.31"])
    guest.set_entry(ELSEWHERE)
    return guest


def shadow(guest: Guest, linear: int) -> int:
    place = guest.tables.trees.last_entry(guest.state.current_root, linear)
    assert place is not None
    return int(guest.memory.u64[place])


def fault(guest: Guest, linear: int, code: int) -> int:
    assert guest.tables.demand_page(linear, code)
    return shadow(guest, linear)


def test_only_the_releases_that_have_it_are_watched(memory: VmMemory) -> None:
    for abi in ABIS:
        watched = native(memory, abi).tables.executable is not None
        assert watched is (abi.name in ("2.6.30", "2.6.31", "2.6.34")), abi


def test_data_cannot_be_executed(guest: Guest) -> None:
    assert fault(guest, CODE, READ) & NX
    assert fault(guest, CODE, WRITE) & (NX | RW) == NX | RW


def test_code_is_rewritten_before_it_can_be_executed(guest: Guest) -> None:
    guest.ram.write(CODE + 100, VMCALL + b"\x0f\x01\xd9" + VMCALL)
    fault(guest, CODE, WRITE)
    assert guest.ram.read(CODE + 100, 3) == VMCALL
    entry = fault(guest, CODE, FETCH)
    assert entry & (NX | RW) == 0
    assert guest.ram.read(CODE + 100, 9) == INT_1F + b"\x0f\x01\xd9" + INT_1F


def test_code_that_is_written_to_is_searched_again(guest: Guest) -> None:
    """A module: written to a page, executed, and another one written over it."""
    for at in (0, 1000, 4093):
        assert fault(guest, CODE, WRITE) & NX
        guest.ram.write(CODE + at, VMCALL)
        assert fault(guest, CODE, FETCH) & RW == 0
        assert guest.ram.read(CODE + at, 3) == INT_1F


@pytest.mark.parametrize("before", [1, 2])
@pytest.mark.parametrize("first", ["the page with the first byte", "the page with the last"])
def test_across_two_pages(guest: Guest, before: int, first: str) -> None:
    guest.ram.write(CODE + 4096 - before, VMCALL)
    fault(guest, CODE if first.endswith("first byte") else CODE + 4096, FETCH)
    assert guest.ram.read(CODE + 4096 - before, 3) == INT_1F


def test_the_first_and_the_last_page_have_one_neighbour(guest: Guest) -> None:
    guest.ram.write(5, VMCALL)
    fault(guest, 0, FETCH)
    assert guest.ram.read(5, 3) == INT_1F
    last = guest.state.mem_bytes - 4096
    guest.ram.write(last + 4093, VMCALL)
    fault(guest, last, FETCH)
    assert guest.ram.read(last + 4093, 3) == INT_1F


def test_code_that_stores_into_its_own_page_gets_on(guest: Guest) -> None:
    """It would otherwise fault for ever: to fetch, to store, to fetch."""
    guest.frame.eip = CODE + 0x10
    guest.ram.write(CODE + 0x20, VMCALL)
    fault(guest, CODE, FETCH)
    assert fault(guest, CODE, WRITE) & (NX | RW) == RW
    assert guest.ram.read(CODE + 0x20, 3) == INT_1F


@pytest.mark.parametrize(("back", "both"), [(1, True), (14, True), (15, False)])
def test_an_instruction_may_end_in_the_next_page(guest: Guest, back: int, both: bool) -> None:
    guest.frame.eip = CODE + 4096 - back
    assert (fault(guest, CODE + 4096, WRITE) & NX == 0) is both


def test_user_space_keeps_its_rights(guest: Guest) -> None:
    guest.ram.write(CODE, VMCALL)
    assert fault(guest, CODE, USER | FETCH) & NX == 0
    assert fault(guest, CODE, USER | WRITE) & (NX | RW) == RW
    assert guest.ram.read(CODE, 3) == VMCALL


def test_an_entry_told_by_set_pte_is_searched_first(guest: Guest) -> None:
    """User pages are not: they would fault once more each for nothing."""
    pgdir = guest.state.pgdir[0]
    guest.state.kernel_address = 0xC0000000
    fault(guest, CODE, WRITE)
    guest.tables.set_pte(pgdir, CODE, CODE | 0x63)
    assert shadow(guest, CODE) == NX | (RAM_AT + CODE) | 0x63
    guest.tables.set_pte(pgdir, CODE, CODE | 0x67)
    assert shadow(guest, CODE) == (RAM_AT + CODE) | 0x67


def test_the_audit_is_content(guest: Guest) -> None:
    for code in (READ, WRITE, FETCH, USER | FETCH):
        fault(guest, CODE, code)
        assert guest.tables.audit() == []
