"""What happens at ring 0 when something is wrong there: named, survived if it can be, never a hang."""

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest
from host import tiny_guest as tiny

from kvmhost.host import Machine, MachineBroken, OutcomeKind
from kvmhost.host.host_area import TEXT_AT

pytestmark = pytest.mark.lab

JUMP_TO_ITSELF = b"\xeb\xfe"
UD2 = b"\x0f\x0b"
SPIN = tiny.init() + tiny.forever(tiny.increment(0x4000))
RESTART = tiny.init() + tiny.hypercall(2, 0, 2)


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine(2 << 20) as machine:
        yield machine


def plant(machine: Machine, symbol: str, code: bytes) -> bytes:
    """Overwrite the ring-0 Host at a label; what was there before."""
    at = TEXT_AT + machine.host.symbols[symbol]
    before = machine.memory.read(at, len(code))
    machine.memory.write(at, code)
    return before


def once_inside(machine: Machine, action: Callable[[], object]) -> threading.Thread:
    """Do it as soon as a vCPU has gone in; on a busy machine that may take any time."""

    def wait() -> None:
        while not any(cpu.c.runs for cpu in machine.cpus):
            pass
        action()

    helper = threading.Thread(target=wait)
    helper.start()
    return helper


def time_is_over(machine: Machine) -> Callable[[], object]:
    """As the alarm of run(timeout=...) says it."""
    return lambda: machine.scheduler.stop(OutcomeKind.TIMED_OUT)


def test_a_host_that_does_not_come_out_is_given_up_by_a_timeout(machine: Machine) -> None:
    guest = tiny.boot(machine, SPIN)
    plant(machine, "host_return", JUMP_TO_ITSELF)
    helper = once_inside(machine, time_is_over(machine))
    with pytest.raises(MachineBroken, match="did not come out within a second") as caught:
        guest.run()
    helper.join()
    assert "the Host, host_return+0" in caught.value.cause
    assert "interrupts off" in caught.value.cause
    assert guest.outcome.kind is OutcomeKind.KILLED
    with pytest.raises(MachineBroken, match="did not come out"):
        machine.run()


def test_a_lost_vcpu_is_not_asked_to_put_its_fpu_away() -> None:
    """With two vCPUs a Guest's FPU is put away after each slice; a lost vCPU would never answer."""
    with Machine(2 << 20, cpus=2) as machine:
        guest = tiny.boot(machine, SPIN)
        plant(machine, "host_return", JUMP_TO_ITSELF)
        helper = once_inside(machine, time_is_over(machine))
        with pytest.raises(MachineBroken, match="did not come out within a second"):
            guest.run()
        helper.join()
        assert guest.outcome.kind is OutcomeKind.KILLED


def test_a_host_that_does_not_come_out_is_given_up_after_ctrl_c(machine: Machine) -> None:
    guest = tiny.boot(machine, SPIN)
    plant(machine, "host_return", JUMP_TO_ITSELF)
    helper = once_inside(machine, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(MachineBroken, match="did not come out"):
        guest.run(timeout=600)
    helper.join()


def test_a_fault_in_the_host_is_named_and_the_machine_goes_on(machine: Machine) -> None:
    guest = tiny.boot(machine, RESTART)
    before = plant(machine, "host_return", UD2)
    outcome = guest.run(timeout=60)
    assert outcome.kind is OutcomeKind.KILLED
    assert "the Host faulted at host_return+0" in outcome.reason
    assert "trap 6 (invalid opcode)" in outcome.reason
    plant(machine, "host_return", before)
    assert tiny.boot(machine, RESTART).run(timeout=60).kind is OutcomeKind.RESTARTED


def bad_segment() -> bytes:
    """Load GS from entry 20 of the GDT, then make that entry one that is not present, and go on."""
    present, absent = 0x00CFB300, 0x00CF3300
    return (
        tiny.init()
        + tiny.hypercall(18, 20, 0x0000FFFF, present)
        + tiny.mov("eax", 20 << 3 | 1)
        + b"\x8e\xe8"  # mov %eax, %gs
        + tiny.hypercall(18, 20, 0x0000FFFF, absent)
        + tiny.forever(b"\x90")
    )


def test_a_selector_gone_bad_kills_its_guest_alone(machine: Machine) -> None:
    bad = tiny.boot(machine, bad_segment())
    good = tiny.boot(machine, RESTART)
    outcomes = machine.run(timeout=60)
    assert outcomes[bad].kind is OutcomeKind.KILLED
    assert "the Switcher faulted at E21_pop_gs" in outcomes[bad].reason
    assert "trap 11 (segment not present), error code 0xa0" in outcomes[bad].reason
    assert "change the register before the GDT" in outcomes[bad].report
    assert outcomes[good].kind is OutcomeKind.RESTARTED


def test_the_same_under_seed_costs_the_machine_and_says_so() -> None:
    with Machine(2 << 20, switcher="seed") as machine:
        guest = tiny.boot(machine, bad_segment())
        with pytest.raises(MachineBroken, match="ExitShutdown") as caught:
            guest.run(timeout=60)
        assert "triple fault" in caught.value.cause
        assert guest.outcome.kind is OutcomeKind.KILLED
