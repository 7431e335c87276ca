"""What a person is told about an exit, with what registers and slots know: failed entries by a stand-in
vCPU, because no CPU here refuses one, and the rest by real guests."""

from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
from kvm.guest import NO_MEMORY, MakeGuest

from kvmhost.kvm import (
    DebugRegs,
    Events,
    ExitFailEntry,
    ExitInternalError,
    ExitMmio,
    ExitShutdown,
    MpState,
    Regs,
    Segment,
    Sregs,
    Vcpu,
    diagnose,
    flat_sregs,
)


@dataclass
class Refused:
    """A vCPU as far as a failed entry asks it: what registers it has."""

    general: Regs
    special: Sregs

    def regs(self) -> Regs:
        return self.general

    def sregs(self) -> Sregs:
        return self.special

    def events(self) -> Events:
        return Events()

    def debugregs(self) -> DebugRegs:
        return DebugRegs()

    def mp_state(self) -> MpState:
        return MpState.RUNNABLE


def refused(regs: Regs, sregs: Sregs) -> Vcpu:
    return cast(Any, Refused(regs, sregs))  # type: ignore[no-any-return]


def test_a_failed_entry_names_the_rules_the_state_breaks() -> None:
    sregs = replace(flat_sregs(), tr=Segment(selector=24, limit=0x67, type=9, s=0))
    told = diagnose(refused(Regs(rflags=0), sregs), ExitFailEntry(0x80000021, 0))
    assert "invalid guest state (0x80000021)" in told.cause
    assert "rflags.one" in told.cause and "tr.type" in told.cause
    assert told.cause.index("rflags.one") < told.cause.index("tr.type")


def test_a_failed_entry_without_a_broken_rule_says_so() -> None:
    told = diagnose(refused(Regs(), flat_sregs()), ExitFailEntry(7, 0))
    assert "invalid control field" in told.cause and "break no rule" in told.cause


def test_internal_errors_explain_themselves() -> None:
    stop = ExitInternalError(2, ())
    assert diagnose(refused(Regs(), flat_sregs()), stop) == stop.explanation


@pytest.mark.lab
def test_a_shutdown_is_a_triple_fault(make_guest: MakeGuest) -> None:
    vcpu = make_guest("0f 0b").vcpu  # ud2, with no IDT
    stop = vcpu.run()
    assert stop == ExitShutdown()
    told = diagnose(vcpu, stop)
    assert "triple fault" in told.cause and ("after a reset" in told.cause or "EIP 0x10000" in told.cause)


@pytest.mark.lab
def test_mmio_is_a_hole_or_a_read_only_slot(make_guest: MakeGuest) -> None:
    # mov [0x200000], eax; mov [0x201000], eax; hlt
    guest = make_guest("a3 00 00 20 00 a3 00 10 20 00 f4")
    slot = guest.vm.add_memory(NO_MEMORY, 0x1000, readonly=True)
    first, second = guest.vcpu.run(), guest.vcpu.run()
    assert isinstance(first, ExitMmio) and isinstance(second, ExitMmio)
    assert f"in slot {slot.number}, which is read-only" in diagnose(guest.vcpu, first).cause
    assert "0x201000, where the VM has no memory" in diagnose(guest.vcpu, second).cause
    assert "nothing is wrong" in diagnose(guest.vcpu, guest.vcpu.run()).next_step
