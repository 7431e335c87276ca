"""What other threads do to a Machine while its Guests run, and to one that is closed."""

import struct
import threading
from collections.abc import Callable

import pytest
from host import tiny_guest as tiny

from kvmhost.host import Guest, GuestTrap, HookError, Machine, OutcomeKind, Trap
from kvmhost.kvm import ExitInterrupted, Vcpu

pytestmark = pytest.mark.lab

COUNTER = 0x4000
HANDLER = tiny.CODE_AT + 0x400
TRAP_GATE = 0xF
SPIN = tiny.init() + tiny.forever(tiny.increment(COUNTER))
INT3, IRET, UD2 = b"\xcc", b"\xcf", b"\x0f\x0b"
# A breakpoint again and again, through a direct gate: no exit at all.
BREAKPOINTS = tiny.init() + tiny.set_gate(3, HANDLER, TRAP_GATE, dpl=1)


def count(guest: Guest) -> int:
    return struct.unpack("<I", guest.ram.read(COUNTER, 4))[0]


def wait_for(condition: Callable[[], object]) -> None:
    while not condition():
        pass


def meanwhile(action: Callable[[], object]) -> threading.Thread:
    helper = threading.Thread(target=action)
    helper.start()
    return helper


def test_a_hook_reaches_a_guest_that_never_traps() -> None:
    with Machine(2 << 20) as machine:
        guest = tiny.boot(machine, BREAKPOINTS + tiny.forever(INT3 + tiny.increment(COUNTER)))
        guest.ram.write(HANDLER, IRET)

        def hook() -> None:
            wait_for(lambda: count(guest) or guest.outcome)
            guest.on(Trap.BREAKPOINT)(lambda trap: trap.kill("seen"))

        helper = meanwhile(hook)
        outcome = guest.run(timeout=20)
        helper.join()
        assert (outcome.kind, outcome.reason) == (OutcomeKind.KILLED, "seen")


def test_an_interrupt_comes_when_its_mask_is_lifted_by_a_store() -> None:
    """abi 11.6: nothing in the Guest says that it cleared a bit of blocked_interrupts."""
    code = (
        tiny.init()
        + tiny.set_gate(32, HANDLER)
        + tiny.store(tiny.DATA_AT + 4, 1)
        + tiny.store(tiny.DATA_AT, 0x200)
        + tiny.hypercall(9, 1000)
    )
    with Machine(2 << 20) as machine:
        guest = tiny.boot(machine, code + tiny.forever(tiny.increment(COUNTER)))
        guest.ram.write(HANDLER, UD2)

        def lift() -> None:
            wait_for(lambda: guest.interruptions or guest.outcome)
            before = count(guest)
            wait_for(lambda: count(guest) != before or guest.outcome)
            guest.data.words.blocked_interrupts = 0

        helper = meanwhile(lift)
        outcome = guest.run(timeout=20)
        helper.join()
        assert outcome.kind is OutcomeKind.KILLED
        assert guest.frame.eip == HANDLER


def test_close_ends_a_run_in_another_thread_first() -> None:
    machine = Machine(2 << 20, cpus=2)
    guest = tiny.boot(machine, SPIN)
    results = []
    runner = meanwhile(lambda: results.append(guest.run(timeout=200)))
    wait_for(lambda: count(guest) or guest.outcome)
    machine.close()
    runner.join()
    assert results[0].kind is OutcomeKind.INTERRUPTED


def test_a_handler_cannot_close_the_machine_it_runs_in() -> None:
    with Machine(2 << 20) as machine:
        guest = tiny.boot(machine, tiny.init() + tiny.forever(tiny.hypercall(0)))
        guest.on(Trap.HYPERCALL)(lambda _: machine.close())
        with pytest.raises(HookError, match="this Machine is running"):
            guest.run(timeout=20)
        assert not machine.closed


def test_a_closed_machine_can_be_told_to_stop() -> None:
    with Machine(2 << 20) as machine:
        tiny.boot(machine, tiny.init() + UD2).run(timeout=20)
    before = machine.cpus[0].c.posts
    machine.stop()
    assert machine.cpus[0].c.posts == before


def test_a_signal_while_a_vcpu_starts_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    run, signals = Vcpu.run, []

    def interrupted_once(vcpu: Vcpu) -> object:
        if not signals:
            signals.append(vcpu)
            return ExitInterrupted()
        return run(vcpu)

    monkeypatch.setattr(Vcpu, "run", interrupted_once)
    with Machine(2 << 20) as machine:
        assert signals
        assert tiny.boot(machine, tiny.init() + tiny.hypercall(2, 0, 2)).run(timeout=20).succeeded


def test_an_interrupt_posted_outside_of_the_guest_costs_no_second_look() -> None:
    """The post that the loop answers before it enters must not bring the Guest out again."""
    code = (
        tiny.init()
        + tiny.set_gate(32, HANDLER)
        + tiny.store(tiny.DATA_AT + 4, 0)
        + tiny.store(tiny.DATA_AT, 0x200)
        + tiny.hypercall(0)
        + tiny.forever(tiny.increment(COUNTER))
    )
    with Machine(2 << 20) as machine:
        guest = tiny.boot(machine, code)
        guest.ram.write(HANDLER, tiny.hypercall(2, 0x3000, 1))
        guest.ram.write(0x3000, b"Power down\0")

        @guest.on(Trap.HYPERCALL)
        def post(trap: GuestTrap) -> None:
            trap.default()
            if trap.hypercall is not None and trap.hypercall.number == 0:
                guest.post(0)

        assert guest.run(timeout=20).succeeded
        assert guest.interruptions == 0
        assert count(guest) == 0
