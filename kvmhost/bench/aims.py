"""What kvmhost wants to reach, each with the figure that says whether it does.

An aim is a sentence, the benchmarks it needs, and a judge.  Where a figure would mean nothing (seconds in the
lab) or was not measured, the verdict says so and why: no aim is met for want of a figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from kvmhost.bench.benchmark import Unit
from kvmhost.bench.figures import label, of_result, shows_times
from kvmhost.bench.report.numbers import told
from kvmhost.bench.results import Report, Result
from kvmhost.bench.statistics import TIMES, Runs, change, interval


class Outcome(StrEnum):
    """What became of an aim."""

    MET = "met"
    MISSED = "missed"
    NOT_HERE = "not measurable here"


@dataclass(frozen=True, slots=True)
class Verdict:
    """An aim and what came of it.

    figure: what was measured, with its interval and in words; empty if nothing was.  reason: why nothing was,
    or what is to be known about the figure.

    >>> Verdict("a", "At most 3.", Outcome.MISSED, "4").missed
    True
    """

    name: str
    sentence: str
    outcome: Outcome
    figure: str = ""
    reason: str = ""

    @property
    def missed(self) -> bool:
        """It was measured, and is not what it should be."""
        return self.outcome is Outcome.MISSED


class NotHere(Exception):
    """No figure, and why."""


@dataclass(frozen=True, slots=True)
class Aim:
    """needs: the benchmarks whose figures decide.  judge: whether it is met, and the figure in words; raises
    NotHere."""

    name: str
    sentence: str
    needs: tuple[str, ...]
    judge: Callable[[Report], tuple[bool, str]]


def judge(report: Report) -> tuple[Verdict, ...]:
    """What became of every aim in this report."""
    return tuple(verdict(aim, report) for aim in AIMS)


def verdict(aim: Aim, report: Report) -> Verdict:
    """What became of one."""
    try:
        met, figure = aim.judge(report)
    except NotHere as why:
        return Verdict(aim.name, aim.sentence, Outcome.NOT_HERE, reason=str(why))
    counted = "counted in instructions" if report.provenance.icount else ""
    return Verdict(aim.name, aim.sentence, Outcome.MET if met else Outcome.MISSED, figure, counted)


def runs_of(report: Report, name: str, kind: str = "") -> Runs:
    """The values of a figure, run by run.  Raises NotHere."""
    found = report.find(name)
    if found is None:
        raise NotHere(f"{name} was not asked for")
    if not found.runs:
        raise NotHere(f"{name}: {found.unmeasured or 'it has no figure'}")
    figure = next((one for one in of_result(found, report.provenance, True) if one.kind == kind), None)
    if figure is None or not any(figure.runs):
        raise NotHere(f"{name} has no {kind or 'times'} in this result")
    return figure.runs


def need_meaning(report: Report) -> None:
    """What clocks say must mean something, if only instructions.  Raises NotHere."""
    if not shows_times(report.provenance, False):
        raise NotHere("times mean nothing in the lab")


def need_seconds(report: Report) -> None:
    """Seconds must be seconds.  Raises NotHere."""
    if report.provenance.timeless:
        raise NotHere("seconds mean nothing in the lab: it takes a machine whose own KVM runs Guests")


def times(name: str, other: str, most: float) -> Callable[[Report], tuple[bool, str]]:
    """One figure is at most so many times another one."""

    def decide(report: Report) -> tuple[bool, str]:
        need_meaning(report)
        ratio = change(runs_of(report, other), runs_of(report, name)).ratio
        if ratio is None:
            raise NotHere(f"{other} reads nothing")
        return ratio.middle <= most, f"{ratio.middle:.3f} times ({ratio.low:.3f} to {ratio.high:.3f})"

    return decide


def adds(name: str, other: str, most: float) -> Callable[[Report], tuple[bool, str]]:
    """One figure is at most so many nanoseconds more than another one."""

    def decide(report: Report) -> tuple[bool, str]:
        need_seconds(report)
        apart = change(runs_of(report, other), runs_of(report, name)).difference
        return apart.middle <= most, told(apart, "ns")

    return decide


def at_most(
    name: str, most: float, *, kind: str = "", seconds: bool = False
) -> Callable[[Report], tuple[bool, str]]:
    """A figure, or a count of it, is at most so large."""

    def decide(report: Report) -> tuple[bool, str]:
        if seconds:
            need_seconds(report)
        found = interval(runs_of(report, name, kind))
        unit = report_unit(report, name)
        return found.middle <= most, told(found, kind or unit)

    return decide


def report_unit(report: Report, name: str) -> str:
    """The unit of a benchmark, in words."""
    found = report.find(name)
    return label(found.unit if found else Unit.COUNT, report.provenance)


def nothing_but_runs(report: Report) -> tuple[bool, str]:
    """No system call on KVM's files besides KVM_RUN, for a trap that the shim or a handler deals with."""
    said, met = [], True
    for name in ("exit/shim-loop", "exit/python-handler"):
        calls = interval(runs_of(report, name, "ioctls")).middle
        exits = interval(runs_of(report, name, "exits")).middle
        met = met and calls == 0
        said.append(f"{name}: {calls:g} besides {exits:g} KVM_RUN a trap")
    return met, "; ".join(said)


