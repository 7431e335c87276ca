"""Each aim is met by a figure that reaches it, missed by one that does not, and never met without one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from bench.reports import COUNTING, LAB, NATIVE, report, result

from kvmhost.bench import aims, catalogue
from kvmhost.bench.aims import AIMS, Outcome, Verdict
from kvmhost.bench.benchmark import Unit
from kvmhost.bench.results import Provenance, Report, Result

CYCLES, NS, BYTES = Unit.CYCLES, Unit.NANOSECONDS, Unit.BYTES


def one(name: str, unit: Unit, value: float, **counts: float) -> Result:
    """Two runs with hardly any noise."""
    return result(name, unit, (value, value * 1.001, value * 0.999), (value,) * 3, **counts)


#: What reaches each aim, and what just does not.
CASES: dict[str, tuple[tuple[Result, ...], tuple[Result, ...]]] = {
    "exit/loop": (
        (one("exit/c-loop", NS, 600.0), one("exit/shim-loop", NS, 611.0)),
        (one("exit/c-loop", NS, 600.0), one("exit/shim-loop", NS, 613.0)),
    ),
    "exit/python": (
        (one("exit/shim-loop", NS, 600.0), one("exit/python-handler", NS, 990.0)),
        (one("exit/shim-loop", NS, 600.0), one("exit/python-handler", NS, 1010.0)),
    ),
    "exit/calls": (
        (
            one("exit/shim-loop", NS, 600.0, exits=1.0, ioctls=0.0),
            one("exit/python-handler", NS, 990.0, exits=1.0, ioctls=0.0),
        ),
        (
            one("exit/shim-loop", NS, 600.0, exits=1.0, ioctls=0.0),
            one("exit/python-handler", NS, 990.0, exits=1.0, ioctls=1.0),
        ),
    ),
    "switch/hardened": (
        (one("switch/round-trip-seed", CYCLES, 800.0), one("switch/round-trip-hardened", CYCLES, 838.0)),
        (one("switch/round-trip-seed", CYCLES, 800.0), one("switch/round-trip-hardened", CYCLES, 842.0)),
    ),
    "switch/instructions": (
        (one("switch/round-trip-hardened", CYCLES, 800.0, instructions=70.0),),
        (one("switch/round-trip-hardened", CYCLES, 800.0, instructions=71.0),),
    ),
    "machine/first": (
        (one("machine/bare-first-instruction", NS, 1e6), one("machine/first-instruction", NS, 1.29e6)),
        (one("machine/bare-first-instruction", NS, 1e6), one("machine/first-instruction", NS, 1.31e6)),
    ),
    "machine/command": (
        (one("machine/run-command-first-instruction", NS, 0.29e9),),
        (one("machine/run-command-first-instruction", NS, 0.31e9),),
    ),
    "machine/memory": (
        (one("machine/memory-beside-guest", BYTES, 39e6),),
        (one("machine/memory-beside-guest", BYTES, 41e6),),
    ),
    "harness/empty": (
        (result("switch/empty", CYCLES, (0.1, -0.1, 0.0), (0.0, 0.1, -0.1)),),
        (result("switch/empty", CYCLES, (5.1, 5.2, 5.0), (5.0, 5.1, 5.2)),),
    ),
    "harness/itself": (
        tuple(one(f"exit/{number}", NS, 600.0) for number in range(20)),
        tuple(result(f"exit/{number}", NS, (600.0,) * 9, (700.0,) * 9) for number in range(20)),
    ),
}


def verdict(name: str, made: Report) -> Verdict:
    (found,) = (each for each in aims.judge(made) if each.name == name)
    return found


def test_every_aim_has_its_case() -> None:
    assert set(CASES) == {aim.name for aim in AIMS}


@pytest.mark.parametrize("name", CASES)
def test_an_aim_is_met_and_missed(name: str) -> None:
    good, bad = (verdict(name, report(NATIVE, *results)) for results in CASES[name])
    assert (good.outcome, bad.outcome) == (Outcome.MET, Outcome.MISSED)
    assert good.figure and bad.figure and bad.missed and not good.missed


@pytest.mark.parametrize("name", CASES)
def test_without_a_figure_nothing_is_met(name: str) -> None:
    nothing = report(NATIVE, one("trap/other", NS, 5.0))
    found = verdict(name, replace(nothing, results=()))
    assert found.outcome is Outcome.NOT_HERE and found.reason and not found.figure
    names = {needed for aim in AIMS if aim.name == name for needed in aim.needs}
    lacking = [Result(needed, NS, (), "there is no KVM") for needed in names]
    if lacking:
        assert "there is no KVM" in verdict(name, report(NATIVE, *lacking)).reason


@pytest.mark.parametrize(
    ("name", "provenance", "outcome"),
    [
        ("exit/loop", LAB, Outcome.NOT_HERE),
        ("exit/loop", COUNTING, Outcome.MET),
        ("exit/python", COUNTING, Outcome.NOT_HERE),
        ("exit/calls", LAB, Outcome.MET),
        ("switch/hardened", LAB, Outcome.NOT_HERE),
        ("switch/instructions", LAB, Outcome.MET),
        ("switch/instructions", COUNTING, Outcome.MET),
        ("machine/command", LAB, Outcome.NOT_HERE),
        ("machine/memory", LAB, Outcome.MET),
        ("harness/empty", LAB, Outcome.NOT_HERE),
        ("harness/empty", COUNTING, Outcome.MET),
    ],
)
def test_seconds_of_the_lab_meet_nothing(name: str, provenance: Provenance, outcome: Outcome) -> None:
    found = verdict(name, report(provenance, *CASES[name][0]))
    assert found.outcome is outcome
    assert bool(found.reason) is (outcome is Outcome.NOT_HERE or provenance.icount)


def test_one_run_does_not_agree_with_itself() -> None:
    made = report(NATIVE, result("exit/a", NS, (600.0,) * 9))
    assert "this result has one" in verdict("harness/itself", made).reason


def test_what_is_needed_is_named_once() -> None:
    assert len(aims.NEEDED) == len(set(aims.NEEDED)) == 10


def test_what_is_needed_is_in_the_catalogue() -> None:
    """An aim that names no benchmark would never be measured, and nobody would hear of it."""
    every = {benchmark.name for suite in catalogue.suites() for benchmark in suite.benchmarks}
    assert set(aims.NEEDED) <= every
