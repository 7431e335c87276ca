"""Every kind of vCPU state goes in and comes out again as it was, and wrong ones are refused in words."""

import errno
from collections.abc import Callable
from dataclasses import replace

import pytest
from kvm.guest import CODE, DIRECTORY, NO_MEMORY, PDPT, MakeGuest

from kvmhost.kvm import (
    Cap,
    CapabilityError,
    CpuidEntry,
    DebugRegs,
    EntryStateError,
    ExceptionEvent,
    ExitHlt,
    ExitInterrupted,
    Kvm,
    KvmError,
    MpState,
    MsrError,
    NmiEvent,
    Regs,
    Valid,
    Vm,
    cpuid,
    flat_sregs,
)

pytestmark = pytest.mark.lab

HLT = "f4"
SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP = 0x174, 0x175, 0x176
NO_SUCH_MSR = 0xDEAD


def test_regs(make_guest: MakeGuest) -> None:
    vcpu = make_guest(HLT).vcpu
    names = Regs.__dataclass_fields__
    wanted = replace(
        Regs(**{name: 0x1111 * place for place, name in enumerate(names)}), rip=CODE, rflags=0xAD7
    )
    vcpu.set_regs(wanted)
    assert vcpu.regs() == wanted


def test_sregs_come_back_as_they_were_set(make_guest: MakeGuest) -> None:
    vcpu = make_guest(HLT).vcpu
    sregs = vcpu.sregs()
    assert (sregs.cr0, sregs.cr3, sregs.cr4) == (flat_sregs().cr0, PDPT, flat_sregs().cr4)
    assert sregs.cs.selector == 8 and sregs.tr.type == 11
    vcpu.set_sregs(replace(sregs, cr2=0xABC000, idt=replace(sregs.idt, base=0x7000)))
    assert (vcpu.sregs().cr2, vcpu.sregs().idt.base) == (0xABC000, 0x7000)


def test_what_was_read_can_be_written_back_unchanged(make_guest: MakeGuest) -> None:
    """KVM-001 of the catalogue, between two instructions of a running guest."""
    vcpu = make_guest("e6 e9 e6 e9 f4").vcpu  # out 0xe9, al; out 0xe9, al; hlt
    vcpu.run()
    vcpu.complete()
    regs, sregs, events, debugregs = vcpu.regs(), vcpu.sregs(), vcpu.events(), vcpu.debugregs()
    vcpu.set_sregs(sregs, check=True)
    vcpu.set_regs(regs, check=True)
    vcpu.set_debugregs(debugregs)
    vcpu.set_events(events)
    assert (vcpu.regs(), vcpu.sregs()) == (regs, sregs)
    assert (vcpu.events(), vcpu.debugregs()) == (events, debugregs)


def test_an_interrupt_in_the_bitmap_comes_back(make_guest: MakeGuest) -> None:
    vcpu = make_guest(HLT).vcpu
    vcpu.set_sregs(replace(vcpu.sregs(), interrupt_bitmap=1 << 0x41))
    assert vcpu.sregs().interrupt_bitmap == 1 << 0x41
    assert vcpu.events().interrupt.vector == 0x41


def test_cr4_beyond_the_vcpus_cpuid_is_refused(vm: Vm) -> None:
    vcpu = vm.create_vcpu(0)
    with pytest.raises(KvmError, match="set_cpuid before set_sregs") as caught:
        vcpu.set_sregs(replace(vcpu.sregs(), cr4=1 << 20))
    assert caught.value.errno == errno.EINVAL


def test_sregs2_carry_the_pdptes(make_guest: MakeGuest) -> None:
    vcpu = make_guest(HLT).vcpu
    assert vcpu.run() == ExitHlt()
    sregs = vcpu.sregs2()
    assert sregs.pdptes is not None and sregs.pdptes[0] == DIRECTORY | 1
    vcpu.set_sregs2(replace(sregs, pdptes=(DIRECTORY | 1, DIRECTORY | 1, 0, 0)))
    again = vcpu.sregs2().pdptes
    assert again is not None and again[1] == DIRECTORY | 1


def test_a_state_no_cpu_would_enter_is_refused_before_it_is_set(make_guest: MakeGuest) -> None:
    vcpu = make_guest(HLT).vcpu
    before = vcpu.regs(), vcpu.sregs()
    bad = replace(before[1], tr=replace(before[1].tr, type=9))
    calls: list[Callable[[], None]] = [
        lambda: vcpu.set_state(before[0], bad),
        lambda: vcpu.set_sregs(bad, check=True),
        lambda: vcpu.set_regs(replace(before[0], rflags=0), check=True),
    ]
    for call in calls:
        with pytest.raises(EntryStateError):
            call()
    assert (vcpu.regs(), vcpu.sregs()) == before


def test_fpu(make_guest: MakeGuest) -> None:
    vcpu = make_guest(HLT).vcpu
    wanted = replace(
        vcpu.fpu(),
        fpr=tuple(bytes([place] * 10 + [0] * 6) for place in range(8)),
        xmm=tuple(bytes([0x80 + place] * 16) for place in range(16)),
        fcw=0x27F,
        fsw=0x4100,
        ftwx=0xFF,
        last_opcode=0x123,
        last_ip=0x1000,
        last_dp=0x2000,
    )
    vcpu.set_fpu(wanted)
    assert vcpu.fpu() == wanted


