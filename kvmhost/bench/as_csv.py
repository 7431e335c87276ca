"""A report as CSV: one line a figure, each with what it takes to judge it alone.

A spreadsheet mixes lines of several machines, so that each line tells its own.
"""

from __future__ import annotations

import csv
import io

from kvmhost.bench.figures import Figure, figures
from kvmhost.bench.results import Report
from kvmhost.bench.statistics import outliers

COLUMNS = (
    "name", "unit", "median", "low", "high", "least", "most",
    "runs", "values", "outliers", "loops", "stable", "spoilers",
    "backend", "cpu", "microcode", "kernel", "kvmhost", "made",
)  # fmt: skip


def text(report: Report, *, lab_times: bool = False) -> str:
    """The whole table, with a line of names.  What could not be measured has no line."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(COLUMNS)
    for figure in figures(report, lab_times=lab_times):
        writer.writerow([safe(cell) for cell in (*of_figure(figure), *of_report(report))])
    return target.getvalue()


def of_figure(figure: Figure) -> tuple[str | int | float, ...]:
    """What a line has of its figure."""
    values, found = figure.values(), figure.interval()
    return (
        figure.name,
        figure.label,
        *(f"{value:.9g}" for value in (found.middle, found.low, found.high, min(values), max(values))),
        sum(1 for run in figure.runs if run),
        len(values),
        len(outliers(values)),
        figure.loops,
        "yes" if figure.stable else "no",
    )


def of_report(report: Report) -> tuple[str, ...]:
    """What all lines of a report have in common."""
    origin = report.provenance
    return (
        " ".join(spoiler.name for spoiler in report.spoilers),
        "lab, counting instructions" if origin.icount else origin.backend,
        origin.cpu,
        origin.microcode,
        origin.kernel,
        origin.kvmhost,
        origin.made,
    )


def safe(cell: str | int | float) -> str | int | float:
    """A cell that no spreadsheet takes for a formula.

    >>> safe("=1+1")
    "'=1+1"
    """
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "@", "\t", "\r") else cell
