"""A report on the terminal: where it comes from, a table a group, what spoils it, and the aims.

Each line has the median with its interval, how often it was measured, how it compares with the group's
reference, and what was counted on the way.  What the lab's clocks say is printed as the lab's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from textwrap import wrap

from kvmhost.bench import catalogue
from kvmhost.bench.aims import NEEDED, Verdict, judge
from kvmhost.bench.benchmark import Benchmark
from kvmhost.bench.compare import Comparison, Line
from kvmhost.bench.figures import CLOCKS, RATIO, Figure, of_result, shows_times
from kvmhost.bench.report.numbers import amount, digits, size, together
from kvmhost.bench.results import Provenance, Report, Result
from kvmhost.bench.statistics import outliers

WIDTH = 100
COUNTED = ("exits", "ioctls", "instructions")
HEAD = ("benchmark", "median", "95 % between", "unit", "ratio", *COUNTED, "runs x values")


def render(report: Report, *, lab_times: bool = False) -> str:
    """All of it, ending in a line break.  lab_times: whether files have the lab's times; this table has."""
    return "\n".join(
        (
            *heading(report.provenance),
            *warning(report.provenance, lab_times),
            *tables(report),
            *unmeasured(report.results),
            *spoiled(report),
            *aims(report),
            "",
        )
    )


def heading(origin: Provenance) -> Iterator[str]:
    """Where all figures come from."""
    counting = ", which counts instructions" if origin.icount else ""
    yield f"kvmhost {origin.kvmhost} on {origin.backend}{counting}; {origin.made}"
    yield f"CPU {origin.cpu}, microcode {origin.microcode}; kernel {origin.kernel}"
    if origin.hashes:
        yield "ring 0: " + ", ".join(f"{name} {value[:12]}" for name, value in origin.hashes.items())


def warning(origin: Provenance, lab_times: bool) -> Iterator[str]:
    """What is to be known about the lab's clocks."""
    if origin.icount:
        yield "The lab counts instructions: that is what its clocks and its time-stamp counter tell here."
    elif origin.timeless:
        files = "" if lab_times else "  Files leave the times out."
        yield f"These are times of the lab and mean nothing; ratios and counts do.{files}"


def tables(report: Report) -> Iterator[str]:
    """A table for each group, with the name of what its ratios are to."""
    known = {one.name: one for suite in catalogue.suites() for one in suite.benchmarks}
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in report.results:
        benchmark = known.get(result.name)
        if result.runs and not (benchmark and benchmark.overhead):
            suite = result.name.partition("/")[0]
            groups.setdefault((suite, benchmark.group if benchmark else ""), []).append(result)
    for (suite, group), results in groups.items():
        yield ""
        yield title(suite, group, results, known)
        yield from aligned([HEAD, *(row(result, report.provenance) for result in results)])
        yield from remarks(results, report.provenance)


def title(suite: str, group: str, results: Sequence[Result], known: Mapping[str, Benchmark]) -> str:
    """What a table has."""
    references = {known[one.name].reference for one in results if one.name in known} - {""}
    words = f"{suite}, {group}" if group and group != suite else suite
    return f"{words} (ratios to {', '.join(sorted(references))})" if references else words


def row(result: Result, origin: Provenance) -> tuple[str, ...]:
    """A benchmark's line."""
    figures = {figure.kind: figure for figure in of_result(result, origin, True) if any(figure.runs)}
    own = figures.get("")
    runs = [len(run.values or run.ratios) for run in result.runs]
    return (
        result.name,
        *(measured(own, origin) if own else ("", "", "")),
        digits(figures[RATIO].interval().middle) if RATIO in figures else "",
        *(digits(figures[kind].interval().middle) if kind in figures else "" for kind in COUNTED),
        f"{len(runs)} x {runs[0]}" if len(set(runs)) == 1 else "+".join(map(str, runs)),
    )


