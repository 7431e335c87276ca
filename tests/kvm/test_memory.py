"""Memory slots: what the guest writes arrives, is logged, is refused by read-only slots, and goes away with
the slot.
"""

import gc
import mmap
import re
from pathlib import Path

import pytest
from kvm.guest import MEMORY, NO_MEMORY, MakeGuest, descriptors, slot_bytes

from kvmhost.kvm import ClosedError, ExitHlt, ExitMmio, KvmError, MemoryLayoutError, Vm
from kvmhost.kvm.memory import check_layout

PAGE = 4096
WRITE_THEN_HALT = "c7 05 00 00 20 00 78 56 34 12 f4"  # mov dword [0x200000], 0x12345678; hlt
READ_THEN_HALT = "a1 00 00 20 00 f4"  # mov eax, [0x200000]; hlt


@pytest.mark.lab
def test_the_guest_writes_into_the_slots_memory(make_guest: MakeGuest) -> None:
    guest = make_guest(WRITE_THEN_HALT)
    slot = guest.vm.add_memory(NO_MEMORY, PAGE)
    assert guest.vcpu.run() == ExitHlt()
    assert bytes(slot.view[0:4]) == b"\x78\x56\x34\x12"


@pytest.mark.lab
def test_a_write_to_a_read_only_slot_is_mmio_and_changes_nothing(make_guest: MakeGuest) -> None:
    guest = make_guest(WRITE_THEN_HALT)
    slot = guest.vm.add_memory(NO_MEMORY, PAGE, readonly=True)
    assert guest.vcpu.run() == ExitMmio(NO_MEMORY, is_write=True, length=4, data=b"\x78\x56\x34\x12")
    assert guest.vcpu.run() == ExitHlt()
    assert bytes(slot.view[0:4]) == bytes(4)


@pytest.mark.lab
def test_a_read_only_slot_is_read_without_an_exit(make_guest: MakeGuest) -> None:
    guest = make_guest(READ_THEN_HALT)
    slot = guest.vm.add_memory(NO_MEMORY, PAGE, readonly=True)
    slot.view[0:4] = b"\1\2\3\4"
    assert guest.vcpu.run() == ExitHlt()
    assert guest.vcpu.regs().rax == 0x04030201


@pytest.mark.lab
def test_the_dirty_log_names_the_pages_written_since_the_last_look(make_guest: MakeGuest) -> None:
    # mov [0x203000], eax; mov eax, [0x204000]; mov [0x205ffc], eax; hlt; mov [0x241000], eax; hlt
    guest = make_guest("a3 00 30 20 00 a1 00 40 20 00 a3 fc 5f 20 00 f4 a3 00 10 24 00 f4")
    slot = guest.vm.add_memory(NO_MEMORY, 0x80 * PAGE, log_dirty=True)
    assert slot.dirty() == ()
    assert guest.vcpu.run() == ExitHlt()
    assert slot.dirty() == (3, 5)
    assert slot.dirty() == ()
    assert guest.vcpu.run() == ExitHlt()
    assert slot.dirty() == (0x41,)


@pytest.mark.lab
def test_logging_can_start_and_stop(make_guest: MakeGuest) -> None:
    guest = make_guest(
        "a3 00 00 20 00 f4 a3 00 10 20 00 f4"
    )  # mov [0x200000], eax; hlt; mov [0x201000], eax; hlt
    slot = guest.vm.add_memory(NO_MEMORY, 2 * PAGE)
    guest.vcpu.run()
    with pytest.raises(KvmError):
        slot.dirty()
    slot.set_log_dirty(True)
    guest.vcpu.run()
    assert slot.dirty() == (1,)


