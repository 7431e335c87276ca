"""A frame that lies open between two stays: whoever wrote into it, no Guest starts at ring 0 (SEC-025)."""

from types import SimpleNamespace
from typing import Any

import pytest
from host.native_guest import native

from kvmhost._native import lib
from kvmhost.host import slice as stays
from kvmhost.host.memory import VmMemory
from kvmhost.host.outcome import OutcomeKind

FORGED = 0x00023000  # IOPL 3 and VM, without IF


class Vcpu:
    """Notes the flags of each entry, and is told to stop then."""

    def __init__(self) -> None:
        self.entered: list[int] = []
        self.c: Any = None

    def enter(self, guest: Any) -> int:
        self.entered.append(guest.frame.eflags)
        return int(lib.LEFT_ATTENTION)


@pytest.fixture(autouse=True)
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    told = SimpleNamespace(
        **{name: getattr(lib, name) for name in dir(lib) if name.startswith(("LEFT_", "ATTENTION_"))},
        kvmhost_take=lambda cpu: lib.ATTENTION_STOP,
    )
    monkeypatch.setattr(stays, "lib", told)


@pytest.mark.parametrize(("cs", "ss"), [(0x60, 0x69), (0x61, 0x68), (0x50, 0x58), (0, 0)])
def test_ring_0_is_refused(memory: VmMemory, cs: int, ss: int) -> None:
    guest, cpu = native(memory), Vcpu()
    guest.frame.cs, guest.frame.ss = cs, ss
    assert stays.run_slice(cpu, guest) is stays.Left.ENDED  # type: ignore[arg-type]
    assert cpu.entered == []
    assert guest.outcome is not None and guest.outcome.kind is OutcomeKind.KILLED
    assert f"CS {cs:#x} and SS {ss:#x}" in guest.outcome.reason
    assert "RPL of 1" in (guest.outcome.report or "")


@pytest.mark.parametrize(("cs", "ss"), [(0x61, 0x69), (0x73, 0x7B), (0xAA, 0xB2)])
def test_flags_are_made_harmless_and_every_outer_ring_goes_on(memory: VmMemory, cs: int, ss: int) -> None:
    guest, cpu = native(memory), Vcpu()
    guest.frame.cs, guest.frame.ss, guest.frame.eflags = cs, ss, FORGED
    assert stays.run_slice(cpu, guest) is stays.Left.STOP  # type: ignore[arg-type]
    assert cpu.entered == [0x202]
    assert guest.outcome is None
