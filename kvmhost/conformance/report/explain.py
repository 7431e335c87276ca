"""One row, told whole: what it says and where that is written, its code, and what came of it.

After a failure expected and found stand side by side, with the code about the place where it ended and the
last instructions that ran.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from kvmhost.conformance import proof
from kvmhost.conformance.case import Case
from kvmhost.conformance.listing import code_of, engine
from kvmhost.conformance.report.words import KINDS, clean, code_lines, number, told
from kvmhost.conformance.results import CaseResult, RowResult, StateLine, Status
from kvmhost.conformance.row import CaseSpec, Code, Row
from kvmhost.conformance.sources import cited

WIDTH, INDENT = 110, 13
#: How many cases of a generated family, and how many failures, are shown whole.
SHOWN = 8
#: The parts of a case in a row's file, in the order of the file.
PARTS = (
    "cpu",
    "gdt",
    "idt",
    "tss",
    "pages",
    "memory",
    "frame",
    "event",
    "expect",
    "any_of",
    "deviation",
    "layer",
)


def render(row: Row, cases: Sequence[Case], result: RowResult | None = None) -> str:
    """The row, and what came of it if it was run."""
    sections = [head(row, result), *bodies(row, cases)]
    if result is not None:
        sections += [outcomes(result), *map(failure, failed(result)[:SHOWN]), rest(result)]
    return "\n\n".join("\n".join(lines) for section in sections if (lines := list(section))) + "\n"


def head(row: Row, result: RowResult | None) -> Iterator[str]:
    """Everything that is said of the row as a whole."""
    yield clean(f"{row.id}: {row.title}")
    core = "core set, " if row.core else ""
    yield from pair("kind", f"{row.kind}, {KINDS[row.kind]}; {core}layers {' '.join(row.layers)}")
    facts = [
        ("does", row.does),
        ("expects", row.expects),
        ("why", row.why),
        ("requires", " ".join(row.requires)),
    ]
    facts += [("source", cited(source)) for source in row.sources]
    facts += [
        ("not covered", row.remains),
        ("not written", f"waits for {row.waits_for}" * bool(row.waits_for)),
    ]
    facts += [("seen to fail", f"by {by}") for by in seen_to_fail_by(row, result)]
    facts += [("file", str(row.path))]
    for title, words in facts:
        if words:
            yield from pair(title, words)


def seen_to_fail_by(row: Row, result: RowResult | None) -> tuple[str, ...]:
    """By what the row was seen to fail, in this run or before."""
    return result.seen_to_fail_by if result else proof.seen_to_fail_by(row.id, (), proof.matrix())


def pair(title: str, words: str) -> list[str]:
    """A title and a paragraph beside it."""
    return textwrap.wrap(
        clean(words),
        WIDTH,
        initial_indent=f"  {title:<{INDENT}}",
        subsequent_indent=" " * (INDENT + 2),
        break_long_words=False,
    )


def bodies(row: Row, cases: Sequence[Case]) -> Iterator[Iterable[str]]:
    """The cases as their file has them; of a family and of a program what they come to."""
    if row.cases:
        yield from (body(spec) for spec in row.cases)
    elif row.program:
        yield [clean(f"program {row.program} of the kvm runner; expected: {flat(row.expect)}")]
        for each in row.controls:
            told = f"control: {each['name']} (plants {each['plants']}); expected: {flat(each['values'])}"
            yield [clean(told)]
    elif cases:
        yield [clean(f"family {row.family}: {number(len(cases), 'case')}, of which the first:")]
        yield from (generated(case) for case in cases[:SHOWN])


def body(spec: CaseSpec) -> Iterator[str]:
    """One case of the file."""
    yield clean(f"case: {spec.name} (starts {spec.start}, {spec.paging} paging, {' '.join(spec.layers)})")
    for code in spec.code:
        yield from block(code)
    for part in PARTS:
        value = getattr(spec, part)
        for each in [value] if isinstance(value, Mapping) else value:
            if each:
                yield from pair(part, flat(each))


def block(code: Code) -> Iterator[str]:
    """Bytes beside what they mean, as the file has them."""
    yield clean(f"  code at {code.at}")
    lines = [line.strip() for line in code.listing.strip().splitlines()]
    pieces = pieces_of(code.bytes, sum(not line.endswith(":") for line in lines))
    if pieces is None:
        yield f"      {code.bytes.hex(' ')}"
    for line in lines:
        piece = "" if pieces is None or line.endswith(":") else pieces.pop(0)
        yield clean(f"      {piece:<22}{line}".rstrip())


def pieces_of(code: bytes, count: int) -> list[str] | None:
    """The bytes of each instruction; None if there are not so many, for a listing may hold data too."""
    pieces, place = [], 0
    for _, size, _, _ in engine().disasm_lite(code, 0):
        pieces.append(code[place : place + size].hex(" "))
        place += size
    return pieces if place == len(code) and len(pieces) == count else None


def generated(case: Case) -> Iterator[str]:
    """One case of a family, from its bytes."""
    yield clean(f"case: {case.name} ({case.layer})")
    for line in code_lines(code_of(case)):
        yield f"  {line}"


def flat(value: object) -> str:
    """A table of a row file on one line.

    >>> flat({"at": "G_DATA", "u32": [16, 2], "why": {"p": True}})
    'at = G_DATA, u32 = [16, 2], why = {p = true}'
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{name} = {inner(part)}" for name, part in value.items())
    return inner(value)


