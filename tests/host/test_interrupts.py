"""Interrupts and reflected traps in every generation, on Guests that only lie in memory (abi 5.3, 5.4)."""

import struct

import pytest
from host.native_guest import ABIS, BY_NAME, call, native, started

from kvmhost._native import lib
from kvmhost.host import emulate
from kvmhost.host.abi import Abi
from kvmhost.host.errors import KvmhostError
from kvmhost.host.guest import Guest, GuestBroke
from kvmhost.host.interrupts import deliver, enter_handler
from kvmhost.host.memory import VmMemory
from kvmhost.host.outcome import OutcomeKind

every_generation = pytest.mark.parametrize("abi", ABIS, ids=lambda abi: abi.name)
IF = 0x200
EIP, ESP, HANDLER = 0x100000, 0x8000, 0x00123456
DEVICE = 3


def ready(memory: VmMemory, abi: Abi) -> Guest:
    """Interrupts on, nothing blocked, a gate for the clock and for one device."""
    guest = started(memory, abi)
    assert guest.data is not None
    guest.data.words.blocked_interrupts = 0
    guest.data.words.irq_enabled = IF
    guest.frame.eip, guest.frame.esp = EIP, ESP
    for vector in (lib.LGUEST_IRQ_BASE, lib.LGUEST_IRQ_BASE + DEVICE):
        call(
            guest,
            lib.LHCALL_LOAD_IDT_ENTRY,
            vector,
            0x00610000 | HANDLER & 0xFFFF,
            HANDLER & ~0xFFFF | 0x8E00,
        )
    return guest


def words(guest: Guest, address: int, count: int) -> tuple[int, ...]:
    return struct.unpack(f"<{count}I", guest.ram.read(address, 4 * count))


def pending_word(guest: Guest) -> int:
    """irq_pending as the Guest sees it: at 20, where it has one."""
    assert guest.data is not None
    return words(guest, guest.data.address + 20, 1)[0]


@every_generation
def test_a_frame_on_the_kernels_stack(memory: VmMemory, abi: Abi) -> None:
    guest = ready(memory, abi)
    assert guest.data is not None
    guest.data.words.time_sec = 0
    guest.post(DEVICE)
    assert deliver(guest) is False
    assert words(guest, ESP - 12, 3) == (EIP, 0x61, 0x202)
    assert (guest.frame.eip, guest.frame.cs, guest.frame.esp) == (HANDLER, 0x61, ESP - 12)
    assert guest.data.words.irq_enabled == 0
    assert guest.data.words.time_sec > 1_700_000_000
    assert guest.state.irqs_pending == 0


@every_generation
def test_off_means_told_where_the_guest_can_be_told_and_tried_again(memory: VmMemory, abi: Abi) -> None:
    guest = ready(memory, abi)
    assert guest.data is not None
    first_status = words(guest, guest.data.address + 20, 1)[0]
    guest.data.words.irq_enabled = 0x2  # what IRET leaves: not zero, and bit 9 clear
    guest.post(0)
    assert deliver(guest) is True
    assert (guest.frame.eip, guest.state.irqs_pending) == (EIP, 1)
    has_word = abi.first >= (2, 6, 31)
    assert pending_word(guest) == (IF if has_word else first_status)
    guest.data.words.irq_enabled = IF
    assert deliver(guest) is False
    assert guest.frame.eip == HANDLER
    assert pending_word(guest) == (0 if has_word else first_status)


@every_generation
def test_the_ring_of_the_oldest_is_never_taken_for_irq_pending(memory: VmMemory, abi: Abi) -> None:
    """Where newer structs have irq_pending, 2.6.24 has the first four states of its ring."""
    guest = ready(memory, abi)
    assert guest.data is not None
    guest.data.words.irq_enabled = 0
    guest.post(0)
    deliver(guest)
    assert bytes(guest.data.words.hcall_status) == b"\xff" * 64


@every_generation
def test_two_at_once_come_one_after_the_other(memory: VmMemory, abi: Abi) -> None:
    guest = ready(memory, abi)
    assert guest.data is not None
    guest.post(DEVICE)
    guest.post(0)
    assert deliver(guest) is True, "IRET does not ask for the second"
    assert guest.state.irqs_pending == 1 << DEVICE


@every_generation
def test_a_masked_one_is_tried_again_but_not_for_a_halted_guest(memory: VmMemory, abi: Abi) -> None:
    guest = ready(memory, abi)
    assert guest.data is not None
    guest.data.words.blocked_interrupts = 1 << DEVICE
    assert deliver(guest) is False, "nothing is pending: nothing is polled"
    guest.post(DEVICE)
    assert deliver(guest) is True
    guest.state.halted = 1
    assert deliver(guest) is False
    assert guest.state.halted == 1