def measured(figure: Figure, origin: Provenance) -> tuple[str, str, str]:
    """The median, its interval, and the unit that both are in."""
    found = figure.interval()
    factor, unit = size(found.middle, figure.label)
    means_something = figure.unit not in CLOCKS or shows_times(origin, False)
    return (*together(found, factor), unit if means_something else f"{unit} (lab)")


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as their widest cell; names to the left, numbers to the right; empty ones left out."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    for cells in zip(*columns, strict=True):
        name, *rest = (
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        yield "  ".join(("", name, *rest)).rstrip()


def remarks(results: Iterable[Result], origin: Provenance) -> Iterator[str]:
    """Outliers, which are in all figures, other counts, and what never came to rest."""
    for result in results:
        figures = {figure.kind: figure for figure in of_result(result, origin, True) if any(figure.runs)}
        said = []
        if "" in figures and (far := outliers(figures[""].values())):
            unit = figures[""].label
            many = "outliers, up to" if len(far) > 1 else "outlier,"
            said.append(f"{len(far)} {many} {amount(max(far, key=abs), unit)}, kept")
        if not all(run.stable for run in result.runs):
            said.append("never came to rest in its warm-up")
        said += [
            f"{kind} {digits(figure.interval().middle)}"
            for kind, figure in figures.items()
            if kind not in (*COUNTED, RATIO, "")
        ]
        if said:
            yield from paragraph(f"{result.name}: {'; '.join(said)}", "    ")


def paragraph(words: str, indent: str = "") -> Iterator[str]:
    """Words in lines."""
    yield from wrap(
        words, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False
    )


def unmeasured(results: Iterable[Result]) -> Iterator[str]:
    """What has no figure, by the reason."""
    reasons: dict[str, list[str]] = {}
    for result in results:
        if result.unmeasured:
            reasons.setdefault(result.unmeasured, []).append(result.name)
    for number, (reason, names) in enumerate(reasons.items()):
        if number == 0:
            yield ""
        yield from paragraph(f"not measured: {', '.join(names)}: {reason}")


def spoiled(report: Report) -> Iterator[str]:
    """What spoils the figures, and that they are not complete."""
    for number, spoiler in enumerate(report.spoilers):
        if number == 0:
            yield ""
        yield from paragraph(f"spoiled by {spoiler.name}: {spoiler.seen}; {spoiler.next_step}")
    if report.interrupted:
        yield ""
        yield "The measurement was interrupted; what had been finished is above."


def aims(report: Report) -> Iterator[str]:
    """The aims, if anything was asked for that they need: each with its figure, or why it has none."""
    if not any(report.find(name) for name in NEEDED):
        return
    yield ""
    yield "aims"
    for one in judge(report):
        yield from paragraph(f"{one.outcome}: {said_of(one)}", "  ")


def said_of(one: Verdict) -> str:
    """An aim with its figure, and what is to be known about that."""
    figure = ", ".join(words for words in (one.figure, one.reason) if words)
    return f"{one.sentence.rstrip('.')}: {figure}"


def render_comparison(name: str, comparison: Comparison) -> str:
    """What became of each figure since the result of that name, ending in a line break."""
    said = ["", f"compared with {name}"]
    for words in comparison.warnings:
        said += paragraph(f"warning: {words}", "  ")
    if comparison.lines:
        head = ("figure", "before", "now", "unit", "ratio", "95 % between", "")
        said += aligned([head, *(compared(line) for line in comparison.lines)])
    for names, what in ((comparison.gone, "no longer measured"), (comparison.added, "new")):
        if names:
            said += paragraph(f"{what}: {', '.join(names)}", "  ")
    said.append(summary(comparison))
    return "\n".join((*said, ""))


def compared(line: Line) -> tuple[str, ...]:
    """One figure's line."""
    was, now = line.old.interval(), line.new.interval()
    factor, unit = size(max(abs(was.middle), abs(now.middle)), line.new.label)
    ratio = line.change.ratio
    return (
        line.name,
        together(was, factor)[0],
        together(now, factor)[0],
        unit,
        f"{ratio.middle:.3f}" if ratio else "",
        f"{ratio.low:.3f} to {ratio.high:.3f}" if ratio else f"{together(line.change.difference)[1]} more",
        "LOSS" if line.change.loss else "gain" if line.change.gain else "",
    )


def summary(comparison: Comparison) -> str:
    """What a comparison comes to."""
    count = len(comparison.lines)
    if not count:
        return "nothing could be compared"
    losses, gains = len(comparison.losses), len(comparison.gains)
    if not losses and not gains:
        return f"none of {count} figures differs significantly"
    return f"of {count} figures {losses} lost and {gains} gained significantly"
