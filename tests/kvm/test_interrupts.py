"""Interrupts reach a guest by every way there is: NMI, KVM_INTERRUPT, MSI, irqfd; and ioeventfd is the way
back.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from kvm.guest import HANDLERS, NO_MEMORY, Guest, MakeGuest

from kvmhost.kvm import (
    ExitHlt,
    ExitIo,
    ExitIrqWindowOpen,
    InterruptEvent,
    KvmError,
    MpState,
    MsiRoute,
    NotReadyError,
    Shadow,
)

pytestmark = pytest.mark.lab

VECTOR = 0x41
SAY_1, SAY_2 = "b0 31 e6 e9", "b0 32 e6 e9"  # mov al, '1' (or '2'); out 0xe9, al
STI_AND_SPIN = "fb eb fe"  # sti; jmp $
LAPIC_SVR, LAPIC_ISR, LAPIC_ENABLED = 0xF0, 0x100, 0x100


@contextmanager
def eventfd() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


def enable_lapic(guest: Guest) -> None:
    registers = bytearray(guest.vcpu.lapic())
    (svr,) = struct.unpack_from("<I", registers, LAPIC_SVR)
    struct.pack_into("<I", registers, LAPIC_SVR, svr | LAPIC_ENABLED)
    guest.vcpu.set_lapic(bytes(registers))


def in_service(guest: Guest) -> set[int]:
    words = [struct.unpack_from("<I", guest.vcpu.lapic(), LAPIC_ISR + 16 * place)[0] for place in range(8)]
    return {32 * place + bit for place, word in enumerate(words) for bit in range(32) if word >> bit & 1}


def test_an_nmi_reaches_vector_2(make_guest: MakeGuest) -> None:
    guest = make_guest("eb fe", handlers={2: SAY_1 + "f4"})
    guest.vcpu.nmi()
    stop = guest.vcpu.run()
    assert isinstance(stop, ExitIo) and stop.data == b"1"
    assert guest.vcpu.events().nmi.masked
    assert guest.vcpu.run() == ExitHlt()


def test_a_second_nmi_waits_for_iret(make_guest: MakeGuest) -> None:
    guest = make_guest(SAY_2 + "f4", handlers={2: SAY_1 + "cf"})  # ... iret
    guest.vcpu.nmi()
    said = b""
    while isinstance(stop := guest.vcpu.run(), ExitIo):
        if not said:
            guest.vcpu.nmi()
        said += stop.data
    assert said == b"112"


def test_kvm_interrupt_is_refused_until_the_window_opens(make_guest: MakeGuest) -> None:
    guest = make_guest(SAY_2 + STI_AND_SPIN, handlers={0x20: SAY_1 + "f4"})
    vcpu = guest.vcpu
    assert isinstance(vcpu.run(), ExitIo)
    with pytest.raises(NotReadyError, match="IF=0"):
        vcpu.interrupt(0x20)
    vcpu.request_interrupt_window()
    assert vcpu.run() == ExitIrqWindowOpen()
    assert vcpu.ready_for_interrupt
    vcpu.request_interrupt_window(False)
    vcpu.interrupt(0x20)
    assert vcpu.events().interrupt.vector == 0x20
    stop = vcpu.run()
    assert isinstance(stop, ExitIo) and stop.data == b"1"


def test_kvm_takes_a_forced_interrupt_whatever_if_says(make_guest: MakeGuest) -> None:
    """The negative control of the refusal above: KVM itself would have queued it."""
    vcpu = make_guest("eb fe", handlers={0x20: SAY_1 + "f4"}).vcpu
    vcpu.interrupt(0x20, force=True)
    assert vcpu.events().interrupt.injected


def test_an_irqfd_sends_its_msi(make_guest: MakeGuest) -> None:
    guest = make_guest(STI_AND_SPIN, handlers={VECTOR: SAY_1 + "f4"}, irqchip=True)
    enable_lapic(guest)
    guest.vm.set_routes([MsiRoute(gsi=5, address=0xFEE0_0000, data=VECTOR)])
    with eventfd() as bell:
        guest.vm.irqfd(bell, 5)
        os.eventfd_write(bell, 1)
        stop = guest.vcpu.run()
        assert isinstance(stop, ExitIo) and stop.data == b"1"
        assert in_service(guest) == {VECTOR}
        guest.vm.irqfd(bell, 5, deassign=True)


def test_a_deassigned_irqfd_is_silent(make_guest: MakeGuest) -> None:
    # The guest opens its interrupt window for one instruction, then says 2.
    guest = make_guest("fb 90 fa" + SAY_2, handlers={VECTOR: SAY_1 + "f4"}, irqchip=True)
    enable_lapic(guest)
    guest.vm.set_routes([MsiRoute(gsi=5, address=0xFEE0_0000, data=VECTOR)])
    with eventfd() as bell:
        guest.vm.irqfd(bell, 5)
        guest.vm.irqfd(bell, 5, deassign=True)
        os.eventfd_write(bell, 1)
        stop = guest.vcpu.run()
    assert isinstance(stop, ExitIo) and stop.data == b"2"


def test_signal_msi_tells_whether_it_was_taken(make_guest: MakeGuest) -> None:
    guest = make_guest(STI_AND_SPIN, handlers={VECTOR: SAY_1 + "f4"}, irqchip=True)
    assert guest.vm.signal_msi(0xFEE0_0000, VECTOR) is False
    enable_lapic(guest)
    assert guest.vm.signal_msi(0xFEE0_0000, VECTOR) is True
    stop = guest.vcpu.run()
    assert isinstance(stop, ExitIo) and stop.data == b"1"


def test_the_irqchip_owns_injection_and_halt(make_guest: MakeGuest) -> None:
    guest = make_guest("f4", irqchip=True)
    with pytest.raises(KvmError, match="in-kernel interrupt controller"):
        guest.vcpu.interrupt(0x20, force=True)
    guest.vcpu.set_mp_state(MpState.HALTED)
    assert guest.vcpu.mp_state() is MpState.HALTED


def test_an_ioeventfd_rings_without_an_exit(make_guest: MakeGuest) -> None:
    # out 0xe9, al; out 0xe9, al; mov al, 7; out 0xe8, al; mov al, 8; out 0xe8, al; hlt
    guest = make_guest("e6 e9 e6 e9 b0 07 e6 e8 b0 08 e6 e8 f4")
    with eventfd() as bell, eventfd() as only_seven:
        guest.vm.ioeventfd(bell, 0xE9, 1, pio=True)
        guest.vm.ioeventfd(only_seven, 0xE8, 1, pio=True, match=7)
        assert guest.vcpu.run() == ExitIo(port=0xE8, is_write=True, size=1, count=1, data=b"\x08")
        assert (os.eventfd_read(bell), os.eventfd_read(only_seven)) == (2, 1)
        guest.vm.ioeventfd(bell, 0xE9, 1, pio=True, deassign=True)
        with pytest.raises(KvmError, match="no such eventfd"):
            guest.vm.ioeventfd(bell, 0xE9, 1, pio=True, deassign=True)


def test_an_ioeventfd_on_memory(make_guest: MakeGuest) -> None:
    guest = make_guest("a3 00 00 20 00 f4")  # mov [0x200000], eax; hlt
    with eventfd() as bell:
        guest.vm.ioeventfd(bell, NO_MEMORY, 4)
        assert guest.vcpu.run() == ExitHlt()
        assert os.eventfd_read(bell) == 1


def test_the_shadow_of_sti_survives_set_events(make_guest: MakeGuest) -> None:
    vcpu = make_guest("90 f4", rflags=0x202).vcpu
    events = vcpu.events()
    vcpu.set_events(replace(events, interrupt=replace(events.interrupt, shadow=Shadow.STI)))
    # An AMD CPU has one shadow for both, and KVM reports both then.
    assert vcpu.events().interrupt.shadow & Shadow.STI
    vcpu.set_events(replace(vcpu.events(), interrupt=InterruptEvent()))
    assert not vcpu.events().interrupt.shadow


def test_the_pit_ticks_into_the_guest(make_guest: MakeGuest) -> None:
    """The guest programs PIC and PIT and spins: only a tick of IRQ 0 can bring it to its handler."""
    guest = make_guest(
        # PIC: ICW1 to ICW4 (vectors from 0x20), all masked but IRQ 0
        # PIT: channel 0, mode 2, count 1193 (1 kHz)
        "b0 11 e6 20 b0 20 e6 21 b0 04 e6 21 b0 01 e6 21 b0 fe e6 21"
        "b0 34 e6 43 b0 a9 e6 40 b0 04 e6 40" + STI_AND_SPIN,
        handlers={0x20: SAY_1 + "f4"},
        irqchip=True,
    )
    guest.vm.create_pit()
    stop = guest.vcpu.run()
    assert isinstance(stop, ExitIo) and stop.data == b"1"
    assert guest.vm.pit().channels[0].count == 0x4A9
    assert HANDLERS + 0x2000 <= guest.vcpu.regs().rip < HANDLERS + 0x2100
