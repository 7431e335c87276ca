"""The page tables that Guests up to 3.0 start with, held against abi 9.3 in plain arithmetic."""

import struct

import pytest
from host.native_guest import BY_NAME, MEMORY, boot_params, native

from kvmhost._native import lib
from kvmhost.host.abi import ABIS, Abi, BootTables
from kvmhost.host.errors import BootError
from kvmhost.host.guest import Guest
from kvmhost.host.memory import VmMemory

INITRD = 0x2000
TOP = MEMORY - INITRD - 0x1000
WITH_TABLES = [abi for abi in ABIS if abi.tables is not BootTables.LINEAR]
with_tables = pytest.mark.parametrize("abi", WITH_TABLES, ids=lambda abi: abi.name)


def words(guest: Guest, address: int, form: str = "I", count: int = 1024) -> list[int]:
    size = struct.calcsize(form)
    return list(struct.unpack(f"<{count}{form}", guest.ram.read(address, count * size)))


def test_from_3_1_on_there_are_none(memory: VmMemory) -> None:
    for abi in ABIS:
        guest = native(memory, abi)
        before = guest.ram.read(0, MEMORY)
        guest.set_entry(0x100000)
        assert (guest.ram.read(0, MEMORY) == before) == bool(guest.state.linear) == (abi not in WITH_TABLES)
        guest.ram.write(0, bytes(MEMORY))


@with_tables
def test_two_levels(memory: VmMemory, abi: Abi) -> None:
    """4 MiB are 1024 pages: one table, below the directory."""
    guest = native(memory, abi)
    guest.set_entry(0x100000)
    assert words(guest, TOP - 0x1000) == [index * 4096 | 7 for index in range(1024)]
    directory = words(guest, TOP)
    expected = {0: (TOP - 0x1000) | 7}
    if abi.tables is BootTables.IDENTITY_AND_KERNEL:
        expected[768] = (TOP - 0x1000) | 7
    assert {index: entry for index, entry in enumerate(directory) if entry} == expected
    state = guest.state
    assert (state.linear, state.pae, state.pgdir[state.current_root]) == (0, 0, TOP)


@with_tables
def test_memory_that_does_not_fill_its_last_table(memory: VmMemory, abi: Abi) -> None:
    size = 5 << 20
    guest = native(memory, abi, mem_bytes=size, page_offset=0x80000000)
    top = size - INITRD - 0x1000
    guest.ram.write(top - 0x2000, b"\xff" * 0x3000)
    guest.set_entry(0x100000)
    entries = words(guest, top - 0x2000, count=2048)
    assert entries == [index * 4096 | 7 if index < 1280 else 0 for index in range(2048)]
    leads = [(top - 0x2000) | 7, (top - 0x1000) | 7]
    directory = words(guest, top)
    assert directory[:3] == [*leads, 0]
    there = leads if abi.tables is BootTables.IDENTITY_AND_KERNEL else [0, 0]
    assert directory[512:515] == [*there, 0]


@pytest.mark.parametrize("name", ["2.6.31", "2.6.34"])
def test_three_levels(memory: VmMemory, name: str) -> None:
    """4 MiB are two tables of 512; one middle table leads to them from both places."""
    guest = native(memory, BY_NAME[name], pae=True)
    guest.ram.write(TOP - 0x3000, b"\xff" * 0x4000)
    guest.set_entry(0x100000)
    assert words(guest, TOP - 0x2000, "Q") == [index * 4096 | 7 for index in range(1024)]
    middle = words(guest, TOP - 0x3000, "Q", 512)
    assert middle == [(TOP - 0x2000) | 7, (TOP - 0x1000) | 7] + [0] * 510
    assert words(guest, TOP, "Q", 512) == [(TOP - 0x3000) | 1, 0, 0, (TOP - 0x3000) | 1] + [0] * 508
    assert guest.state.pae == 1


def test_the_switchers_entry_stays_out_of_a_gigabyte(memory: VmMemory) -> None:
    size = 1 << 30
    guest = native(memory, BY_NAME["2.6.30"], mem_bytes=size)
    guest.set_entry(0x100000)
    directory = words(guest, size - INITRD - 0x1000)
    assert directory[255] and directory[768] and directory[1022]
    assert directory[1023] == 0


@with_tables
@pytest.mark.parametrize("offset", [0, 0xC0000000])
def test_a_guest_runs_on_them(memory: VmMemory, abi: Abi, offset: int) -> None:
    guest = native(memory, abi)
    guest.set_entry(0x100000)
    mapped = offset == 0 or abi.tables is BootTables.IDENTITY_AND_KERNEL
    assert guest.tables.demand_page(offset + 0x100000, 0) is mapped
    assert guest.tables.translate(offset + 0x123456) == (0x123456 if mapped else None)
    assert guest.tables.audit() == []


@with_tables
def test_without_boot_parameters_there_is_no_start(memory: VmMemory, abi: Abi) -> None:
    for size in (0, MEMORY + 0x1000, MEMORY - 1, 1 << 40):
        guest = native(memory, abi)
        boot_params(guest, size)
        with pytest.raises(BootError, match="boot parameters") as error:
            guest.set_entry(0x100000)
        assert "Machine.load()" in error.value.next_step


@with_tables
def test_an_initrd_that_leaves_no_room(memory: VmMemory, abi: Abi) -> None:
    for initrd in (MEMORY, MEMORY - 0x2000, 0xFFFFF000):
        guest = native(memory, abi)
        boot_params(guest, MEMORY, initrd)
        with pytest.raises(BootError, match="too few"):
            guest.set_entry(0x100000)


def test_pae_is_nothing_to_a_kernel_before_2_6_31(memory: VmMemory) -> None:
    guest = native(memory, BY_NAME["2.6.26"], pae=True)
    guest.set_entry(0x100000)
    assert guest.state.pae == 0
    assert lib.BOOT_LOW_END < TOP
