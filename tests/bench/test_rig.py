"""The rig in a real VM: it times, it tells what went wrong, and it leaves nothing behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from switcher.build import assemble

from kvmhost._native import lib
from kvmhost.bench.benchmark import Setting
from kvmhost.bench.errors import Unmeasurable
from kvmhost.bench.rig import GUEST_BYTES, HLT_AT, SYSENTER_CS, SYSENTER_EIP, SYSENTER_ESP, Rig
from kvmhost.bench.steps import count
from kvmhost.bench.suites.switch import BENCHMARKS, SUITE
from kvmhost.host import Machine, Trap
from kvmhost.host.host_area import IDT_AT, PD_AT, PT_AT

pytestmark = pytest.mark.lab

FOREIGN = Path(__file__).parent.parent / "switcher" / "foreign.S"


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as opened:
        yield opened


@pytest.mark.parametrize(
    ("switcher", "trap", "instructions"),
    [
        ("hardened", Trap.GENERAL_PROTECTION, 64),
        ("hardened", Trap.HYPERCALL, 64),
        ("seed", Trap.GENERAL_PROTECTION, 64),
        ("seed", Trap.HYPERCALL, 66),
    ],
)
def test_a_round_trip_has_so_many_instructions(switcher: str, trap: Trap, instructions: int) -> None:
    """Both are below 70, and hardened never above seed: that is what the issue asks for."""
    with Rig(switcher) as rig:
        assert count(rig, trap) == instructions
        assert rig.round_trip(10, trap) > 0
        assert count(rig, trap) == instructions


@pytest.mark.parametrize("body", ["faulty", "faulty_scratch"])
def test_a_fault_in_a_body_is_told_and_the_next_one_runs(rig: Rig, body: str) -> None:
    with pytest.raises(Unmeasurable, match=f"body_{body} did not end") as caught:
        rig.sample(body, 1)
    assert caught.value.cause.startswith(f"exception 6 at body_{body}")
    assert rig.sample("task_switch", 3) > 0
    assert rig.sample("sysenter", 3) > 0
    assert rig.round_trip(3) > 0


def test_a_guest_that_does_something_else_is_told(rig: Rig) -> None:
    assert rig.round_trip(3) > 0
    rig.guest.ram.write(HLT_AT, b"\x0f\x0b")
    with pytest.raises(Unmeasurable, match="came back by INVALID_OPCODE"):
        rig.round_trip(3)
    rig.guest.ram.write(HLT_AT, b"\xf4")
    assert rig.round_trip(3) > 0


def host_tables(machine: Machine) -> dict[str, bytes]:
    """What the Host runs on, without what the CPU itself notes in it."""
    area = machine.cpus[0].area
    return {
        "IDT": machine.memory.read(IDT_AT, 8 * lib.IDT_ENTRIES),
        "directories": machine.memory.read(PD_AT, 4 * lib.PAGE_BYTES),
        "table": machine.memory.read(PT_AT, lib.PAGE_BYTES),
        "GDT": machine.memory.read(area.gdt, 8 * lib.GDT_ENTRIES),
        "TSS": machine.memory.read(area.tss, 104),
    }


def test_nothing_is_left_behind(rig: Rig) -> None:
    for body in ("ring0_ring3", "sysenter", "task_switch", "iret_out", "cr3_touched_64"):
        rig.sample(body, 3)
    with Machine() as machine:
        machine.add_guest(GUEST_BYTES)
        untouched = host_tables(machine)
    assert host_tables(rig.machine) != untouched
    rig.take_away()
    assert host_tables(rig.machine) == untouched
    assert set(rig.vcpu.msrs([SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP]).values()) == {0}
    start, end = rig.at["rig_text"], rig.at["rig_pages_end"]
    assert rig.memory.read(start, end - start) == bytes(end - start)
    seen: list[int] = []

    def stop(trap: object) -> None:
        seen.append(rig.guest.frame.eip)
        rig.machine.stop()

    rig.guest.frame.eip = HLT_AT
    rig.guest.on(Trap.GENERAL_PROTECTION)(stop)
    rig.machine.run(timeout=60)
    assert seen == [HLT_AT]


class Pressed(Exception):
    """Somebody had enough."""


def press(number: int, frame: FrameType | None) -> None:
    raise Pressed


def test_a_body_without_end_hears_a_signal() -> None:
    before = signal.signal(signal.SIGALRM, press)
    try:
        with pytest.raises(Pressed), Rig() as rig:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            while True:
                rig.sample("empty", 0xFFFFFFFF)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert rig.machine.closed


def test_the_suite_measures_all_of_it() -> None:
    with SUITE.subjects(BENCHMARKS, Setting()) as subjects:
        missing = {name for name, subject in subjects.items() if isinstance(subject, str)}
        assert missing == {"switch/round-trip-foreign"}
        assert "--switcher" in str(subjects["switch/round-trip-foreign"])
        for name, subject in subjects.items():
            if not isinstance(subject, str):
                sample = subject.sample(3)
                assert sample.total > 0, name
                assert sample.loops == 3
                assert sample.counts.get("instructions", 0) % 3 == 0
                assert ("instructions" in sample.counts) == ("overhead" not in name)
        assert subjects["switch/task-switch"].sample(2).counts["exits"] >= 0  # type: ignore[union-attr]


def test_a_foreign_switcher_makes_the_trip(tmp_path: Path) -> None:
    path = assemble(FOREIGN, tmp_path / "foreign.o", "-DFRAME=2623", "-DDESC=8")
    foreign = tuple(each for each in BENCHMARKS if each.name == "switch/round-trip-foreign")
    with SUITE.subjects(foreign, Setting(switcher=path)) as subjects:
        subject = subjects[foreign[0].name]
        assert not isinstance(subject, str), subject
        sample = subject.sample(3)
        assert sample.total > 0
        assert sample.counts["instructions"] > 3 * 40
