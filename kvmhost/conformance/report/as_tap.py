"""The run as TAP version 14: a line for each row and runner, with a YAML block where something is to be told.

A known deviation is `not ok` with TODO, which TAP readers do not count as a failure and never as a pass; what
did not run, or cannot be shown here, is SKIP.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from kvmhost.conformance.report.words import clean, timing, told, verdict
from kvmhost.conformance.results import RowResult, Run, Status


def render(run: Run, *, with_timing: bool = False) -> str:
    """The whole stream; `with_timing` adds where the time went, as comments."""
    stream = [*lines(run)]
    if with_timing:
        stream += [f"# {one.runner}: {timing(one)}" for one in run.environments]
    return "\n".join(stream) + "\n"


def lines(run: Run) -> Iterator[str]:
    """In the order of runners and rows; what went wrong with the machinery fails too."""
    points = [(row, runner) for runner in run.runners for row in run.rows if has(row, runner)]
    wrong = [clean(text) for text in run.troubles]
    wrong += [f"{one.runner} did not run: {clean(one.why)}" for one in run.absent]
    yield "TAP version 14"
    if not points and not wrong:
        yield "1..0 # SKIP nothing was run"
        return
    yield f"1..{len(points) + len(wrong)}"
    for count, (row, runner) in enumerate(points, start=1):
        yield from point(count, row, runner)
    for count, text in enumerate(wrong, start=len(points) + 1):
        yield f"not ok {count} - {escaped(text)}"
    if run.interrupted:
        yield f"Bail out! {clean(run.interrupted)}"
    yield f"# {verdict(run)}"


def has(row: RowResult, runner: str) -> bool:
    """Whether this runner has anything to say on the row."""
    return any(case.runner == runner for case in row.cases)


def point(count: int, row: RowResult, runner: str) -> Iterator[str]:
    """One test point with what explains it."""
    status = row.status(runner)
    cases = [case for case in row.cases if case.runner == runner and case.status is status]
    reasons = "; ".join(dict.fromkeys(case.because for case in cases if case.because))
    ok = "not ok" if status in (Status.FAIL, Status.XFAIL) else "ok"
    directive = {Status.PASS: "", Status.FAIL: "", Status.XFAIL: " # TODO "}.get(status, " # SKIP ")
    if directive:
        directive += escaped(f"{status.word}: {reasons or 'no reason given'}")
    yield f"{ok} {count} - {escaped(f'{runner} {row.id} {row.title}')}{directive}"
    if status in (Status.FAIL, Status.XFAIL):
        yield "  ---"
        yield f"  status: {status.value}"
        yield "  cases:"
        for case in cases:
            yield f"    - {json.dumps(clean(f'[{case.case}] on {case.layer}: {told(case)}'))}"
        yield "  ..."


def escaped(text: str) -> str:
    """A description or a reason: only `\\` and `#` mean something there.

    >>> escaped("INT #3")
    'INT \\\\#3'
    """
    return clean(text).replace("\\", "\\\\").replace("#", "\\#")
