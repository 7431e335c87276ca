"""A build against itself is clean, what costs more is a loss, and another machine is told first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from bench.noises import SHAPES, series
from bench.reports import COUNTING, LAB, NATIVE, report, result, some

from kvmhost.bench import pyperf_file
from kvmhost.bench.benchmark import Unit
from kvmhost.bench.compare import compare
from kvmhost.bench.pyperf_read import read
from kvmhost.bench.results import Provenance, Report, Result, Spoiler


def noisy(source: Random, slow: str = "") -> Report:
    """A hundred benchmarks of every noise; the one named `slow` costs a twentieth more."""
    made = []
    for number in range(100):
        name = f"exit/b{number}"
        shape = list(SHAPES)[number % len(SHAPES)]
        runs = series(source, shape, 3, 15, 0.003, 1.05 if name == slow else 1.0)
        made.append(result(name, Unit.NANOSECONDS, *runs, exits=1.0))
    return report(NATIVE, *made)


def test_a_report_against_itself_is_clean(tmp_path: Path) -> None:
    pyperf_file.write(tmp_path / "a.json", report(NATIVE))
    found = compare(read(tmp_path / "a.json"), read(tmp_path / "a.json"))
    assert not found.lost and not found.gains and not found.warnings and not found.gone + found.added
    assert len(found.lines) == 8
    assert all(line.change.ratio is None or line.change.ratio.middle == 1 for line in found.lines)


def test_two_runs_of_a_build_are_as_good_as_clean_and_a_planted_slowdown_is_caught() -> None:
    source = Random(11)
    old, again, slow = noisy(source), noisy(source), noisy(source, "exit/b7")
    clean, found = compare(old, again), compare(old, slow)
    assert len(clean.lines) == 200 and len(clean.losses) + len(clean.gains) < 5
    assert "exit/b7" in [line.name for line in found.losses]
    (line,) = (line for line in found.lines if line.name == "exit/b7")
    assert line.change.ratio is not None and line.change.ratio.holds(1.05)


@pytest.mark.parametrize(
    ("provenance", "unit"), [(NATIVE, Unit.NANOSECONDS), (LAB, Unit.NANOSECONDS), (COUNTING, Unit.CYCLES)]
)
def test_one_ioctl_more_is_a_loss_and_one_less_a_gain(provenance: Provenance, unit: Unit) -> None:
    old = report(provenance, result("exit/shim", unit, (600.0, 601.0), exits=1.0, ioctls=0.0))
    new = report(provenance, result("exit/shim", unit, (600.0, 601.0), exits=1.0, ioctls=1.0))
    assert [line.name for line in compare(old, new).losses] == ["exit/shim ioctls"]
    back = compare(new, old)
    assert not back.lost and [line.name for line in back.gains] == ["exit/shim ioctls"]


@pytest.mark.parametrize("provenance", [NATIVE, LAB, COUNTING])
def test_a_thousandth_of_an_exact_count_is_seen(provenance: Provenance) -> None:
    old, new = (
        report(provenance, result("boot/init", Unit.NANOSECONDS, (6e8, 6.01e8), exits=count))
        for count in (1000.0, 1001.0)
    )
    assert [line.name for line in compare(old, new).losses] == ["boot/init exits"]


def test_the_labs_seconds_are_no_losses() -> None:
    old = report(LAB, result("exit/shim", Unit.NANOSECONDS, (600.0,) * 9, exits=1.0))
    new = report(LAB, result("exit/shim", Unit.NANOSECONDS, (900.0,) * 9, exits=1.0))
    assert not compare(old, new).lost
    assert compare(old, new, lab_times=True).lost


def test_the_labs_ratios_are() -> None:
    old, new = (
        report(LAB, result("switch/trip", Unit.CYCLES, (600.0, 604.0, 608.0), ratios=ratio))
        for ratio in (1.5, 1.7)
    )
    assert [line.name for line in compare(old, new).losses] == ["switch/trip ratio"]


def test_a_few_counted_instructions_more_are_told() -> None:
    old, new = (report(COUNTING, result("switch/trip", Unit.CYCLES, (count,) * 3)) for count in (66.0, 67.0))
    assert compare(old, new).lost and not compare(old, old).lost


@pytest.mark.parametrize(
    ("unit", "was", "now", "lost"),
    [
        (Unit.CYCLES, 66.0, 67.0, True),
        (Unit.CYCLES, 50_000.0, 51_000.0, False),
        (Unit.CYCLES, 50_000.0, 52_500.0, True),
        (Unit.NANOSECONDS, 612.0, 620.0, False),
        (Unit.NANOSECONDS, 612.0, 650.0, True),
    ],
)
def test_paths_through_python_may_be_a_little_longer(unit: Unit, was: float, now: float, lost: bool) -> None:
    old, new = (report(COUNTING, result("trap/a", unit, (count,) * 3)) for count in (was, now))
    assert compare(old, new).lost is lost and not compare(new, old).lost


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(NATIVE, backend="vmx"), "another backend: svm before, vmx now"),
        (replace(NATIVE, cpu=""), "another CPU: AMD EPYC 7B13 before, unknown now"),
        (replace(NATIVE, microcode="0x1"), "another microcode"),
        (replace(NATIVE, kernel="7.0"), "another kernel: 6.12.1-amd64 before, 7.0 now"),
        (replace(NATIVE, kvmhost="0.2.0"), "another version of kvmhost"),
        (replace(NATIVE, icount=True), "counts instructions"),
        (replace(NATIVE, hashes={"hardened": "ab" * 32}), "another shim: cdcdcdcdcdcd before, none now"),
        (replace(NATIVE, facts={**NATIVE.facts, "kvm_amd npt": "N"}), "kvm_amd npt: Y before, N now"),
        (replace(NATIVE, facts={**NATIVE.facts, "mitigation meltdown": "PTI"}), "mitigation meltdown: Not"),
    ],
)
def test_what_else_differs_is_told(other: Provenance, said: str) -> None:
    (warning, *_) = compare(report(NATIVE), report(other)).warnings
    assert warning.startswith(said) or said in warning


def test_a_reading_is_no_setting() -> None:
    other = replace(NATIVE, facts={**NATIVE.facts, "load": "3.5"}, made="later")
    assert compare(report(NATIVE), report(other)).warnings == ()


def test_what_spoils_either_is_told() -> None:
    old = replace(report(NATIVE), interrupted=2)
    new = report(NATIVE, spoilers=(Spoiler("load", "3.5", "wait"),))
    assert compare(old, new).warnings == (
        "the earlier measurement was interrupted",
        "the new figures are spoiled by load",
    )


def test_what_only_one_has_is_named_and_no_loss() -> None:
    found = compare(report(NATIVE, *some()[:2]), report(NATIVE, *some()[1:4]))
    assert found.gone == ("switch/empty",) and found.added == ("exit/shim-loop", "exit/shim-loop exits")
    assert not found.lost and len(found.lines) == 3


def test_cycles_and_instructions_are_not_compared() -> None:
    one = result("switch/trip", Unit.CYCLES, (66.0,) * 3)
    found = compare(report(NATIVE, one), report(COUNTING, one))
    assert found.lines == ()
    assert "switch/trip is not compared: it was in cycles, and is in instructions" in found.warnings


def test_nothing_against_nothing() -> None:
    nothing = report(NATIVE, Result("switch/a", Unit.CYCLES, (), "no KVM"))
    assert compare(nothing, nothing).lines == () and not compare(nothing, nothing).lost
