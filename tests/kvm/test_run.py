"""A vCPU runs and comes back: port and memory exits and their answers, HLT, shutdown, signals, immediate
exit.
"""

import signal

import pytest
from kvm.guest import CODE, NO_MEMORY, MakeGuest

from kvmhost.kvm import (
    Cap,
    ExitHlt,
    ExitInternalError,
    ExitInterrupted,
    ExitIo,
    ExitMmio,
    ExitRdmsr,
    ExitShutdown,
    ExitWrmsr,
)

pytestmark = pytest.mark.lab

OUT_AL = "b0 68 e6 e9"  # mov al, 'h'; out 0xe9, al
HLT = "f4"
SPIN = "eb fe"  # jmp $


def test_out_reports_port_size_and_data(make_guest: MakeGuest) -> None:
    vcpu = make_guest(OUT_AL + HLT).vcpu
    assert vcpu.run() == ExitIo(port=0xE9, is_write=True, size=1, count=1, data=b"h")
    assert vcpu.run() == ExitHlt()


def test_rip_points_at_out_until_it_is_completed(make_guest: MakeGuest) -> None:
    vcpu = make_guest(OUT_AL + HLT).vcpu
    vcpu.run()
    before = vcpu.regs().rip
    vcpu.complete()
    assert (before - CODE, vcpu.regs().rip - CODE) == (2, 4)
    assert vcpu.immediate_exit is False


def test_string_output_comes_in_one_exit(make_guest: MakeGuest) -> None:
    # mov esi, 0x8000; mov ecx, 5; mov dx, 0xe9; rep outsb; hlt
    guest = make_guest("be 00 80 00 00 b9 05 00 00 00 66 ba e9 00 f3 6e f4")
    guest.write(0x8000, b"hello")
    said = b""
    while isinstance(stop := guest.vcpu.run(), ExitIo):
        said += stop.data
        assert len(stop.data) == stop.size * stop.count
    assert (said, stop) == (b"hello", ExitHlt())


def test_in_gets_its_answer(make_guest: MakeGuest) -> None:
    vcpu = make_guest("e5 60 f4").vcpu  # in eax, 0x60; hlt
    stop = vcpu.run()
    assert isinstance(stop, ExitIo) and not stop.is_write and stop.size == 4
    with pytest.raises(ValueError, match="asked for 4 bytes, not 1"):
        vcpu.answer(b"x")
    vcpu.answer(b"\x78\x56\x34\x12")
    assert vcpu.run() == ExitHlt()
    assert vcpu.regs().rax == 0x12345678


def test_mmio_write_and_read(make_guest: MakeGuest) -> None:
    # mov [0x200004], eax; mov ebx, [0x200008]; hlt
    vcpu = make_guest("a3 04 00 20 00 8b 1d 08 00 20 00 f4").vcpu
    assert vcpu.run() == ExitMmio(NO_MEMORY + 4, is_write=True, length=4, data=bytes(4))
    stop = vcpu.run()
    assert isinstance(stop, ExitMmio) and not stop.is_write and stop.address == NO_MEMORY + 8
    vcpu.answer(b"\1\2\3\4")
    assert vcpu.run() == ExitHlt()
    assert vcpu.regs().rbx == 0x04030201


def test_an_answer_nobody_asked_for_is_refused(make_guest: MakeGuest) -> None:
    vcpu = make_guest(OUT_AL + HLT).vcpu
    vcpu.run()
    with pytest.raises(ValueError, match="asked for no bytes"):
        vcpu.answer(b"x")


def test_a_triple_fault_is_a_shutdown(make_guest: MakeGuest) -> None:
    assert make_guest("0f 0b").vcpu.run() == ExitShutdown()  # ud2, with no IDT


def test_immediate_exit_runs_no_instruction(make_guest: MakeGuest) -> None:
    vcpu = make_guest("40 f4").vcpu  # inc eax; hlt
    vcpu.immediate_exit = True
    assert vcpu.run() == ExitInterrupted()
    assert (vcpu.regs().rip, vcpu.regs().rax) == (CODE, 0)
    vcpu.immediate_exit = False
    assert vcpu.run() == ExitHlt()
    assert vcpu.regs().rax == 1


def test_a_signal_blocked_in_the_thread_and_not_in_the_guest_ends_the_run(make_guest: MakeGuest) -> None:
    vcpu = make_guest(SPIN).vcpu
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        vcpu.set_signal_mask(before - {signal.SIGUSR1})
        signal.raise_signal(signal.SIGUSR1)
        assert vcpu.run() == ExitInterrupted()
        assert signal.sigtimedwait({signal.SIGUSR1}, 0) is not None
        vcpu.set_signal_mask(None)
        vcpu.immediate_exit = True
        assert vcpu.run() == ExitInterrupted()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_msr_exits_are_answered(make_guest: MakeGuest) -> None:
    # mov ecx, 0x1234; rdmsr; wrmsr; hlt
    guest = make_guest("b9 34 12 00 00 0f 32 0f 30 f4", handlers={13: "f4"})
    guest.vm.enable_cap(Cap.X86_USER_SPACE_MSR, 2)  # KVM_MSR_EXIT_REASON_UNKNOWN
    stop = guest.vcpu.run()
    assert isinstance(stop, ExitRdmsr) and stop.index == 0x1234
    guest.vcpu.answer_msr(0x11_2222_3333)
    stop = guest.vcpu.run()
    assert isinstance(stop, ExitWrmsr) and (stop.index, stop.data) == (0x1234, 0x11_2222_3333)
    guest.vcpu.answer_msr(fault=True)
    assert guest.vcpu.run() == ExitHlt()
    assert guest.vcpu.regs().rip > CODE + 0x100, "the #GP handler did not run"


def test_an_emulation_failure_names_its_instruction(make_guest: MakeGuest) -> None:
    guest = make_guest("df 25 00 00 20 00 f4")  # fbld [0x200000]: MMIO by an instruction KVM does not emulate
    guest.vm.enable_cap(Cap.EXIT_ON_EMULATION_FAILURE, 1)
    stop = guest.vcpu.run()
    assert isinstance(stop, ExitInternalError) and stop.suberror == 1
    assert stop.instruction.startswith(bytes.fromhex("df 25 00 00 20 00"))
    assert "df 25" in stop.explanation.cause