@pytest.mark.lab
def test_a_removed_slot_is_a_hole(make_guest: MakeGuest) -> None:
    guest = make_guest(READ_THEN_HALT)
    with guest.vm.add_memory(NO_MEMORY, PAGE) as slot:
        assert slot in guest.vm.slots
    assert slot not in guest.vm.slots
    stop = guest.vcpu.run()
    assert isinstance(stop, ExitMmio) and stop.address == NO_MEMORY
    slot.remove()
    for use in (lambda: slot.address, lambda: slot.view, slot.dirty, lambda: slot.set_log_dirty(True)):
        with pytest.raises(ClosedError):
            use()


@pytest.mark.lab
def test_numbers_of_removed_slots_are_used_again(vm: Vm) -> None:
    first, second = vm.add_memory(0, PAGE), vm.add_memory(PAGE, PAGE)
    first.remove()
    third = vm.add_memory(0, PAGE)
    assert (first.number, second.number, third.number) == (0, 1, 0)


@pytest.mark.lab
def test_a_slot_keeps_what_it_was_given(make_guest: MakeGuest) -> None:
    guest = make_guest(READ_THEN_HALT)
    memory = mmap.mmap(-1, PAGE)
    memory[0:4] = b"\1\2\3\4"
    guest.vm.add_memory(NO_MEMORY, PAGE, memory)
    del memory
    gc.collect()
    assert guest.vcpu.run() == ExitHlt()
    assert guest.vcpu.regs().rax == 0x04030201


@pytest.mark.lab
def test_a_view_outlives_its_slot_without_a_crash(vm: Vm) -> None:
    slot = vm.add_memory(0, PAGE)
    view = slot.view
    view[0:2] = b"hi"
    slot.remove()
    assert bytes(view[0:2]) == b"hi"


@pytest.mark.lab
def test_owned_memory_is_not_copied_by_fork(vm: Vm) -> None:
    address = vm.add_memory(0, 16 * PAGE).address
    smaps = Path("/proc/self/smaps").read_text()
    flags = re.search(rf"^{address:x}-.*?^VmFlags: (.*?)$", smaps, re.M | re.S)
    assert flags and "dc" in flags[1].split()


@pytest.mark.lab
def test_a_given_buffer_must_be_large_enough(vm: Vm) -> None:
    with pytest.raises(MemoryLayoutError, match="the buffer has 0x1000 bytes, the slot 0x2000"):
        vm.add_memory(0, 2 * PAGE, mmap.mmap(-1, PAGE))
    assert vm.slots == ()


@pytest.mark.lab
def test_given_memory_has_no_view(vm: Vm) -> None:
    slot = vm.add_memory(0, PAGE, mmap.mmap(-1, PAGE))
    with pytest.raises(KvmError, match="was given its memory"):
        _ = slot.view


@pytest.mark.lab
@pytest.mark.parametrize(
    ("gpa", "size", "match"),
    [
        (0x800, PAGE, "guest-physical address 0x800 is no multiple"),
        (0, PAGE + 1, "size 0x1001 is no multiple"),
        (0, 0, "no bytes"),
        (0, -PAGE, "no bytes"),
        (-PAGE, PAGE, "leave the guest-physical space"),
        ((1 << 52) - PAGE, 2 * PAGE, "leave the guest-physical space"),
        (MEMORY - PAGE, 2 * PAGE, "overlaps slot 0"),
        (0, PAGE, "overlaps slot 0"),
        (0x1000, PAGE, "overlaps slot 0"),
    ],
)
def test_impossible_slots_are_refused_and_leave_nothing(vm: Vm, gpa: int, size: int, match: str) -> None:
    first = vm.add_memory(0, MEMORY)
    before = descriptors(), slot_bytes()
    with pytest.raises(MemoryLayoutError, match=match) as caught:
        vm.add_memory(gpa, size)
    assert caught.value.next_step
    assert vm.slots == (first,)
    assert before == (descriptors(), slot_bytes())


def test_an_unaligned_host_address_is_refused() -> None:
    with pytest.raises(MemoryLayoutError, match="host address 0x7f0000000010 is no multiple"):
        check_layout(0, PAGE, 0x7F00_0000_0010, ())
