"""Debugging a guest from outside: single steps, and what hardware breakpoints ask of DR7."""

import pytest
from kvm.guest import CODE, MakeGuest

from kvmhost.kvm import Breakpoint, ExitDebug, ExitHlt, Watch
from kvmhost.kvm.events import dr7_for


@pytest.mark.lab
def test_single_step_stops_after_each_instruction(make_guest: MakeGuest) -> None:
    vcpu = make_guest("40 89 c3 b9 07 00 00 00 f4").vcpu  # inc eax; mov ebx, eax; mov ecx, 7; hlt
    stops = []
    for _ in range(3):
        vcpu.set_guest_debug(single_step=True)
        stop = vcpu.run()
        assert isinstance(stop, ExitDebug) and stop.single_step and stop.exception == 1
        stops.append(stop.pc - CODE)
    assert stops == [1, 3, 8]
    vcpu.set_guest_debug()
    assert vcpu.run() == ExitHlt()
    assert (vcpu.regs().rbx, vcpu.regs().rcx) == (1, 7)


@pytest.mark.lab
def test_without_guest_debug_nothing_stops(make_guest: MakeGuest) -> None:
    vcpu = make_guest("40 40 40 f4").vcpu  # inc eax, three times; hlt
    vcpu.set_guest_debug(single_step=True, breakpoints=[Breakpoint(CODE + 1)])
    vcpu.set_guest_debug()
    assert vcpu.run() == ExitHlt()
    assert vcpu.regs().rax == 3


@pytest.mark.parametrize(
    ("breakpoints", "dr7"),
    [
        ((), 0x400),
        ((Breakpoint(0x1000),), 0x402),
        ((Breakpoint(0x1000, Watch.WRITE, 1),), 0x1_0402),
        ((Breakpoint(0x1000, Watch.READ_WRITE, 2),), 0x7_0402),
        ((Breakpoint(0x1000, Watch.WRITE, 8),), 0x9_0402),
        ((Breakpoint(0), Breakpoint(0, Watch.WRITE, 4)), 0xD0_040A),
        ((Breakpoint(0),) * 4, 0x4AA),
    ],
)
def test_dr7_follows_the_manual(breakpoints: tuple[Breakpoint, ...], dr7: int) -> None:
    assert dr7_for(breakpoints) == dr7


@pytest.mark.parametrize(
    "breakpoints",
    [(Breakpoint(0),) * 5, (Breakpoint(0, Watch.EXECUTE, 4),), (Breakpoint(0, Watch.WRITE, 3),)],
)
def test_impossible_breakpoints_are_refused(breakpoints: tuple[Breakpoint, ...]) -> None:
    with pytest.raises(ValueError):
        dr7_for(breakpoints)
