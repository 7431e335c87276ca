"""Time, slices, stops and signals: who gets a vCPU, and how it is taken away."""

import gc
import os
import signal
import struct
import threading
from pathlib import Path

import pytest
from host import tiny_guest as tiny

from kvmhost._native import lib
from kvmhost.host import KvmhostError, Machine, OutcomeKind, Trap

pytestmark = pytest.mark.lab

COUNTER = 0x4000
SPIN = tiny.init() + tiny.forever(tiny.increment(COUNTER))


def count(guest) -> int:
    return struct.unpack("<I", guest.ram.read(COUNTER, 4))[0]


def run_past(guest, value: int) -> None:
    """Run, a little at a time, until the Guest has counted further."""
    while count(guest) <= value:
        assert guest.run(timeout=0.1).kind is OutcomeKind.TIMED_OUT


def test_timeout_ends_a_spinning_guest_which_can_go_on() -> None:
    with Machine(8 << 20) as machine:
        guest = tiny.boot(machine, SPIN)
        run_past(guest, 0)
        run_past(guest, count(guest))


def test_several_guests_share_one_cpu() -> None:
    with Machine(8 << 20, slice_seconds=0.005) as machine:
        guests = [tiny.boot(machine, SPIN, f"spin{n}") for n in range(3)]

        def enough() -> bool:
            return machine.cpus[0].guest_changes > 30 and all(count(guest) for guest in guests)

        machine.run(timeout=120, until=enough)
        assert all(count(guest) > 0 for guest in guests)
        assert machine.statistics().guest_changes > 30


def test_guests_are_over_independently() -> None:
    with Machine(8 << 20) as machine:
        dies = tiny.boot(machine, tiny.init() + b"\x0f\x0b")
        lives = tiny.boot(machine, tiny.init() + tiny.forever(tiny.hypercall(0)))
        outcomes = machine.run(timeout=60, until=dies)
        assert outcomes[dies].kind is OutcomeKind.KILLED
        assert outcomes[lives].kind is OutcomeKind.INTERRUPTED
        assert lives.outcome is None


def test_until_is_asked_although_nobody_waits_for_the_cpu() -> None:
    with Machine(8 << 20) as machine:
        guest = tiny.boot(machine, SPIN)
        outcome = machine.run(timeout=600, until=lambda: count(guest) > 0)[guest]
        assert outcome.kind is OutcomeKind.INTERRUPTED
        assert count(guest) > 0


def test_a_run_within_a_run_is_refused() -> None:
    with Machine(8 << 20) as machine:
        guest = tiny.boot(machine, SPIN)

        @guest.on(Trap.HYPERCALL)
        def again(trap) -> None:
            with pytest.raises(KvmhostError, match="running already"):
                machine.run()
            trap.kill("seen")

        assert guest.run(timeout=60).reason == "seen"


def test_ctrl_c_stops_where_it_is_safe_and_the_guest_can_go_on() -> None:
    with Machine(8 << 20) as machine:
        guest = tiny.boot(machine, SPIN)
        before = signal.getsignal(signal.SIGINT)
        seen = threading.Event()

        @guest.on(Trap.HYPERCALL)
        def started(trap) -> None:
            trap.default()
            seen.set()

        def interrupt() -> None:
            seen.wait(30)
            while not count(guest):
                pass
            os.kill(os.getpid(), signal.SIGINT)

        helper = threading.Thread(target=interrupt)
        helper.start()
        outcome = guest.run(timeout=60)
        helper.join()
        assert outcome.kind is OutcomeKind.INTERRUPTED
        assert signal.getsignal(signal.SIGINT) is before
        assert machine.statistics().signals >= 1
        run_past(guest, count(guest))


def test_stop_from_another_thread_while_the_main_thread_only_waits() -> None:
    with Machine(8 << 20, cpus=2) as machine:
        guest = tiny.boot(machine, SPIN)
        result = []
        runner = threading.Thread(target=lambda: result.append(guest.run(timeout=60)))
        runner.start()
        while not count(guest):
            pass
        machine.stop()
        runner.join()
        assert result[0].kind is OutcomeKind.INTERRUPTED


def test_a_guest_goes_round_on_two_cpus() -> None:
    with Machine(8 << 20, cpus=2, slice_seconds=0.002) as machine:
        guest = tiny.boot(machine, SPIN)
        machine.run(timeout=120, until=lambda: guest.moves >= 100)
        assert guest.moves >= 100
        assert guest.cpus_seen == {0, 1}
        assert guest.tables.audit() == []


