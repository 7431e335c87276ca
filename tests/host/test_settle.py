"""What a stay in a Guest ended by, when that is odd: it is told as what it was."""

from types import SimpleNamespace
from typing import Any

import pytest
from host.native_guest import BY_NAME, native, started

from kvmhost._native import lib
from kvmhost.host import slice as stays
from kvmhost.host.faults import RingZeroFault
from kvmhost.host.memory import VmMemory
from kvmhost.host.outcome import OutcomeKind
from kvmhost.host.traps import Trap


def settle(guest: Any, vector: int) -> Any:
    guest.frame.trapnum = vector
    cpu: Any = SimpleNamespace(mailbox=SimpleNamespace(cr2=0))
    stays._settle(cpu, guest)
    return guest.outcome


def test_a_switcher_that_came_back_without_a_trap_is_told_as_that(memory: VmMemory) -> None:
    """abi 3.1: the number that no stub stores is how a fault inside the Switcher is recognised."""
    outcome = settle(native(memory, BY_NAME["3.1"]), lib.NO_TRAP)
    assert outcome.kind is OutcomeKind.KILLED
    assert "came back without a trap: it faulted inside" in outcome.reason
    assert "segment" in outcome.report and "LOAD_IDT_ENTRY" not in outcome.report


def test_a_handler_sees_it_too(memory: VmMemory) -> None:
    guest = native(memory, BY_NAME["3.1"])
    guest.on(Trap.NO_TRAP)(lambda trap: trap.kill("seen"))
    assert settle(guest, lib.NO_TRAP).reason == "seen"


@pytest.mark.parametrize("vector", [257, 0x20202, 0xFFFFFFFF])
def test_a_frame_that_is_none_is_told_as_that(memory: VmMemory, vector: int) -> None:
    assert "left protected mode" in settle(started(memory, BY_NAME["3.1"]), vector).reason


@pytest.mark.parametrize("vector", [257, 0xFFFFFFFF])
def test_a_fault_at_ring_0_without_a_vector_is_a_sentence(vector: int) -> None:
    """What it left may be anything."""
    fault = RingZeroFault(vector, 0, 0xFFC00123, 0, "somewhere", True)
    assert f"trap {vector} (no trap)" in fault.reason
    assert "report it" in fault.advice


def test_hooks_may_go_when_the_machine_has_gone(memory: VmMemory) -> None:
    guest = native(memory, BY_NAME["3.1"])

    @guest.on(Trap.BREAKPOINT)
    def seen(trap: Any) -> None:
        """Never asked."""

    guest.forget_memory()
    guest.off(Trap.BREAKPOINT, seen)
    assert guest.hooks == {}
