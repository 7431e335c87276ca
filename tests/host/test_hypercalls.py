"""Every hypercall of every generation: what it does, and that bad arguments end one Guest with a sentence."""

import struct
from typing import Any

import pytest
from host.native_guest import ABIS, BY_NAME, MEMORY, RAM_AT, Guest, call, fill_data, started

from kvmhost._native import lib
from kvmhost.host import hypercalls
from kvmhost.host.abi import Abi
from kvmhost.host.errors import GuestBroke, HookError
from kvmhost.host.memory import VmMemory
from kvmhost.host.outcome import OutcomeKind
from kvmhost.host.segments import fix_descriptor

every_generation = pytest.mark.parametrize("abi", ABIS, ids=lambda abi: abi.name)
BAD = (0, 1, 7, 31, 32, 255, 256, 512, 1023, 1024, MEMORY - 4, MEMORY, 0x7FFFFFFF, 0x80000000)
WORST = (*BAD, 0xFFBFFFFF, 0xFFC00000, 0xFFFFF000, 0xFFFFFFFC, 0xFFFFFFFF)


@every_generation
def test_numbers_of_other_generations_are_unknown(memory: VmMemory, abi: Abi) -> None:
    guest = started(memory, abi)
    for number in [*(set(range(25)) - abi.calls), 0x7FFFFFFF, 0xFFFFFFFF]:
        with pytest.raises(GuestBroke, match=f"unknown hypercall {number}") as broke:
            call(guest, number, 1, 2, 3, 4)
        assert abi.releases in broke.value.advice


@every_generation
@pytest.mark.parametrize("number", range(20))
def test_bad_arguments_are_a_sentence_and_never_an_exception(memory: VmMemory, abi: Abi, number: int) -> None:
    """All arguments of one value, and each alone beside zeros."""
    guest = started(memory, abi)
    for worst in WORST:
        for args in ((worst,) * 4, *(tuple(worst * (at == one) for at in range(4)) for one in range(4))):
            try:
                call(guest, number, *args)
            except GuestBroke as broke:
                assert broke.reason, args
            guest.outcome = None
            guest.state.halted = 0
    assert guest.tables.audit() == []


@every_generation
def test_arguments_come_from_the_generations_registers(memory: VmMemory, abi: Abi) -> None:
    guest = started(memory, abi)
    call(guest, lib.LHCALL_SET_STACK, 0x69, 0x9000, 0)
    assert (guest.state.ss1, guest.state.esp1, guest.state.stack_pages) == (0x69, 0x9000, 0)


def queue(guest: Guest, slot: int, number: int, *args: int) -> None:
    """One entry of the ring, written as a kernel of its generation does (abi 8.1)."""
    assert guest.data is not None
    release = guest.abi.first
    words = (number, args[1], args[2], args[0]) if release < (2, 6, 30) else (number, *args)
    size, ring_at = (16, 84) if release < (2, 6, 31) else (20, 88)
    ring_at += guest.data.address
    guest.ram.write(ring_at + slot * size, struct.pack(f"<{size // 4}I", *words[: size // 4]))
    guest.data.words.hcall_status[slot] = 0


@every_generation
def test_the_ring(memory: VmMemory, abi: Abi) -> None:
    guest = started(memory, abi)
    assert guest.data is not None
    guest.state.next_hypercall = 62
    for offset in range(3):
        queue(guest, (62 + offset) % 64, 7, 0x69, 0x1000 * offset, offset, 0)
    found = hypercalls.ring_calls(guest)
    assert [slot for slot, _ in found] == [62, 63, 0]
    assert [(c.number, c.args, c.from_ring) for _, c in found] == [
        (7, (0x69, 0x1000 * offset, offset, 0), True) for offset in range(3)
    ]
    for slot, _ in found:
        hypercalls.free_slot(guest, slot)
    assert bytes(guest.data.words.hcall_status) == b"\xff" * 64
    assert guest.state.next_hypercall == 1
    assert hypercalls.ring_calls(guest) == []


@every_generation
def test_a_full_ring_is_one_lap(memory: VmMemory, abi: Abi) -> None:
    guest = started(memory, abi)
    for slot in range(64):
        queue(guest, slot, 0, 0, 0, 0, 0)
    assert len(hypercalls.ring_calls(guest)) == 64


def says(guest: Guest, text: bytes) -> int:
    guest.ram.write(0x5000, text + b"\0")
    return 0x5000


@every_generation
@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b"Power down", OutcomeKind.POWERED_OFF),
        (b"Power down.", OutcomeKind.POWERED_OFF),
        (b"Attempted to kill init!", OutcomeKind.CRASHED),
        (b"", OutcomeKind.CRASHED),
    ],
)
def test_the_last_words(memory: VmMemory, abi: Abi, text: bytes, kind: OutcomeKind) -> None:
    guest = started(memory, abi)
    call(guest, lib.LHCALL_SHUTDOWN, says(guest, text), lib.LGUEST_SHUTDOWN_POWEROFF)
    assert guest.outcome is not None
    assert (guest.outcome.kind, guest.outcome.reason) == (kind, text.decode())


