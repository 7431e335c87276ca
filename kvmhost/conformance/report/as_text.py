"""The run for a person at a terminal: where it ran, a line for each group, and then what needs attention.

What is as it should be takes a number; what is not takes a line, with the command that explains it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from kvmhost.conformance.report.words import clean, groups, number, place, timing, told, verdict
from kvmhost.conformance.results import Direction, RowResult, Run, Status, Verdict, disagreements

WIDTH = 110
#: How many lines a section has before it points to the HTML report.
LONGEST = 40
SHORT = {
    Status.PASS: "ok",
    Status.FAIL: "FAILED",
    Status.XFAIL: "known",
    Status.NOT_DEMONSTRABLE: "n/d",
    Status.UNSUPPORTED: "impossible",
    Status.SKIP: "skipped",
    Status.NOT_WRITTEN: "unwritten",
}
MARKS = {
    Verdict.SAFE: ".",
    Verdict.HANDLED: "h",
    Verdict.FATAL: "F",
    Verdict.WRONG: "!",
    Verdict.UNKNOWN: "?",
}
LEGEND = ". safe, h the Host's handler runs, F fatal, ! not as the catalogue says, ? not known"


def render(run: Run, *, with_timing: bool = False) -> str:
    """The whole report; `with_timing` adds where the time went."""
    sections = [
        head(run),
        table(run),
        maps(run),
        failures(run),
        differing(run),
        changes(run),
        troubles(run),
        times(run) if with_timing else (),
        [verdict(run)],
    ]
    return "\n\n".join("\n".join(lines) for section in sections if (lines := list(section))) + "\n"


def folded(text: str, first: str, then: str) -> str:
    """One paragraph."""
    return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=then, break_long_words=False)


def head(run: Run) -> Iterator[str]:
    """What was run, and where."""
    yield f"kvmhost {clean(run.version)} conform: {clean(run.selection)}, seed {run.seed}" + (
        f", each {run.repeat} times" if run.repeat > 1 else ""
    )
    for one in run.environments:
        code = one.class_code or "class not known"
        yield folded(f"{code}: {place(one)}", f"  {one.runner:<6} ", " " * 9)
        if one.masked:
            yield folded(f"known deviations: {' '.join(one.masked)}", " " * 9, " " * 9)
    for absent in run.absent:
        yield folded(clean(f"did not run: {absent.why}"), f"  {absent.runner:<6} ", " " * 9)
        if absent.next_step:
            yield folded(clean(absent.next_step), " " * 9 + "what to do: ", " " * 9)


def table(run: Run) -> Iterator[str]:
    """A line for each group, a column for each runner; the cells count rows."""
    cells = [
        (clean(group), str(len(rows)), *(cell(rows, runner) for runner in run.runners))
        for group, rows in groups(run.rows).items()
    ]
    if not cells:
        return
    lines = [("group", "rows", *run.runners), *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        yield "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()


def cell(rows: list[RowResult], runner: str) -> str:
    """How many rows ended how, the usual first."""
    counts = dict.fromkeys(SHORT, 0)
    for row in rows:
        if any(case.runner == runner for case in row.cases):
            counts[row.status(runner)] += 1
    return ", ".join(f"{count} {SHORT[status]}" for status, count in counts.items() if count) or "-"


def maps(run: Run) -> Iterator[str]:
    """The NMI maps, a character for each boundary."""
    if not run.nmi_maps:
        return
    yield "an NMI at every instruction boundary"
    yield f"  {LEGEND}"
    width = max(len(one.switcher) for one in run.nmi_maps)
    for one in run.nmi_maps:
        strip = "".join(MARKS[boundary.verdict] for boundary in one.boundaries)
        yield clean(f"  {one.switcher:<{width}}  {one.runner:<6} {one.method}").rstrip()
        yield from (f"    {piece}" for piece in textwrap.wrap(strip, WIDTH))
        for boundary in one.boundaries:
            if boundary.verdict in (Verdict.FATAL, Verdict.WRONG):
                detail = f": {boundary.detail}" if boundary.detail else ""
                yield clean(f"    {boundary.label} before {boundary.text}: {boundary.verdict.value}{detail}")


def failures(run: Run) -> Iterator[str]:
    """Every row that failed, with its first failed cases."""
    failed = [row for row in run.rows if row.status() is Status.FAIL]
    if not failed:
        return
    yield "failed:"
    for row in failed[:LONGEST]:
        cases = [case for case in row.cases if case.status is Status.FAIL]
        yield f"  {clean(row.id)}  {clean(row.title)}"
        for case in cases[:3]:
            yield folded(
                f"[{clean(case.case)}] on {case.layer}, {case.runner}: {told(case)}", " " * 4, " " * 6
            )
        if len(cases) > 3:
            yield f"    and {number(len(cases) - 3, 'case')} more"
        yield f"    kvmhost conform --explain {clean(row.id)} --runner {cases[0].runner}"
    yield from rest(len(failed))


def rest(count: int) -> Iterator[str]:
    """That there is more."""
    if count > LONGEST:
        yield f"  and {count - LONGEST:,} more: see --html or --json"


def differing(run: Run) -> Iterator[str]:
    """Where runners disagree and nothing explains it; the others are counted by what explains them."""
    found = disagreements(run)
    if len(run.runners) < 2:
        return
    explained: dict[str, int] = {}
    for one in found:
        for reason in one.explained:
            explained[reason] = explained.get(reason, 0) + 1
    unexplained = [one for one in found if not one.explained]
    yield f"runners disagree on {number(len(found), 'case')}, {len(unexplained):,} of them unexplained"
    facts = {deviation.id: deviation.fact for deviation in run.deviations}
    for reason, count in sorted(explained.items()):
        known = f" ({facts[reason]})" if reason in facts else ""
        yield folded(clean(f"{number(count, 'case')}: {reason}{known}"), "  ", "    ")
    for one in unexplained[:LONGEST]:
        seen = "; ".join(
            f"{runner} {status.word}" + (f" ({what})" if what else "") for runner, status, what in one.seen
        )
        yield folded(clean(f"{one.row} [{one.case}] on {one.layer}: {seen}"), "  ", "    ")
    yield from rest(len(unexplained))


def changes(run: Run) -> Iterator[str]:
    """Against the baseline: what is worse line by line, the rest counted."""
    if run.baseline is None:
        return
    base = run.baseline
    counts = dict.fromkeys(Direction, 0)
    for change in base.changes:
        counts[change.direction] += 1
    told_counts = ", ".join(f"{count:,} {direction.value}" for direction, count in counts.items() if count)
    yield clean(f"against {base.name} of {base.started}: {told_counts or 'nothing changed'}")
    for remark in base.remarks:
        yield folded(clean(remark), "  note: ", "        ")
    shown = [one for one in base.changes if one.direction in (Direction.WORSE, Direction.BETTER)]
    for one in shown[:LONGEST]:
        was, now = (status.word if status else "not run" for status in (one.before, one.after))
        yield clean(
            f"  {one.direction.value}: {one.row} [{one.case}] on {one.layer}, {one.runner}: {was}, now {now}"
        )
    yield from rest(len(shown))


def troubles(run: Run) -> Iterator[str]:
    """What went wrong with the machinery."""
    for text in run.troubles:
        yield folded(clean(text), "a fault of kvmhost itself: ", "  ")


def times(run: Run) -> Iterator[str]:
    """Where the time went."""
    inside = sum(one.engine_seconds for one in run.environments)
    share = 100 * inside / run.seconds if run.seconds else 0.0
    yield f"time: {run.seconds:.1f} s in all, {inside:.1f} s of these ({share:.0f} %) inside engines"
    for one in run.environments:
        yield f"  {one.runner:<6} {timing(one)}"