def reads_nothing(report: Report) -> tuple[bool, str]:
    """The empty benchmark's interval holds 0."""
    need_meaning(report)
    found = interval(runs_of(report, "switch/empty"))
    return found.holds(0.0), told(found, report_unit(report, "switch/empty"))


def agrees_with_itself(report: Report) -> tuple[bool, str]:
    """The later half of the runs does not differ from the earlier one where nothing was changed."""
    need_meaning(report)
    pairs = [pair for result in report.results if all(pair := halves(result))]
    if not pairs:
        raise NotHere("it takes two runs or more, and this result has one")
    differ = sum(change(old, new, noise=TIMES).significant for old, new in pairs)
    part = differ / len(pairs)
    return part < MOST_DIFFERENT, f"{differ} of {len(pairs)} benchmarks ({part:.1%})"


def halves(result: Result) -> tuple[Runs, Runs]:
    """The earlier and the later runs."""
    values = tuple(run.values for run in result.runs if run.values)
    return values[: len(values) // 2], values[len(values) // 2 :]


#: Of all benchmarks, the part that may differ between two runs of one build.
MOST_DIFFERENT = 0.05
AIMS = (
    Aim(
        "exit/loop",
        "The shim's loop costs at most 1.02 times a bare C loop around KVM_RUN.",
        ("exit/shim-loop", "exit/c-loop"),
        times("exit/shim-loop", "exit/c-loop", 1.02),
    ),
    Aim(
        "exit/python",
        "A Python handler adds at most 0.4 us to a trap.",
        ("exit/python-handler", "exit/shim-loop"),
        adds("exit/python-handler", "exit/shim-loop", 400.0),
    ),
    Aim(
        "exit/calls",
        "No system call besides KVM_RUN.",
        ("exit/shim-loop", "exit/python-handler"),
        nothing_but_runs,
    ),
    Aim(
        "switch/hardened",
        "A round trip of hardened costs at most 1.05 times one of seed.",
        ("switch/round-trip-hardened", "switch/round-trip-seed"),
        times("switch/round-trip-hardened", "switch/round-trip-seed", 1.05),
    ),
    Aim(
        "switch/instructions",
        "A round trip of hardened takes at most 70 instructions.",
        ("switch/round-trip-hardened",),
        at_most("switch/round-trip-hardened", 70, kind="instructions"),
    ),
    Aim(
        "machine/first",
        "From create to a Guest's first instruction: at most 1.3 times the bare C program's time.",
        ("machine/first-instruction", "machine/bare-first-instruction"),
        times("machine/first-instruction", "machine/bare-first-instruction", 1.3),
    ),
    Aim(
        "machine/command",
        "From the start of `kvmhost run` to the first Guest instruction: under 0.3 s.",
        ("machine/run-command-first-instruction",),
        at_most("machine/run-command-first-instruction", 0.3e9, seconds=True),
    ),
    Aim(
        "machine/memory",
        "At most 40 MB beside the Guest's memory.",
        ("machine/memory-beside-guest",),
        at_most("machine/memory-beside-guest", 40e6),
    ),
    Aim("harness/empty", "An empty benchmark reads 0 within its interval.", ("switch/empty",), reads_nothing),
    Aim(
        "harness/itself",
        "Two halves of the runs of one build differ significantly in under 5 % of benchmarks.",
        (),
        agrees_with_itself,
    ),
)
#: What `kvmhost bench aims` measures.
NEEDED = tuple(dict.fromkeys(name for aim in AIMS for name in aim.needs))
