"""A run that is over leaves nothing running, a Machine that is closed nothing open, whatever fails."""

from __future__ import annotations

import errno
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from host.native_guest import FakeClock

from kvmhost._native import ffi, lib
from kvmhost.host import KvmhostError, Machine, scheduler
from kvmhost.host import cpu as vcpus
from kvmhost.host import machine as machines
from kvmhost.host.cpu import Cpu
from kvmhost.host.memory import VmMemory
from kvmhost.host.scheduler import Scheduler
from kvmhost.switcher import load


class FakeCpu:
    """A vCPU that nothing runs on; it can be posted to and signalled."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.mailbox = ffi.new("struct kvmhost_mailbox *")
        self.c = ffi.new("struct kvmhost_cpu *")
        self.c.mailbox = self.mailbox
        self.closed = False

    def post(self, why: int) -> None:
        """Nobody is in there."""

    def put_down(self) -> None:
        """Nobody's FPU is in there."""

    def forget_memory(self) -> None:
        """Nothing points anywhere."""

    def close(self) -> None:
        self.closed = True


class Sleeper:
    """A Guest that has halted, and that nothing wakes."""

    outcome = None
    cpu = None
    condemned = None
    data = None
    state = SimpleNamespace(last_cpu=0)


@pytest.fixture
def cpus() -> list[Any]:
    return [FakeCpu(index) for index in range(3)]


@pytest.fixture
def resting() -> Iterator[Scheduler]:
    """A scheduler whose alarms never ring."""
    yield Scheduler(FakeClock(), 0.01)  # type: ignore[arg-type]


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("vCPU")}


# ---- runs ----------------------------------------------------------------------------


class Stubborn:
    """A worker's thread whose join() is interrupted by so many Ctrl-C before it ends."""

    def __init__(self, times: int) -> None:
        self.times = times

    def is_alive(self) -> bool:
        return self.times >= 0

    def join(self) -> None:
        self.times -= 1
        if self.times >= 0:
            raise KeyboardInterrupt


def test_ctrl_c_while_the_last_vcpus_are_waited_for_is_heard_when_all_are_out(resting: Scheduler) -> None:
    resting.running = True
    worker: Any = Stubborn(3)
    with pytest.raises(KeyboardInterrupt):
        resting._finish([worker])
    assert not worker.is_alive()
    assert not resting.running


def test_a_handler_that_never_returns_does_not_take_ctrl_c_away_for_ever(resting: Scheduler) -> None:
    """Its vCPU is still in there, so the Machine goes on counting as one that runs: nothing is unmapped."""
    resting.running = True
    worker: Any = Stubborn(100)
    with pytest.raises(KeyboardInterrupt):
        resting._finish([worker])
    assert worker.times > 90
    assert resting.running


