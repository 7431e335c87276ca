"""Words and numbers that every form of the report shares, and what keeps strange characters out of them.

Titles, reasons and what a machine answered are somebody else's text.  A control character in it would reach
a terminal, and in XML it must not occur at all: each is shown as Python would write it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from kvmhost.conformance.results import SILENT, CaseResult, CodeLine, Environment, RowResult, Run, Status

#: The kinds of rows, by the catalogue's letters.
KINDS = {
    "P": "initial state and bytes give a final state",
    "E": "needs an injected event",
    "K": "uses the KVM interface",
    "S": "statistical, stress",
    "N": "negative control: must be seen to break as predicted",
}


def clean(text: str) -> str:
    """The text with everything that cannot be seen made visible, line ends too.

    >>> clean("a\\tb\\x1b[31m")
    'a\\\\tb\\\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def number(count: int, thing: str) -> str:
    """How many of a thing.

    >>> number(1, "row"), number(1200, "case")
    ('1 row', '1,200 cases')
    """
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def place(environment: Environment) -> str:
    """Where a runner ran, in one line."""
    where = {"lab": "in the lab", "native": "on this machine", "": ""}[environment.backend]
    facts = (" ".join(filter(None, (environment.engine, where))), environment.cpu)
    kernel = f"Linux {environment.kernel}" if environment.kernel else ""
    return clean(", ".join(filter(None, (*facts, kernel))))


def groups(rows: Iterable[RowResult]) -> dict[str, list[RowResult]]:
    """The rows by their groups, both in the order of the catalogue."""
    found: dict[str, list[RowResult]] = {}
    for row in rows:
        found.setdefault(row.group, []).append(row)
    return found


def case_name(row: RowResult, case: CaseResult) -> str:
    """The case as people call it: its row, its name, its layer."""
    return clean(f"{row.id} [{case.case}] on {case.layer}")


def told(case: CaseResult) -> str:
    """Why a case ended as it did; "" if there is nothing to say."""
    again = f"{case.failed} of {case.repeated} times" if case.failed and case.repeated > 1 else ""
    differences = [f"{one.what} is {one.found}, expected {one.expected}" for one in case.differences]
    return clean("; ".join(filter(None, (again, case.because, case.alternative, *differences))))


def code_lines(lines: Iterable[CodeLine]) -> list[str]:
    """A listing as an assembler would print it."""
    return [
        clean(
            f"{f'<{line.label}>' if line.label else '':<18} {line.address:08x}  {line.code:<20} {line.text}"
        ).rstrip()
        for line in lines
    ]


def verdict(run: Run) -> str:
    """The last line of every report: one sentence."""
    rows = Counter(row.status() for row in run.rows)
    ran = sum(rows.values()) - rows[Status.NOT_WRITTEN] - rows[Status.SKIP] - rows[Status.UNSUPPORTED]
    cases = sum(case.status not in SILENT for row in run.rows for case in row.cases)
    head = f"{number(rows[Status.FAIL], 'row')} failed" if rows[Status.FAIL] else "no row failed"
    parts = [f"{head} of {ran:,} that ran ({number(cases, 'case')})"]
    parts += [
        f"{rows[status]:,} {word}"
        for status, word in (
            (Status.XFAIL, "deviate as known"),
            (Status.NOT_DEMONSTRABLE, "cannot be shown here"),
            (Status.UNSUPPORTED, "not possible here"),
            (Status.SKIP, "skipped"),
            (Status.NOT_WRITTEN, "not written"),
        )
        if rows[status]
    ]
    text = "; ".join(parts)
    return f"{text}; ended early: {clean(run.interrupted)}" if run.interrupted else text


def timing(environment: Environment) -> str:
    """How long a runner took, and how much of that the engine had."""
    share = 100 * environment.engine_seconds / environment.seconds if environment.seconds else 0.0
    inside = f"{environment.engine_seconds:.1f} s ({share:.0f} %) inside the engine"
    return f"{environment.seconds:.1f} s, of these {inside}, {number(environment.starts, 'start')}"