@every_generation
def test_halt_ends_with_interrupts_on(memory: VmMemory, abi: Abi) -> None:
    guest = ready(memory, abi)
    assert guest.data is not None
    guest.data.words.irq_enabled = 0
    call(guest, lib.LHCALL_HALT)
    assert guest.state.halted == 1
    guest.post(0)
    deliver(guest)
    assert (guest.state.halted, guest.frame.eip) == (0, HANDLER)
    assert words(guest, ESP - 4, 1) == (0x202,), "the handler's IRET turns interrupts on"


@every_generation
def test_an_interrupt_without_a_gate_stays(memory: VmMemory, abi: Abi) -> None:
    guest = ready(memory, abi)
    assert guest.data is not None
    guest.data.words.time_sec = 0
    guest.post(9)
    assert deliver(guest) is False
    assert (guest.state.irqs_pending, guest.frame.eip) == (1 << 9, EIP)
    assert guest.data.words.time_sec != 0


@every_generation
def test_the_window_before_iret(memory: VmMemory, abi: Abi) -> None:
    """A range of addresses up to 4.0, one address since 4.1; nothing nests there, and it is tried again."""
    guest = ready(memory, abi)
    inside = (0xC1000010,) if abi.name == "4.1" else (0xC1000008, 0xC100000F)
    outside = (0xC100000F, 0xC1000011) if abi.name == "4.1" else (0xC1000007, 0xC1000010)
    guest.post(0)
    for eip in inside:
        guest.frame.eip = eip
        assert deliver(guest) is True
        assert guest.frame.eip == eip
    for eip in outside:
        guest.frame.eip, guest.frame.esp = eip, ESP
        guest.post(0)
        deliver(guest)
        assert guest.frame.eip == HANDLER
        assert guest.data is not None
        guest.data.words.irq_enabled = IF


def test_from_user_space_the_stack_is_the_kernels(memory: VmMemory) -> None:
    guest = ready(memory, BY_NAME["3.1"])
    call(guest, lib.LHCALL_SET_STACK, 0x69, 0x9000, 0)
    frame = guest.frame
    frame.cs, frame.ss, frame.esp, frame.eflags = 0x73, 0x7B, 0xBFFF0000, 0x10302
    assert enter_handler(guest, 32, 0x1234)
    assert words(guest, 0x9000 - 24, 6) == (0x1234, EIP, 0x73, 0x10302, 0xBFFF0000, 0x7B)
    assert (frame.cs, frame.ss, frame.esp) == (0x61, 0x69, 0x9000 - 24)
    assert frame.eflags == 0x202, "TF and RF are not the handler's"


@pytest.mark.parametrize("esp", [0x8001, 0x8002, 0x8007])
def test_a_misaligned_stack_is_called_that(memory: VmMemory, esp: int) -> None:
    guest = ready(memory, BY_NAME["3.1"])
    guest.frame.esp = esp
    with pytest.raises(GuestBroke, match="misaligned") as broke:
        enter_handler(guest, 32, None)
    assert "aligned" in broke.value.advice


def test_a_stack_that_is_not_there(memory: VmMemory) -> None:
    guest = ready(memory, BY_NAME["3.1"])
    for esp in (0, 0x40000000, 0xFFFFF000):
        guest.frame.esp = esp
        with pytest.raises(GuestBroke, match="cannot be written"):
            enter_handler(guest, 32, None)


@pytest.mark.parametrize("irq", [-1, 32, 1 << 40])
def test_interrupts_that_do_not_exist(memory: VmMemory, irq: int) -> None:
    with pytest.raises(KvmhostError, match="no virtual interrupt"):
        native(memory).post(irq)


def executes(guest: Guest, code: str, eax: int = 0, cs: int = 0x61) -> bool:
    guest.ram.write(EIP, bytes.fromhex(code))
    guest.frame.eip, guest.frame.cs, guest.frame.eax, guest.frame.edx = EIP, cs, eax, 0x64
    return emulate.emulate(guest)


@every_generation
def test_hlt_is_the_end(memory: VmMemory, abi: Abi) -> None:
    guest = native(memory, abi)
    assert executes(guest, "f4")
    assert guest.outcome is not None
    assert (guest.outcome.kind, guest.outcome.reason) == (OutcomeKind.POWERED_OFF, "halted without power-off")


@pytest.mark.parametrize("code", ["e664", "ee"])
def test_the_keyboard_controller_restarts_the_machine(memory: VmMemory, code: str) -> None:
    guest = native(memory, BY_NAME["2.6.24"])
    assert executes(guest, code, 0xFD)
    assert guest.outcome is None
    assert executes(guest, code, 0xFE)
    assert guest.outcome is not None and guest.outcome.kind is OutcomeKind.RESTARTED


@pytest.mark.parametrize("code", ["f4", "ee"])
def test_user_space_ends_nothing(memory: VmMemory, code: str) -> None:
    guest = native(memory)
    assert not executes(guest, code, 0xFE, cs=0x73)
    assert guest.outcome is None