def test_a_panic_that_ends_its_line_is_told_without(memory: VmMemory) -> None:
    guest = started(memory, ABIS[-1])
    text = says(guest, b"Attempted to kill init! exitcode=0x00000300\n")
    call(guest, lib.LHCALL_SHUTDOWN, text, lib.LGUEST_SHUTDOWN_POWEROFF)
    assert guest.outcome is not None
    assert guest.outcome.reason == "Attempted to kill init! exitcode=0x00000300"


@every_generation
def test_restart_wins_over_a_bad_text(memory: VmMemory, abi: Abi) -> None:
    guest = started(memory, abi)
    if abi.shutdown_reason:
        call(guest, lib.LHCALL_SHUTDOWN, 0x40000000, lib.LGUEST_SHUTDOWN_RESTART)
        assert guest.outcome is not None and guest.outcome.kind is OutcomeKind.RESTARTED
    else:
        with pytest.raises(GuestBroke, match="outside of memory"):
            call(guest, lib.LHCALL_SHUTDOWN, 0x40000000, lib.LGUEST_SHUTDOWN_RESTART)


@every_generation
def test_last_words_may_end_with_memory(memory: VmMemory, abi: Abi) -> None:
    guest = started(memory, abi)
    guest.ram.write(MEMORY - 4, b"oops")
    call(guest, lib.LHCALL_SHUTDOWN, MEMORY - 4, lib.LGUEST_SHUTDOWN_POWEROFF)
    assert guest.outcome is not None and guest.outcome.reason == "oops"


OLDEST = [abi for abi in ABIS if lib.LHCALL_LOAD_GDT in abi.calls]
CODE, DATA, GATE = (0xFFFF, 0x00CF9A00), (0xFFFF, 0x00CF92FF), (0x00601234, 0x0000EC00)


@pytest.mark.parametrize("abi", OLDEST, ids=lambda abi: abi.name)
def test_load_gdt_takes_the_whole_table(memory: VmMemory, abi: Abi) -> None:
    guest = started(memory, abi)
    entries = [CODE, DATA, GATE] + [DATA] * 29
    guest.ram.write(0x6000, b"".join(struct.pack("<II", *entry) for entry in entries))
    guest.state.changed = 0
    call(guest, lib.LHCALL_LOAD_GDT, 0x6000, 32)
    loaded = [(guest.state.gdt[2 * index], guest.state.gdt[2 * index + 1]) for index in range(32)]
    assert loaded == [fix_descriptor(*entry) for entry in entries]
    assert loaded[0] == (0xFFFF, 0x00CFBB00) and loaded[2] == (0, 0)
    assert guest.state.changed == lib.CHANGED_GDT
    with pytest.raises(GuestBroke, match="33 entries"):
        call(guest, lib.LHCALL_LOAD_GDT, 0x6000, 33)
    with pytest.raises(GuestBroke, match="outside of memory"):
        call(guest, lib.LHCALL_LOAD_GDT, MEMORY - 8, 32)


NOTIFYING = [abi for abi in ABIS if lib.LHCALL_NOTIFY in abi.calls]


@pytest.mark.parametrize("abi", NOTIFYING, ids=lambda abi: abi.name)
def test_a_result_goes_to_eax_but_not_from_the_ring(memory: VmMemory, abi: Abi) -> None:
    guest = started(memory, abi)
    heard: list[bytes] = []
    guest.console.append(heard.append)
    call(guest, lib.LHCALL_NOTIFY, says(guest, b"hello"))
    assert (guest.frame.eax, heard) == (5, [b"hello"])
    guest.frame.eax = 1234
    hypercalls.perform(guest, hypercalls.Hypercall(lib.LHCALL_NOTIFY, (0x5000, 0, 0, 0), True))
    assert (guest.frame.eax, heard) == (1234, [b"hello"] * 2)