def inner(value: object) -> str:
    """A value inside of a table."""
    if isinstance(value, Mapping):
        return f"{{{flat(value)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(inner, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:#x}" if isinstance(value, int) and value > 255 else str(value)


def outcomes(result: RowResult) -> Iterator[str]:
    """How the cases ended: a line for all that ended the same way for the same reason."""
    yield "what came of it"
    alike: dict[tuple[str, str, Status, str], list[CaseResult]] = {}
    for case in result.cases:
        reason = "" if case.status is Status.FAIL else case.because or case.alternative
        alike.setdefault((case.runner, case.layer, case.status, reason), []).append(case)
    for (runner, layer, status, reason), cases in alike.items():
        names = ", ".join(case.case for case in cases[:SHOWN])
        more = f" and {len(cases) - SHOWN:,} more" if len(cases) > SHOWN else ""
        because = f" ({reason})" if reason else ""
        yield from pair(
            runner, f"{layer}: {number(len(cases), 'case')} {status.word}{because}: {names}{more}"
        )


def failed(result: RowResult) -> list[CaseResult]:
    """The cases that failed."""
    return [case for case in result.cases if case.status is Status.FAIL]


def rest(result: RowResult) -> Iterator[str]:
    """That not every failure was shown."""
    if (more := len(failed(result)) - SHOWN) > 0:
        yield f"and {number(more, 'failure')} more: see --html or --json"


def failure(case: CaseResult) -> Iterator[str]:
    """Everything that is known of one failed case."""
    yield clean(f"FAILED: {case.case} on {case.layer}, {case.runner}")
    yield from textwrap.wrap(told(case), WIDTH, initial_indent="  ", subsequent_indent="  ")
    yield from side_by_side(case)
    for title, lines in (
        ("the code", case.listing),
        ("where it ended", case.around),
        ("last steps", case.steps),
    ):
        if lines:
            yield f"  {title}"
            yield from (f"    {line}" for line in code_lines(lines))


def side_by_side(case: CaseResult) -> Iterator[str]:
    """Expected and found; what differs is marked."""
    lines = case.state or tuple(
        StateLine(one.what, one.expected, one.found, False) for one in case.differences
    )
    cells = [("", "expected", "found")]
    cells += [(clean(one.name), clean(one.expected) or "-", clean(one.found) or "-") for one in lines]
    widths = [max(len(line[column]) for line in cells) for column in range(3)]
    for number_, line in enumerate(cells):
        mark = "  <--" if number_ and not lines[number_ - 1].agrees else ""
        columns = "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True))
        yield f"    {columns}{mark}".rstrip()
