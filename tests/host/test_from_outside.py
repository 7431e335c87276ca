"""A device's thread finds a broken ring: the Guest dies alone, whatever it is doing, and its vCPU says so."""

import threading

import pytest
from host import tiny_guest as tiny

from kvmhost.host import Guest, Machine, OutcomeKind

pytestmark = pytest.mark.lab

SPIN = tiny.init() + tiny.forever(tiny.increment(0x4000))
HALT = tiny.init() + tiny.hypercall(10)


def condemn(guest: Guest, alive: str) -> threading.Thread:
    """Once the Guest is where the test wants it, let another thread end it."""

    def wait() -> None:
        while guest.outcome is None:
            if guest.ram.read(0x4000, 4) != bytes(4) if alive == "running" else guest.state.halted:
                guest.end_from_outside("its ring makes no sense", "mend the driver")
                guest.end_from_outside("a second reason")
                return

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize(("code", "alive"), [(SPIN, "running"), (HALT, "halted")])
def test_a_guest_is_ended_from_another_thread(code: bytes, alive: str) -> None:
    with Machine(2 << 20) as machine:
        guest = tiny.boot(machine, code)
        helper = condemn(guest, alive)
        outcome = guest.run(timeout=30)
        helper.join()
        assert (outcome.kind, outcome.reason) == (OutcomeKind.KILLED, "its ring makes no sense")
        assert "eip" in (outcome.report or "") and "What to do: mend the driver" in (outcome.report or "")


def test_a_guest_condemned_before_it_runs_executes_nothing() -> None:
    with Machine(2 << 20) as machine:
        guest = tiny.boot(machine, SPIN)
        guest.end_from_outside("no disk")
        assert guest.run(timeout=30).reason == "no disk"
        assert guest.ram.read(0x4000, 4) == bytes(4)