def test_a_vcpus_thread_that_cannot_start_ends_the_run_and_the_others(
    resting: Scheduler, cpus: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started = scheduler.start_thread, []

    def second_fails(target: Any, name: str) -> threading.Thread:
        if started:
            raise KvmhostError("no thread")
        started.append(start(target, name))
        return started[0]

    monkeypatch.setattr(scheduler, "start_thread", second_fails)
    monkeypatch.setattr(scheduler, "run_slice", lambda cpu, guest: scheduler.Left.HALTED)
    with pytest.raises(KvmhostError, match="no thread"):
        resting.run(cpus, [Sleeper()], lambda: False, None)  # type: ignore[list-item]
    assert started and threads() == set()
    assert not resting.running


def test_a_vcpu_whose_thread_has_just_ended_is_signalled_in_vain(cpus: list[Any]) -> None:
    """Whoever signals it may have looked a moment before: the number must not lead to memory that is gone."""
    ended = threading.Thread(target=lambda: None)
    ended.start()
    ended.join()
    while Path(f"/proc/self/task/{ended.native_id}").exists():
        pass  # Python is done with it, and the kernel soon will be
    cpus[0].c.thread = ended.native_id
    assert lib.kvmhost_signal(cpus[0].c) == errno.ESRCH


def test_a_run_whose_alarm_cannot_be_set_is_over(resting: Scheduler, cpus: list[Any]) -> None:
    def no_thread(seconds: float, call: Any) -> Any:
        raise KvmhostError("no thread")

    resting.clock.after = no_thread  # type: ignore[method-assign]
    with pytest.raises(KvmhostError, match="no thread"):
        resting.run(cpus, [], lambda: False, 1.0)
    assert not resting.running


def test_a_stop_that_a_sleeping_thread_did_not_hear_is_said_again(
    resting: Scheduler, cpus: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal's handler may say it between a thread's last look and its sleep."""
    resting._begin(cpus, [], lambda: False, False)
    resting._halted.add(Sleeper())  # type: ignore[arg-type]
    waiting = threading.Thread(target=resting._take, args=(cpus[0],))
    waiting.start()
    while not resting._changed._waiters:  # type: ignore[attr-defined]
        pass
    resting._stopping = scheduler.OutcomeKind.INTERRUPTED
    resting._signal_deaf()
    waiting.join(10)
    assert not waiting.is_alive()


def test_the_interpreter_comes_back_soon_while_vcpus_run(resting: Scheduler, cpus: list[Any]) -> None:
    """A vCPU's thread loses it whenever it wakes a device; what was set before is set again."""
    seen = []

    def goal() -> bool:
        seen.append(sys.getswitchinterval())
        return True

    before = sys.getswitchinterval()
    resting.run(cpus[:1], [], goal, None)
    assert seen and max(seen) == pytest.approx(0.0005)
    assert sys.getswitchinterval() == before


# ---- machines ----------------------------------------------------------------------------


class BadBus:
    """A bus that cannot be closed."""

    def __init__(self) -> None:
        self.asked = 0

    def close(self) -> None:
        self.asked += 1
        raise OSError("the device does not stop")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, cpus: list[Any]) -> Machine:
    """One that has everything but a KVM beneath it."""

    class Beneath:
        closed = False

        def close(self) -> None:
            self.closed = True

    def create(self: Machine, count: int) -> None:
        self.vm = Beneath()  # type: ignore[assignment]
        self.cpus = cpus[:count]

    monkeypatch.setattr(machines, "Kvm", Beneath)
    monkeypatch.setattr(machines, "collect", lambda machine: "counters")
    monkeypatch.setattr(Machine, "_create", create)
    return Machine(cpus=2)


def test_a_machine_is_closed_to_the_end_whatever_a_device_does(machine: Machine, cpus: list[Any]) -> None:
    forgotten = []
    buses = [BadBus(), BadBus()]
    for bus in buses:
        guest = SimpleNamespace(bus=bus, forget_memory=lambda bus=bus: forgotten.append(bus))
        machine.guests.append(guest)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="does not stop"):
        machine.close()
    assert [bus.asked for bus in buses] == [1, 1]
    assert machine.closed and machine.memory.closed
    assert [cpu.closed for cpu in cpus] == [True, True, False]
    assert forgotten == buses[::-1]
    assert machine.vm.closed and machine.kvm is not None and machine.kvm.closed  # type: ignore[attr-defined]
    assert machine.statistics() == "counters"
    machine.close()
    assert [bus.asked for bus in buses] == [1, 1]


def test_counters_that_cannot_be_read_do_not_keep_a_machine_open(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(machine: Machine) -> Any:
        raise KvmhostError("the vCPU did not come out")

    monkeypatch.setattr(machines, "collect", lost)
    with pytest.raises(KvmhostError, match="did not come out"):
        machine.close()
    assert machine.memory.closed and machine.vm.closed  # type: ignore[attr-defined]


@pytest.mark.parametrize("refused", ["create_vcpu", "irqfd"])
def test_a_vcpu_that_cannot_be_had_leaves_no_descriptor(memory: VmMemory, refused: str) -> None:
    class Vm:
        def __getattr__(self, name: str) -> Any:
            if name == refused:
                raise KvmhostError("refused")
            return lambda *_: SimpleNamespace(set_cpuid=lambda entries: None)

    before = sorted(path.name for path in Path("/proc/self/fd").iterdir())
    vm: Any = Vm()
    host: Any = SimpleNamespace(memory=memory, blob=load("hardened"))
    with pytest.raises(KvmhostError, match="refused"):
        Cpu(vm, host, 0, ())
    assert sorted(path.name for path in Path("/proc/self/fd").iterdir()) == before


def test_a_vcpu_without_an_alarm_clock_leaves_no_descriptor(
    memory: VmMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a user may have no more threads."""
    monkeypatch.setattr(vcpus, "lib", NoAlarm())
    before = sorted(path.name for path in Path("/proc/self/fd").iterdir())
    vm: Any = SimpleNamespace(
        create_vcpu=lambda index: SimpleNamespace(set_cpuid=lambda entries: None), irqfd=lambda *_: None
    )
    host: Any = SimpleNamespace(memory=memory, blob=load("hardened"))
    with pytest.raises(KvmhostError, match="alarm clock") as caught:
        Cpu(vm, host, 0, ())
    assert "ulimit -u" in caught.value.next_step
    assert sorted(path.name for path in Path("/proc/self/fd").iterdir()) == before


class NoAlarm:
    """The library, of a machine where no thread can be made."""

    def __getattr__(self, name: str) -> Any:
        return getattr(lib, name)

    def kvmhost_alarm_make(self, cpu: Any) -> Any:
        ffi.errno = errno.EAGAIN
        return ffi.NULL