def test_xsave_holds_what_the_fpu_does(make_guest: MakeGuest) -> None:
    vcpu = make_guest(HLT).vcpu
    vcpu.set_fpu(replace(vcpu.fpu(), xmm=tuple(bytes([place] * 16) for place in range(16))))
    image = vcpu.xsave()
    assert image[24:28] == b"\x80\x1f\0\0"  # MXCSR
    assert image[160:176] == bytes(16) and image[176:192] == bytes([1] * 16)  # XMM0, XMM1 of FXSAVE's layout
    changed = bytearray(image)
    changed[176:192] = bytes([9] * 16)
    vcpu.set_xsave(bytes(changed))
    assert vcpu.fpu().xmm[1] == bytes([9] * 16)
    with pytest.raises(ValueError, match="has 5 bytes"):
        vcpu.set_xsave(b"short")


def test_xcrs_need_a_cpu_with_xsave(vm: Vm) -> None:
    vcpu = vm.create_vcpu(0)
    if vm.check_extension(Cap.XCRS):
        vcpu.set_xcrs({0: 1})
        assert vcpu.xcrs() == {0: 1}
    else:
        assert vcpu.xcrs() == {}
        with pytest.raises(CapabilityError, match="KVM_CAP_XCRS"):
            vcpu.set_xcrs({0: 1})


def test_msrs(make_guest: MakeGuest) -> None:
    vcpu = make_guest(HLT).vcpu
    wanted = {SYSENTER_CS: 0x60, SYSENTER_ESP: 0x1000, SYSENTER_EIP: 0x2000}
    vcpu.set_msrs(wanted)
    assert vcpu.msrs(wanted) == wanted
    assert vcpu.msrs([]) == {}


def test_a_short_count_names_the_msr(make_guest: MakeGuest) -> None:
    vcpu = make_guest(HLT).vcpu
    with pytest.raises(MsrError, match="0xdead, entry 1") as caught:
        vcpu.set_msrs({SYSENTER_CS: 8, NO_SUCH_MSR: 0, SYSENTER_ESP: 5})
    assert (caught.value.msr, caught.value.done) == (NO_SUCH_MSR, 1)
    assert vcpu.msrs([SYSENTER_CS, SYSENTER_ESP]) == {SYSENTER_CS: 8, SYSENTER_ESP: 0}
    with pytest.raises(MsrError, match="KVM_GET_MSRS"):
        vcpu.msrs([NO_SUCH_MSR])


def test_cpuid_comes_back(vm: Vm) -> None:
    vcpu = vm.create_vcpu(0)
    wanted = (
        CpuidEntry(0, eax=1, ebx=0x11, ecx=0x22, edx=0x33),
        CpuidEntry(1, eax=0x600, edx=1 << 6),
        CpuidEntry(4, index=1, flags=1, eax=5),
    )
    vcpu.set_cpuid(wanted)
    assert [(one.function, one.index) for one in vcpu.cpuid()] == [(0, 0), (1, 0), (4, 1)]
    assert vcpu.cpuid()[0] == wanted[0]


