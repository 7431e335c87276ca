"""A watched Guest's time is told apart by place and by kind, and its trace is whole."""

import errno
import io
import json
import time

import pytest
from host.tiny_guest import boot, hypercall, init, mov, set_gate

from kvmhost.host.machine import Machine
from kvmhost.host.trace import TraceFile
from kvmhost.host.watch import Watch

pytestmark = pytest.mark.lab

POWER_OFF = hypercall(2, 0x3000, 1)
FLUSHES = 50


def test_time_goes_to_its_places_and_kinds() -> None:
    text = io.StringIO()
    with Machine(memory=8 << 20) as machine:
        guest = boot(machine, init() + hypercall(5, 1) * FLUSHES + POWER_OFF)
        guest.ram.write(0x3000, b"Power down\0")
        with TraceFile(text) as trace:
            machine.watch(trace)
            before = time.monotonic_ns()
            assert guest.run().succeeded
            whole = time.monotonic_ns() - before
            statistics = machine.statistics()
    times = statistics.times["tiny"]
    assert times.python["hypercall FLUSH_TLB"][0] == FLUSHES
    assert times.python["hypercall SHUTDOWN"][0] == 1
    assert times.traps == sum(statistics.traps.values())
    for spent in (times.inside, times.kvm, times.shim, times.python_ns, times.exit_ns):
        assert spent > 0
    assert times.inside + times.kvm + times.shim + times.python_ns <= whole
    events = json.loads(text.getvalue())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert len(spans) == times.traps
    assert sum(event["name"] == "hypercall FLUSH_TLB" for event in spans) == FLUSHES
    starts = [event["ts"] for event in spans]
    assert starts == sorted(starts)
    assert {event["args"]["name"] for event in events if event["ph"] == "M"} == {"tiny", "vCPU 0"}


def test_a_fault_that_is_filled_in_is_told_from_one_that_is_reflected() -> None:
    handler = 0x100800
    touch = b"\xa1" + (0x400000).to_bytes(4, "little")
    beyond = b"\xa1" + (0x00000000).to_bytes(4, "little")
    with Machine(memory=8 << 20) as machine:
        guest = boot(machine, init() + set_gate(6, handler) + touch + beyond + b"\x0f\x0b")
        guest.ram.write(handler, POWER_OFF)
        guest.ram.write(0x3000, b"Power down\0")
        machine.watch()
        assert guest.run().succeeded
        kinds = machine.statistics().times["tiny"].python
    assert kinds["page fault, filled in"][0] >= 2
    assert kinds["invalid opcode"][0] == 1
    assert "page fault, reflected or emulated" not in kinds


def test_nobody_is_watched_unasked() -> None:
    with Machine(memory=8 << 20) as machine:
        guest = boot(machine, init() + mov("eax", 0) + POWER_OFF)
        guest.ram.write(0x3000, b"Power down\0")
        assert guest.run().succeeded
        assert guest.watch is None
        assert machine.statistics().times == {}
        assert machine.cpus[0].c.run_ns == 0


class FullDisk(io.StringIO):
    """Takes a little, and then nothing more."""

    def write(self, text: str) -> int:
        if self.tell() + len(text) > 200:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_a_full_disk_ends_the_trace_and_not_the_guest() -> None:
    with Machine(memory=8 << 20) as machine:
        guest = boot(machine, init() + POWER_OFF)
        guest.ram.write(0x3000, b"Power down\0")
        with TraceFile(FullDisk()) as trace:
            guest.watch = Watch(guest, trace)
            assert guest.run().succeeded
    assert trace.error is not None
    assert trace.error.errno == errno.ENOSPC