def test_halt_sleeps_until_the_clock_rings() -> None:
    handler = tiny.CODE_AT + 0x400
    code = (
        tiny.init()
        + tiny.set_gate(32, handler)
        + tiny.store(tiny.DATA_AT + 4, 0)  # blocked_interrupts
        + tiny.hypercall(9, 20_000_000)
        + tiny.hypercall(10)
        + b"\x0f\x0b"
    )
    with Machine(8 << 20) as machine:
        guest = tiny.boot(machine, code)
        guest.ram.write(handler, tiny.increment(COUNTER) + b"\x0f\x0b")
        outcome = guest.run(timeout=20)
        assert "invalid opcode" in outcome.reason
        assert count(guest) == 1
        assert guest.frame.eip == handler + 6


def test_halt_with_everything_blocked_is_the_end() -> None:
    code = tiny.init() + tiny.store(tiny.DATA_AT + 4, 0xFFFFFFFF) + tiny.hypercall(10)
    with Machine(8 << 20) as machine:
        outcome = tiny.boot(machine, code).run(timeout=20)
        assert outcome.kind is OutcomeKind.KILLED
        assert "nothing can wake it" in outcome.reason


def test_interrupts_wait_for_the_guests_own_if() -> None:
    handler = tiny.CODE_AT + 0x400
    spin = tiny.increment(COUNTER + 4)  # with irq_enabled 0
    code = (
        tiny.init() + tiny.set_gate(32, handler) + tiny.store(tiny.DATA_AT + 4, 0) + tiny.hypercall(9, 1000)
    )
    with Machine(8 << 20) as machine:
        guest = tiny.boot(machine, code + tiny.forever(spin))
        guest.ram.write(handler, tiny.increment(COUNTER) + b"\x0f\x0b")
        while guest.data is None or guest.data.words.irq_pending == 0:
            assert guest.run(timeout=0.1).kind is OutcomeKind.TIMED_OUT
        assert guest.data.words.irq_pending == 0x200, "the Guest is told that one is waiting"
        assert count(guest) == 0
        guest.data.words.irq_enabled = 0x200
        assert "invalid opcode" in guest.run(timeout=20).reason
        assert count(guest) == 1


def test_an_interrupt_that_finds_no_stack_kills_its_guest_alone() -> None:
    code = (
        tiny.init()
        + tiny.set_gate(32, tiny.CODE_AT + 0x400)
        + tiny.mov("esp", 0xF0000000)
        + tiny.store(tiny.DATA_AT + 4, 0)
        + tiny.hypercall(9, 1000)
        + tiny.store(tiny.DATA_AT, 0x200)
    )
    with Machine(8 << 20) as machine:
        guest = tiny.boot(machine, code + tiny.forever(b"\x90"))
        outcome = guest.run(timeout=60)
        assert outcome.kind is OutcomeKind.KILLED
        assert "its kernel stack at 0xeffffff4 cannot be written" in outcome.reason


@pytest.mark.parametrize("cpus", [0, 17, -1])
def test_number_of_cpus(cpus: int) -> None:
    with pytest.raises(KvmhostError, match="vCPUs"):
        Machine(8 << 20, cpus=cpus)


@pytest.mark.parametrize("size", [0, 1, 4096, (1 << 20) + 1, 5 << 30])
def test_sizes_of_memory(size: int) -> None:
    with Machine() as machine, pytest.raises(KvmhostError, match="memory"):
        machine.add_guest(size)


def test_the_sum_of_all_guests_is_checked() -> None:
    with Machine() as machine:
        machine.add_guest(3 << 30)
        with pytest.raises(KvmhostError, match="do not fit"):
            machine.add_guest(1 << 30)


def census() -> tuple[int, int, int]:
    """Open files, mappings of KVM's or of a Machine's nearly 4 GiB, and threads."""

    def ours(line: str) -> bool:
        start, _, end = line.split()[0].partition("-")
        return "kvm" in line or int(end, 16) - int(start, 16) >= lib.GUEST_AREA_LIMIT // 2

    maps = Path("/proc/self/maps").read_text().splitlines()
    return len(list(Path("/proc/self/fd").iterdir())), sum(map(ours, maps)), threading.active_count()


def test_everything_is_given_back() -> None:
    gc.collect()  # what an earlier test left in a cycle must not go away in the middle
    before = census()
    for _ in range(3):
        with Machine(8 << 20, cpus=2, slice_seconds=0.002) as machine:
            guest = tiny.boot(machine, SPIN)
            tiny.boot(machine, tiny.init() + b"\x0f\x0b")
            machine.run(timeout=120, until=lambda guest=guest: count(guest) > 0)
            assert count(guest) > 0
            during = census()
            assert during[0] > before[0]
            assert during[1] > before[1]
        assert census() == before
