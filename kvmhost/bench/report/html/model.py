"""What the page is made of: files with a letter each, and each benchmark as each file saw it.

A figure is looked at in the form that means something where it was taken: as it is where there is a clock or
where it is a count, and as a ratio to the group's reference where seconds mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from kvmhost.bench import statistics
from kvmhost.bench.benchmark import Benchmark, Unit
from kvmhost.bench.report.html import words
from kvmhost.bench.results import Report, Result
from kvmhost.bench.statistics import Interval

#: Colours that people with any eyes can tell apart; a sixth file begins again, and has its letter still.
COLOURS = 5


class Scale(NamedTuple):
    """What may share an axis: the same word for the same thing, both with or both without a meaning."""

    unit: Unit | None  # None: a ratio
    icount: bool
    meaningful: bool

    def amount(self, value: float) -> str:
        """A figure on this scale, with its unit."""
        return words.times(value) if self.unit is None else words.amount(value, self.unit, self.icount)

    def between(self, found: Interval) -> str:
        """An interval on this scale."""
        if self.unit is None:
            return f"{words.times(found.low)} to {words.times(found.high)}"
        return words.between(found.low, found.high, self.unit, self.icount)


RATIO = Scale(None, False, True)


@dataclass(frozen=True)
class File:
    """One result file; the number of its colour, a letter that stands beside the colour, its name."""

    number: int
    label: str
    report: Report

    @property
    def letter(self) -> str:
        """A, B, C; after Z come A1, B1."""
        round_, place = divmod(self.number, 26)
        return f"{chr(65 + place)}{round_ or ''}"

    @property
    def colour(self) -> str:
        """Its class in the style sheet."""
        return f"f{self.number % COLOURS + 1}"

    @property
    def timeless(self) -> bool:
        """Whether seconds mean nothing in it."""
        return self.report.provenance.timeless

    @cached_property
    def sights(self) -> dict[str, Sight]:
        """Every benchmark in it by name."""
        return {result.name: Sight(self, result) for result in self.report.results}

    def measured(self, name: str) -> Sight | None:
        """That benchmark, if there is anything to show of it."""
        sight = self.sights.get(name)
        return sight if sight and sight.found else None


@dataclass(frozen=True)
class Sight:
    """One benchmark as one file saw it."""

    file: File
    result: Result

    @property
    def name(self) -> str:
        """The benchmark's name."""
        return self.result.name

    @property
    def native(self) -> Scale:
        """The scale of its values as they are."""
        unit, provenance = self.result.unit, self.file.report.provenance
        return Scale(unit, provenance.icount, words.meaningful(unit, provenance))

    @cached_property
    def values(self) -> tuple[tuple[float, ...], ...]:
        """The values of each run that has any."""
        return tuple(run.values for run in self.result.runs if run.values)

    @cached_property
    def ratios(self) -> tuple[tuple[float, ...], ...]:
        """The same for its ratios to the reference."""
        return tuple(run.ratios for run in self.result.runs if run.ratios)

    @cached_property
    def figure(self) -> Interval | None:
        """The median as it is, with its interval."""
        return statistics.interval(self.values) if self.values else None

    @cached_property
    def ratio(self) -> Interval | None:
        """The median of the ratios to the group's reference, with its interval."""
        return statistics.interval(self.ratios) if self.ratios else None

    @property
    def scale(self) -> Scale:
        """The scale it is looked at on."""
        return RATIO if self.ratios and not (self.native.meaningful and self.values) else self.native

    @property
    def runs(self) -> tuple[tuple[float, ...], ...]:
        """What is looked at on that scale."""
        return self.ratios if self.scale is RATIO else self.values

    @property
    def found(self) -> Interval | None:
        """The middle of what is looked at; None if nothing was measured."""
        return self.ratio if self.scale is RATIO else self.figure

    @property
    def constant(self) -> bool:
        """Whether it is the same number every time, with nothing to be drawn."""
        return len({value for run in self.runs for value in run}) == 1

    @cached_property
    def counts(self) -> dict[str, tuple[float, float, float]]:
        """Exact numbers per operation by kind: least, median, most."""
        kinds = dict.fromkeys(kind for run in self.result.runs for kind in run.counts)
        found = {}
        for kind in kinds:
            numbers = sorted(one for run in self.result.runs for one in run.counts.get(kind, ()))
            if numbers:
                found[kind] = (numbers[0], numbers[len(numbers) // 2], numbers[-1])
        return found

    @property
    def why(self) -> str:
        """Why there is nothing to plot."""
        if self.result.unmeasured:
            return self.result.unmeasured
        if self.result.runs and self.file.timeless:
            return "times of the lab are left out of files that were not asked to have them (--lab-times)"
        return "no reason was given"

    @property
    def stable(self) -> bool:
        """Whether every run had warmed up before it was believed."""
        return all(run.stable for run in self.result.runs)


@dataclass(frozen=True)
class Page:
    """Everything that sections are made of."""

    files: tuple[File, ...]
    benchmarks: Mapping[str, Benchmark]
    titles: Mapping[str, str]  # of suites

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every benchmark of any file: in the catalogue's order, then what the catalogue does not know."""
        seen = dict.fromkeys(result.name for file in self.files for result in file.report.results)
        known = [name for name in self.benchmarks if name in seen]
        return (*known, *(name for name in seen if name not in self.benchmarks))

    @property
    def suites(self) -> dict[str, list[str]]:
        """The names by suite."""
        found: dict[str, list[str]] = {}
        for name in self.names:
            found.setdefault(name.partition("/")[0], []).append(name)
        return found

    def sights(self, name: str) -> list[Sight]:
        """One benchmark in every file that has something to show of it."""
        return [sight for file in self.files if (sight := file.measured(name))]

    def reasons(self, name: str) -> list[tuple[File, str]]:
        """Why files have nothing of it."""
        return [
            (file, file.sights[name].why if name in file.sights else "it is not in this file")
            for file in self.files
            if not file.measured(name)
        ]

    def reference(self, name: str) -> str:
        """What its ratios are to; "" where that is not known."""
        return self.benchmarks[name].reference if name in self.benchmarks else ""

    def is_overhead(self, name: str) -> bool:
        """Whether it exists only to be subtracted."""
        return name in self.benchmarks and self.benchmarks[name].overhead


def page(
    reports: Sequence[tuple[str, Report]], benchmarks: Sequence[Benchmark], titles: Mapping[str, str]
) -> Page:
    """Files get their letters here."""
    files = tuple(File(number, label, report) for number, (label, report) in enumerate(reports))
    return Page(files, {benchmark.name: benchmark for benchmark in benchmarks}, titles)


def short(name: str, *prefixes: str) -> str:
    """A name as a label: without its suite, and without what all its neighbours begin with.

    >>> short("switch/part-mov-cr3", "part-")
    'mov cr3'
    """
    rest = name.partition("/")[2] or name
    for prefix in prefixes:
        rest = rest.removeprefix(prefix)
    return rest.replace("-", " ")
