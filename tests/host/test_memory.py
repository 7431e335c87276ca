"""One mapping of VM-physical memory: bounds, fork, dump, release, close."""

import os
import re
from pathlib import Path

import pytest

from kvmhost._native import ffi, lib
from kvmhost.host.errors import AddressError, GuestBroke, KvmhostError
from kvmhost.host.memory import VmMemory


def mapping_of(address: int) -> str:
    """The block of /proc/self/smaps that starts at `address`, or an empty string."""
    found = re.search(rf"^{address:x}-.*?VmFlags:[^\n]*", Path("/proc/self/smaps").read_text(), re.M | re.S)
    return found[0] if found else ""


def test_the_three_views_are_the_same_bytes(memory: VmMemory) -> None:
    memory.u64[0x3000 // 8] = 0x8877665544332211
    assert memory.u32[0x3004 // 4] == 0x88776655
    assert memory.u8[0x3001] == 0x22
    assert memory.read(0x3000, 8) == bytes.fromhex("1122334455667788")
    assert ffi.cast("uint8_t *", memory.address)[0x3007] == 0x88


def test_size_is_all_below_the_devices(memory: VmMemory) -> None:
    assert memory.size == lib.GUEST_AREA_LIMIT == len(memory.u8)
    memory.write(memory.size - 2, b"\x01\x02")
    assert memory.u32[memory.size // 4 - 1] == 0x02010000


@pytest.mark.parametrize(
    ("physical", "length"),
    [(-1, 1), (0, -1), (lib.GUEST_AREA_LIMIT, 1), (lib.GUEST_AREA_LIMIT - 4, 5), (1 << 40, 0), (0, 1 << 40)],
)
def test_what_lies_outside_is_refused(memory: VmMemory, physical: int, length: int) -> None:
    with pytest.raises(AddressError, match="outside of memory"):
        memory.read(physical, length)
    with pytest.raises(AddressError, match="outside of memory"):
        memory.release(physical, length)
    if 0 <= length < 100:
        with pytest.raises(AddressError, match="outside of memory"):
            memory.write(physical, bytes(length))


def test_the_arrays_check_their_index(memory: VmMemory) -> None:
    with pytest.raises(IndexError):
        memory.u8[memory.size]
    with pytest.raises(IndexError):
        memory.u64[-1]


def test_no_fork_no_dump_and_nothing_reserved(memory: VmMemory) -> None:
    block = mapping_of(memory.address)
    flags = block.rsplit("VmFlags:", 1)[1].split()
    assert {"dc", "dd"} <= set(flags), "MADV_DONTFORK and MADV_DONTDUMP"
    assert "nr" in flags, "MAP_NORESERVE"
    resident = re.search(r"Rss:\s+(\d+) kB", block)
    assert resident is not None
    assert int(resident[1]) < 1024


def test_a_child_does_not_have_it(memory: VmMemory) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(1 if mapping_of(memory.address) else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_released_pages_read_as_zero(memory: VmMemory) -> None:
    memory.write(0x5FFF, b"abc")
    memory.release(0x6000, 0x1000)
    assert memory.read(0x5FFF, 3) == b"a\0\0"
    with pytest.raises(AddressError, match="whole pages"):
        memory.release(0x6001, 0x1000)
    with pytest.raises(AddressError, match="whole pages"):
        memory.release(0x6000, 0xFFF)


def test_close_unmaps_and_may_be_repeated() -> None:
    memory = VmMemory()
    address = memory.address
    assert mapping_of(address)
    memory.close()
    memory.close()
    assert memory.closed
    assert not mapping_of(address)
    with pytest.raises(AddressError, match="closed"):
        memory.read(0, 1)


def test_an_impossible_size_says_what_to_do() -> None:
    with pytest.raises(KvmhostError) as caught:
        VmMemory(1 << 60)
    assert "ulimit" in caught.value.next_step


def test_errors_say_what_why_and_what_next() -> None:
    assert str(GuestBroke("it jumped", "stay")) == "it jumped. Next: stay"
    assert str(KvmhostError("it broke", cause="wear")) == "it broke: wear"
    assert GuestBroke("it jumped", "stay").reason == "it jumped"
    assert GuestBroke("it jumped", "stay").advice == "stay"