def test_a_small_first_guess_is_enlarged(kvm: Kvm, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [one.function for one in kvm.supported_cpuid()]
    monkeypatch.setattr(cpuid, "_FIRST_GUESS", 1)
    assert [one.function for one in kvm.supported_cpuid()] == whole
    assert len(whole) > 4


def test_debugregs(make_guest: MakeGuest) -> None:
    vcpu = make_guest(HLT).vcpu
    wanted = DebugRegs(db=(0x1000, 0x2000, 0x3000, 0x4000), dr6=0xFFFF0FF1, dr7=0x402)
    vcpu.set_debugregs(wanted)
    assert vcpu.debugregs() == wanted


def test_events(make_guest: MakeGuest) -> None:
    vcpu = make_guest(HLT).vcpu
    events = vcpu.events()
    assert Valid.NMI_PENDING in events.valid and Valid.SHADOW in events.valid
    wanted = replace(
        events,
        exception=ExceptionEvent(injected=True, vector=13, has_error_code=True, error_code=0x18),
        nmi=NmiEvent(pending=1, masked=True),
    )
    vcpu.set_events(wanted)
    back = vcpu.events()
    assert (back.exception.vector, back.exception.error_code, back.exception.has_error_code) == (
        13,
        0x18,
        True,
    )
    assert back.nmi == wanted.nmi
    with pytest.raises(KvmError, match="an exception above 31"):
        vcpu.set_events(replace(events, exception=ExceptionEvent(injected=True, vector=32)))


def test_without_its_flag_the_nmi_count_does_not_count(make_guest: MakeGuest) -> None:
    vcpu = make_guest(HLT).vcpu
    vcpu.set_events(replace(vcpu.events(), nmi=NmiEvent(pending=1), valid=Valid.SHADOW))
    assert vcpu.events().nmi.pending == 0


def test_mp_state_needs_the_lapic(make_guest: MakeGuest) -> None:
    vcpu = make_guest(HLT).vcpu
    assert vcpu.mp_state() is MpState.RUNNABLE
    with pytest.raises(KvmError, match="without an in-kernel LAPIC"):
        vcpu.set_mp_state(MpState.INIT_RECEIVED)


def test_the_second_vcpu_waits_to_be_started(vm: Vm) -> None:
    vm.create_irqchip()
    vm.create_vcpu(0)
    second = vm.create_vcpu(1)
    assert second.mp_state() is MpState.UNINITIALIZED
    second.set_mp_state(MpState.RUNNABLE)
    assert second.mp_state() is MpState.RUNNABLE


def test_translate_walks_the_guests_tables(make_guest: MakeGuest) -> None:
    guest = make_guest(HLT)
    guest.vm.add_memory(NO_MEMORY, 0x1000)
    guest.write(DIRECTORY + 8, (0x87).to_bytes(8, "little"))  # linear 2 MiB leads to physical 0 now
    assert guest.vcpu.translate(CODE).physical == CODE
    assert guest.vcpu.translate(0x20_0123).physical == 0x123
    assert guest.vcpu.translate(0x40_0000).physical is None


def test_lapic_of_a_wrong_size(make_guest: MakeGuest) -> None:
    vcpu = make_guest(HLT, irqchip=True).vcpu
    with pytest.raises(ValueError, match="1024 bytes, not 3"):
        vcpu.set_lapic(b"abc")


def test_synchronised_registers_equal_the_ioctls(make_guest: MakeGuest) -> None:
    vcpu = make_guest("40 f4").vcpu  # inc eax; hlt
    synced = vcpu.sync(regs=True, sregs=True, events=True)
    assert vcpu.run() == ExitHlt()
    assert (synced.regs(), synced.sregs(), synced.events()) == (vcpu.regs(), vcpu.sregs(), vcpu.events())
    assert synced.regs().rax == 1


def test_synchronised_registers_take_effect_at_the_next_run(make_guest: MakeGuest) -> None:
    vcpu = make_guest("40 f4").vcpu  # inc eax; hlt
    synced = vcpu.sync(regs=True, sregs=True, events=True)
    synced.set_regs(replace(vcpu.regs(), rax=41))
    synced.set_sregs(replace(vcpu.sregs(), cr2=0x5000))
    synced.set_events(replace(vcpu.events(), nmi=NmiEvent(masked=True)))
    assert vcpu.run() == ExitHlt()
    assert (vcpu.regs().rax, vcpu.sregs().cr2, vcpu.events().nmi.masked) == (42, 0x5000, True)
    assert vcpu.run_page.kvm_dirty_regs == 0


def test_unknown_classes_of_synchronised_registers_are_refused(make_guest: MakeGuest) -> None:
    vcpu = make_guest(HLT).vcpu
    vcpu.run_page.kvm_valid_regs = 1 << 40
    with pytest.raises(KvmError, match="valid_regs and dirty_regs"):
        vcpu.run()


def test_the_special_addresses_come_before_the_first_vcpu(vm: Vm) -> None:
    vm.set_identity_map_addr(0xFFFB_C000)
    vm.set_tss_addr(0xFFFB_D000)
    with pytest.raises(KvmError, match="do not fit below 4 GiB"):
        vm.set_tss_addr(0xFFFF_F000)
    vm.create_vcpu(0)
    with pytest.raises(KvmError, match="before the first vCPU"):
        vm.set_identity_map_addr(0xFFFB_C000)


def test_cpuid_after_the_first_run_is_refused_or_taken_unchanged(make_guest: MakeGuest) -> None:
    vcpu = make_guest(HLT).vcpu
    assert vcpu.run() == ExitHlt()
    with pytest.raises(KvmError, match="the vCPU has run already"):
        vcpu.set_cpuid([CpuidEntry(0, eax=1)])


def test_statistics_count_what_happened(make_guest: MakeGuest) -> None:
    guest = make_guest("e6 e9 e6 e9 e6 e9 f4")  # out 0xe9, al, three times; hlt
    before = guest.vcpu.statistics()
    for _ in range(4):
        guest.vcpu.run()
    after = guest.vcpu.statistics()
    assert after["io_exits"].value - before["io_exits"].value == 3
    assert after["exits"].value > before["exits"].value
    assert after["insn_emulation_fail"].value == 0
    histogram = after["halt_wait_hist"]
    assert histogram.kind.name == "LOG_HISTOGRAM" and len(histogram.values) > 1
    assert (histogram.unit.name, histogram.base, histogram.exponent) == ("SECONDS", 10, -9)
    assert "remote_tlb_flush" in guest.vm.statistics()


def test_a_finished_instruction_keeps_the_state_between_two(make_guest: MakeGuest) -> None:
    vcpu = make_guest("e6 e9 40 f4").vcpu  # out 0xe9, al; inc eax; hlt
    vcpu.run()
    vcpu.immediate_exit = True
    assert vcpu.run() == ExitInterrupted()
    assert (vcpu.regs().rip, vcpu.regs().rax) == (CODE + 2, 0)