@every_generation
def test_calls_without_a_result_leave_eax_alone(memory: VmMemory, abi: Abi) -> None:
    guest = started(memory, abi)
    for number in (lib.LHCALL_FLUSH_ASYNC, lib.LHCALL_TS, lib.LHCALL_HALT, lib.LHCALL_SET_CLOCKEVENT):
        call(guest, number, 0, 0, 0, 0)
        assert guest.frame.eax == number


class Kicked:
    """A bus with one device."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def notify(self, address: int) -> bool:
        self.seen.append(address)
        return True


def test_a_kick_for_a_device_is_no_text(memory: VmMemory) -> None:
    guest = started(memory, BY_NAME["3.1"])
    bus: Any = Kicked()
    guest.bus = bus
    call(guest, lib.LHCALL_NOTIFY, MEMORY)
    assert bus.seen == [MEMORY] and guest.frame.eax == lib.LHCALL_NOTIFY


def test_a_listener_that_raises_ends_the_guest_and_says_who(memory: VmMemory) -> None:
    guest = started(memory, BY_NAME["3.1"])

    def broken(text: bytes) -> None:
        raise ValueError(f"cannot bear {text!r}")

    guest.console.append(broken)
    with pytest.raises(HookError, match=r"listener on the console.*ValueError") as error:
        call(guest, lib.LHCALL_NOTIFY, says(guest, b"x"))
    assert "cannot bear b'x'" in str(error.value)
    assert guest.outcome is not None and guest.outcome.kind is OutcomeKind.KILLED


def test_output_that_is_full_is_said_as_it_is(memory: VmMemory) -> None:
    guest = started(memory, BY_NAME["3.1"])

    def full(text: bytes) -> None:
        raise OSError(28, "No space left on device")

    guest.console.append(full)
    with pytest.raises(OSError, match="No space left"):
        call(guest, lib.LHCALL_NOTIFY, says(guest, b"x"))


@pytest.mark.parametrize("abi", [abi for abi in ABIS if abi.first >= (2, 6, 31)], ids=lambda abi: abi.name)
def test_a_pae_entry_has_a_high_word(memory: VmMemory, abi: Abi) -> None:
    """A PAE Guest's frame number may not hide behind 4 GiB, and its NX bit reaches the shadow (abi 7.6)."""
    guest = started(memory, abi, pae=True)
    top, directory, table = 0x10000, 0x11000, 0x12000
    guest.ram.write(top + 24, struct.pack("<Q", directory | 1))
    guest.ram.write(directory, struct.pack("<Q", table | 0x67))
    guest.ram.write(table, struct.pack("<Q", 0x20000 | 0x63))
    call(guest, lib.LHCALL_NEW_PGTABLE, top)
    assert guest.state.pae == 1
    assert guest.tables.demand_page(PAE_LINEAR, 0)
    call(guest, lib.LHCALL_SET_PTE, top, PAE_LINEAR, 0x30063, 0x80000000)
    place = guest.tables.trees.last_entry(guest.state.current_root, PAE_LINEAR)
    assert place is not None
    assert memory.u64[place] == (1 << 63) | (RAM_AT + 0x30000) | 0x63
    with pytest.raises(GuestBroke, match="beyond"):
        call(guest, lib.LHCALL_SET_PTE, top, PAE_LINEAR, 0x30063, 1)


PAE_LINEAR = 0xC0000000


def test_fill_data_is_what_the_fact_sheet_says(memory: VmMemory) -> None:
    """The other tests trust the cdata of native/abi; here are a few offsets of abi 8.5 as plain numbers."""
    for name, kernel in (("2.6.24", 1128), ("2.6.31", 1388), ("3.1", 1384), ("4.1", 1380)):
        guest = started(memory, BY_NAME[name])
        fill_data(guest, BY_NAME[name])
        assert guest.ram.read(0x2000 + kernel, 8) == struct.pack("<II", 0xC0000000, 0x80)
