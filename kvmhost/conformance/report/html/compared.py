"""Comparisons: between the runners of this run, and with an earlier run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kvmhost.conformance.report.html.markup import Content, Markup, tag
from kvmhost.conformance.report.html.parts import badge, row_link, section, table
from kvmhost.conformance.report.words import number
from kvmhost.conformance.results import Change, Direction, Disagreement, Run, Status, disagreements

#: How many lines one reason gets: the rest is counted.
LONGEST = 50
DIRECTIONS = {
    Direction.WORSE: "▼ worse",
    Direction.BETTER: "▲ better",
    Direction.OTHER: "◆ different",
    Direction.NEW: "+ new",
    Direction.GONE: "− gone",
}


def differing(run: Run) -> Markup | None:
    """Where the runners do not agree: what nothing explains first, then reason by reason."""
    if len(run.runners) < 2:
        return None
    found = disagreements(run)
    by_reason: dict[tuple[str, ...], list[Disagreement]] = {(): []}
    for one in found:
        by_reason.setdefault(one.explained, []).append(one)
    open_ones = by_reason.pop(())
    facts = {one.id: one.fact for one in run.deviations}
    return section(
        "disagreements",
        "Where runners disagree",
        cases_table(run, open_ones)
        if open_ones
        else tag("p", badge(Status.PASS, "every disagreement is explained")),
        [
            tag(
                "details",
                tag("summary", tag("b", " · ".join(reasons)), f" explains {number(len(cases), 'case')}"),
                [tag("p", facts[reason], class_="about") for reason in reasons if reason in facts],
                cases_table(run, cases),
            )
            for reasons, cases in by_reason.items()
        ],
        about=f"{number(len(found), 'case')} did not come out the same everywhere; {len(open_ones):,} of them"
        " without a named deviation that explains it.",
    )


def cases_table(run: Run, cases: list[Disagreement]) -> Markup:
    """A line for each case, a column for each runner."""

    def line(one: Disagreement) -> Iterator[Content]:
        seen = {runner: (status, what) for runner, status, what in one.seen}
        yield row_link(one.row)
        yield one.case, tag("span", f" {one.layer}", class_="about")
        for runner in run.runners:
            if runner in seen:
                status, what = seen[runner]
                yield badge(status), tag("p", what, class_="about") if what else None
            else:
                yield "\N{EM DASH}"

    rest = f"and {len(cases) - LONGEST:,} more, all in the JSON" if len(cases) > LONGEST else None
    lines = table(["row", "case", *run.runners], map(line, cases[:LONGEST]), "cases")
    return lines + tag("p", rest, class_="about") if rest else lines


def changes(run: Run) -> Markup | None:
    """Since the baseline; nothing without one."""
    base = run.baseline
    if base is None:
        return None
    alike: dict[tuple[object, ...], list[Change]] = {}
    for one in sorted(base.changes, key=lambda one: list(Direction).index(one.direction)):
        alike.setdefault((one.direction, one.row, one.runner, one.before, one.after), []).append(one)
    shown = list(alike.values())
    rest = f"and {len(shown) - 4 * LONGEST:,} lines more" if len(shown) > 4 * LONGEST else ""
    return section(
        "changes",
        "Changes",
        tag("ul", [tag("li", remark) for remark in base.remarks], class_="about") if base.remarks else None,
        table(["", "row", "cases", "runner", "was", "is"], map(change, shown[: 4 * LONGEST]), "changes")
        if shown
        else tag("p", badge(Status.PASS, "nothing changed")),
        tag("p", rest, class_="about") if rest else None,
        about=f"Against {base.name}, a run of {base.started} by kvmhost {base.version}.",
    )


def change(alike: list[Change]) -> Iterable[Content]:
    """The cases of a row that went the same way on one runner."""
    one = alike[0]
    names = ", ".join(f"{each.case} ({each.layer})" for each in alike[:3])
    more = f" and {len(alike) - 3:,} more" if len(alike) > 3 else ""
    return (
        tag("span", DIRECTIONS[one.direction], class_=f"direction d-{one.direction.value}"),
        row_link(one.row),
        names + more,
        one.runner,
        badge(one.before) if one.before else "not run",
        badge(one.after) if one.after else "not run",
    )
