"""The lines of every table: what a report has to say, one figure after the other.

A benchmark has its own figure and may have exact ones besides: "switch/round-trip exits".  Here alone it is
decided what a report from the lab shows: its seconds mean nothing, so that ratios and counts are left.  If
the machine beneath counts instructions, then what is called cycles or nanoseconds elsewhere is a number of
instructions, and is shown as that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kvmhost.bench.benchmark import Unit
from kvmhost.bench.results import Provenance, Report, Result
from kvmhost.bench.statistics import INSTRUCTIONS, LONG_PATHS, TIMES, Interval, Noise, Runs, interval

#: The kind of figure that a value over the reference's is.
RATIO = "ratio"
#: So many instructions inside the VM go through nothing but text of ours, and are the same each time.
SHORT_PATH = 5000
CLOCKS = (Unit.CYCLES, Unit.NANOSECONDS)


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure with all its values.

    kind: "" for the benchmark's own, "ratio", or what is counted.  label: the unit in words.  exact: a count.
    stable: every run had settled before it was measured.  loops: operations a sample, of the first run.

    >>> one = Figure("exit/hlt", "exits", Unit.COUNT, "exits", ((1.0, 1.0),))
    >>> one.name, one.interval().middle
    ('exit/hlt exits', 1.0)
    """

    benchmark: str
    kind: str
    unit: Unit
    label: str
    runs: Runs
    exact: bool = False
    stable: bool = True
    loops: int = 1
    noise: Noise = TIMES

    @property
    def name(self) -> str:
        """What the figure is called in tables and files."""
        return f"{self.benchmark} {self.kind}".rstrip()

    def values(self) -> tuple[float, ...]:
        """All values of all runs."""
        return tuple(value for run in self.runs for value in run)

    def interval(self) -> Interval:
        """The median and between what it lies."""
        return interval(self.runs)


def shows_times(provenance: Provenance, lab_times: bool) -> bool:
    """Whether what clocks say are figures: in the lab only if somebody asked, or instructions are counted."""
    return lab_times or provenance.icount or not provenance.timeless


def label(unit: Unit, provenance: Provenance) -> str:
    """A unit in words, where it was measured.

    >>> label(Unit.CYCLES, Provenance("lab", "", "", "", "", 0, "", icount=True))
    'instructions'
    """
    return "instructions" if unit in CLOCKS and provenance.icount else unit.value


def figures(report: Report, *, lab_times: bool = False) -> tuple[Figure, ...]:
    """All figures that a report shows, in its order."""
    return tuple(
        figure
        for result in report.results
        for figure in of_result(result, report.provenance, lab_times)
        if any(figure.runs) and (figure.kind != RATIO or not shows_times(report.provenance, False))
    )


def of_result(result: Result, provenance: Provenance, lab_times: bool) -> Iterator[Figure]:
    """Those of one benchmark, and its ratio to the reference in any case."""
    runs = result.runs
    if not runs:
        return
    settled, loops = all(run.stable for run in runs), runs[0].loops
    if result.unit not in CLOCKS or shows_times(provenance, lab_times):
        values = tuple(run.values for run in runs)
        exact, noise = nature(result.unit, values, provenance)
        words = label(result.unit, provenance)
        yield Figure(result.name, "", result.unit, words, values, exact, settled, loops, noise)
    for kind in sorted({kind for run in runs for kind in run.counts}):
        values = tuple(run.counts.get(kind, ()) for run in runs)
        yield Figure(result.name, kind, Unit.COUNT, kind, values, exact=True, stable=settled, loops=loops)
    yield Figure(
        result.name, RATIO, Unit.COUNT, "", tuple(run.ratios for run in runs), stable=settled, loops=loops
    )


def nature(unit: Unit, values: Runs, provenance: Provenance) -> tuple[bool, Noise]:
    """Whether values are exact numbers, and what noise is to be expected of them."""
    if unit not in CLOCKS or not provenance.icount:
        return unit is Unit.COUNT, TIMES
    short = unit is Unit.CYCLES and all(value < SHORT_PATH for run in values for value in run)
    return short, INSTRUCTIONS if short else LONG_PATHS
