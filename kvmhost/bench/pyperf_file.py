"""A report as a file of pyperf's, and back: its tools work on ours, and nothing of ours is lost.

The format is pyperf's "1.0": suites of benchmarks of runs of values, with metadata at each level that hold
for everything below.  What pyperf has a name for goes by that name; the rest is under "kvmhost_...".  Units
are pyperf's: seconds, bytes, and "integer" for cycles, counts and counted instructions.

pyperf refuses values of 0 and below, and an empty benchmark has them.  Such a series is written with a shift
added to all of its values, which is in the metadata and is taken off again by the reader.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from math import ceil, log2
from pathlib import Path
from typing import Any

from kvmhost.bench import files
from kvmhost.bench.benchmark import Unit
from kvmhost.bench.figures import CLOCKS, Figure, of_result
from kvmhost.bench.results import Provenance, Report, Result, Series

VERSION = "1.0"
#: Of our own part of the metadata; a reader refuses a later one.
FORMAT = 1
OWN = "kvmhost_"
HASH, FACT = OWN + "hash_", OWN + "fact_"
UNITS = {Unit.NANOSECONDS: "second", Unit.BYTES: "byte", Unit.CYCLES: "integer", Unit.COUNT: "integer"}
#: How many of ours are one of pyperf's units.
SCALE = {"second": 1e9}
#: The smallest shift, by pyperf's unit; powers of two, which spoil few digits.  About a nanosecond.
SHIFT = {"second": 2.0**-30}
LEFT_OUT = "its figures are times of the lab, which the file leaves out"


def write(path: Path, report: Report, *, lab_times: bool = False) -> None:
    """Write a report, whole or not at all; times of the lab only if asked.  Raises ResultFileError."""
    files.write(path, text(report, lab_times=lab_times))


def text(report: Report, *, lab_times: bool = False) -> str:
    """The file's content."""
    benchmarks, order = [], []
    for result in report.results:
        kept = [figure for figure in of_result(result, report.provenance, lab_times) if any(figure.runs)]
        benchmarks += [benchmark(figure, result, report.provenance, lab_times) for figure in kept]
        reason = result.unmeasured or ("" if kept else LEFT_OUT)
        order.append([result.name, result.unit.value, reason])
    whole = {"benchmarks": benchmarks, "metadata": metadata(report, order), "version": VERSION}
    return json.dumps(whole, allow_nan=False, separators=(",", ":")) + "\n"


def metadata(report: Report, order: Sequence[object]) -> dict[str, str | int | float]:
    """What holds for all: where it comes from, and what was found about it."""
    origin = report.provenance
    return {
        **({"date": origin.made.replace("T", " ")} if is_date(origin.made) else {}),
        "cpu_model_name": line(origin.cpu),
        "platform": line(origin.kernel),
        OWN + "format": FORMAT,
        OWN + "version": line(origin.kvmhost),
        OWN + "backend": line(origin.backend),
        OWN + "microcode": line(origin.microcode),
        OWN + "made": line(origin.made),
        OWN + "tsc_hz": origin.tsc_hz,
        OWN + "icount": int(origin.icount),
        **{HASH + name: line(value) for name, value in origin.hashes.items()},
        **{FACT + name: line(value) for name, value in origin.facts.items()},
        OWN + "spoilers": json.dumps([[one.name, one.seen, one.next_step] for one in report.spoilers]),
        OWN + "words": json.dumps(report.words),
        OWN + "seconds": report.seconds,
        OWN + "interrupted": report.interrupted,
        OWN + "troubles": json.dumps(report.troubles),
        OWN + "results": json.dumps(order),
    }


def line(words: str) -> str:
    """On one line, and never empty: pyperf wants it so.

    >>> line(" a\\nb "), line("")
    ('a b', 'unknown')
    """
    return " ".join(words.split()) or "unknown"


def is_date(words: str) -> bool:
    """Whether pyperf could read it."""
    try:
        datetime.fromisoformat(words)
    except ValueError:
        return False
    return True


def benchmark(figure: Figure, result: Result, origin: Provenance, lab_times: bool) -> dict[str, Any]:
    """One figure as a benchmark of pyperf's."""
    unit = "integer" if origin.icount and figure.unit in CLOCKS else UNITS[figure.unit]
    scale = SCALE.get(unit, 1.0)
    warmups = [run.warmups if not figure.kind else () for run in result.runs]
    lowest = min(value for values in (*figure.runs, *warmups) for value in values) / scale
    shift = 0.0 if lowest > 0 else 2.0 ** ceil(log2(max(-2 * lowest, SHIFT.get(unit, 1.0))))
    runs = []
    for number, (run, values, warm) in enumerate(zip(result.runs, figure.runs, warmups, strict=True)):
        if not values:
            continue
        facts: dict[str, float] = {"loops": run.loops, OWN + "run": number, OWN + "stable": int(run.stable)}
        if not figure.kind:
            facts |= {OWN + "overhead": run.overhead, "duration": seconds(figure, run, origin)}
        else:
            facts["duration"] = 0.0
        made: dict[str, Any] = {"metadata": facts, "values": [value / scale + shift for value in values]}
        if warm:
            made["warmups"] = [[run.loops, value / scale + shift] for value in warm]
        runs.append(made)
    described = {
        "name": figure.name,
        "unit": unit,
        OWN + "benchmark": figure.benchmark,
        OWN + "kind": figure.kind or "value",
        OWN + "unit": figure.unit.value,
        **({OWN + "label": figure.label} if figure.label else {}),
        **({OWN + "shift": shift} if shift else {}),
        **({"description": line(says)} if (says := description(figure.benchmark)) else {}),
    }
    return {"metadata": described, "runs": runs}


def seconds(figure: Figure, run: Series, origin: Provenance) -> float:
    """How long the values of a run took; 0 where that is not to be told from them."""
    rates = {} if origin.icount else {Unit.NANOSECONDS: 1e9, Unit.CYCLES: origin.tsc_hz}
    rate = rates.get(figure.unit, 0)
    return max(0.0, sum(run.values) + len(run.values) * run.overhead) * run.loops / rate if rate else 0.0


def description(name: str) -> str:
    """What the catalogue says of a benchmark, if it knows it."""
    from kvmhost.bench.catalogue import suites

    return next((one.says for suite in suites() for one in suite.benchmarks if one.name == name), "")
