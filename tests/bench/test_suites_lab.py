"""Subjects in a real VM: what they say was done was done, so often and by that way, and nothing stays."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmhost._bench import lib
from kvmhost.bench import floor
from kvmhost.bench.benchmark import Setting
from kvmhost.bench.errors import Unmeasurable, WorkerBroke
from kvmhost.bench.floor import FloorVm
from kvmhost.bench.layers import Spinning
from kvmhost.bench.provoked import Provoked
from kvmhost.bench.timed_guest import TimedGuest
from kvmhost.host import Trap

pytestmark = pytest.mark.lab

SETTING = Setting()
FEW, MANY = 40, 140
SPINNING = "the Guest that spins"


@pytest.fixture(scope="module")
def timed() -> Iterator[TimedGuest]:
    with TimedGuest(SETTING) as guest:
        yield guest


def held() -> tuple[list[str], int, int]:
    """What this process has of KVM's: files, mappings of vCPUs, and threads of any kind."""
    files = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:  # the one that lists
            continue
        if "kvm" in target or "eventfd" in target:
            files.append(target)
    mappings = Path("/proc/self/maps").read_text().count("kvm-vcpu")
    return sorted(files), mappings, threading.active_count()


@pytest.mark.parametrize("program", ["port", "mmio", "mmio_write", "hlt"])
def test_an_exit_is_one_exit(program: str) -> None:
    with FloorVm(program, SETTING) as vm:
        sample = vm.run(20)
    assert (sample.loops, dict(sample.counts)) == (20, {"exits": 20})
    assert sample.total > 0


def test_windows_and_frames_and_registers_are_counted() -> None:
    with FloorVm("window", SETTING) as vm:
        assert dict(vm.window(20).counts) == {"exits": 20}
    with FloorVm("port", SETTING) as vm:
        assert dict(vm.shared(20).counts) == {"exits": 20, "ioctls": 0}
        assert dict(vm.registers(20).counts) == {"exits": 20, "ioctls": 40}
    with FloorVm("cpuid", SETTING) as vm:
        assert vm.many(1000)(1500).loops == 2000


@pytest.mark.parametrize("program", ["mmio", "hlt"])
def test_an_exit_of_another_kind_is_not_taken_for_the_one_measured(program: str) -> None:
    with FloorVm("port", SETTING) as vm:
        vm._reason = floor.REASONS[program]
        with pytest.raises(Unmeasurable, match="20 of 20 exits were other ones"):
            vm.run(20)


def test_a_program_that_is_not_there() -> None:
    before = held()
    with pytest.raises(KeyError):
        FloorVm("portt", SETTING)
    assert held() == before


def test_a_descriptor_that_is_no_kvm_is_told_and_leaves_nothing() -> None:
    before = held()
    with Path(os.devnull).open() as other, pytest.raises(Unmeasurable, match="making a VM failed") as caught:
        FloorVm("port", Setting(device=other.fileno()))
    assert caught.value.next_step
    assert held() == before


def each(guest: TimedGuest, routine: int, *arguments: int) -> dict[Trap, int]:
    """Traps for each operation, by kind, to the nearest whole number: beside them the Guest's own pages are
    filled in now and then.  What a command takes anyway is not counted."""
    assert guest.machine is not None
    counts = []
    for loops in (FEW, MANY):
        before = guest.machine.statistics().traps
        guest.do(routine, loops, arguments)
        after = guest.machine.statistics().traps
        counts.append({kind: count - before.get(kind, 0) for kind, count in after.items()})
    few, many = counts
    grown = {kind: round((count - few.get(kind, 0)) / (MANY - FEW)) for kind, count in many.items()}
    return {kind: count for kind, count in grown.items() if count}


@pytest.mark.parametrize(
    ("routine", "traps"),
    [
        ("NOTHING", {}),
        ("USER", {}),
        ("EXCEPTION_DIRECT", {}),
        ("EXCEPTION_BOUNCED", {Trap.BREAKPOINT: 1}),
        ("HYPERCALL", {Trap.HYPERCALL: 1}),
        ("CPUID", {Trap.GENERAL_PROTECTION: 1}),
        ("PORT", {Trap.GENERAL_PROTECTION: 1}),
        ("SET_PTE", {Trap.HYPERCALL: 1}),
        ("TOUCH", {Trap.PAGE_FAULT: 1}),
    ],
)
def test_an_operation_takes_the_traps_that_it_says(
    timed: TimedGuest, routine: str, traps: dict[Trap, int]
) -> None:
    assert each(timed, getattr(lib, f"BENCH_{routine}")) == traps


@pytest.mark.parametrize("routine", ["RING_HYPERCALL", "SET_PTE_RING"])
def test_what_is_queued_takes_fewer_hypercalls_than_it_has_calls(timed: TimedGuest, routine: str) -> None:
    traps = each(timed, getattr(lib, f"BENCH_{routine}"))
    assert traps.get(Trap.HYPERCALL, 0) == 0


def test_counts_are_of_exits_and_a_hook_is_asked() -> None:
    with TimedGuest(SETTING) as guest:
        sample = guest.inside(lib.BENCH_HYPERCALL)(FEW)
        assert sample.loops == FEW
        assert sample.counts["exits"] >= FEW
        assert guest.machine is not None
        guest.hook()
        handled = guest.machine.statistics().handled
        guest.outside_hypercalls(FEW)
        after = guest.machine.statistics().handled
        grown = {key: count - handled.get(key, 0) for key, count in after.items()}
        assert not any(place == "hook" for _, place in handled)
        assert max(count for (_, place), count in grown.items() if place == "hook") >= FEW


def test_a_routine_that_is_not_there_is_told() -> None:
    with TimedGuest(SETTING) as guest, pytest.raises(WorkerBroke, match="ended") as caught:
        guest.do(lib.BENCH_ROUTINES, 1)
    assert "there is no routine" in caught.value.cause


def test_the_layers_run_the_same_trap() -> None:
    before = held()
    with Spinning(SETTING) as guest:
        for call in (guest.c_loop, guest.shim_loop, guest.cffi, guest.ctypes, guest.fcntl, guest.cffi_shim):
            sample = call(20)
            assert (sample.loops, sample.counts["exits"]) == (20, 20)
    assert held() == before


def test_what_is_done_from_outside_shows_and_nothing_stays() -> None:
    before = held()
    with Provoked(SETTING) as guest:
        assert guest.machine is not None
        assert SPINNING in [thread.name for thread in threading.enumerate()]
        interrupts = int(guest.command.interrupts)
        stale = guest.machine.statistics().stale
        for call in (guest.waiting, guest.kick, guest.attention, guest.interrupt, guest.nmi):
            sample = call(2)
            assert sample.loops == 2
            assert sample.total > 0
        assert int(guest.command.interrupts) - interrupts == 2
        assert guest.machine.statistics().stale - stale >= 2
        assert guest.machine.statistics().nmis >= 2
    assert held() == before
