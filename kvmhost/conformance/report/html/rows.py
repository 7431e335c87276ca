"""The rows: a line for each, which opens to sources and cases, and after a failure to all that was seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from kvmhost.conformance.proof import in_short
from kvmhost.conformance.report.html.markup import Content, Markup, tag
from kvmhost.conformance.report.html.parts import (
    SIGNS,
    anchor,
    badge,
    code_table,
    section,
    sign,
    table,
)
from kvmhost.conformance.report.words import KINDS, number, told
from kvmhost.conformance.results import CaseResult, RowResult, Run, Status

#: How many cases of one kind are named, and how many failures are shown whole.
NAMED, WHOLE = 12, 20


def all_rows(run: Run) -> Markup:
    """The filter and the rows."""
    return section(
        "rows",
        "Rows",
        controls(run),
        tag("p", f"{number(len(run.rows), 'row')}", id="shown", class_="about", aria_live="polite"),
        tag(
            "div",
            tag(
                "div",
                tag("span", [tag("span", runner[:5]) for runner in run.runners], class_="signs"),
                tag("span", "id"),
                tag("span", "title"),
                tag("span", "kind"),
                tag("span", "seen to fail by"),
                class_="row head",
            ),
            [row(run, one) for one in run.rows],
            class_=f"rows runners-{min(len(run.runners), 5)}",
        ),
    )


def controls(run: Run) -> Markup:
    """What the script filters by; hidden where there is none."""
    groups = dict.fromkeys(one.group for one in run.rows)

    def choice(name: str, first: str, values: Iterable[tuple[str, str]]) -> Markup:
        options = [
            tag("option", first, value=""),
            [tag("option", word, value=value) for value, word in values],
        ]
        return tag("label", tag("span", name), tag("select", options, data_filter=name))

    return tag(
        "form",
        tag(
            "label",
            tag("span", "search"),
            tag("input", type="search", data_filter="search", placeholder="id, title, source, reason  ( / )"),
        ),
        choice("status", "any", [(status.value, status.word) for status in SIGNS]),
        choice("runner", "any", [(runner, runner) for runner in run.runners]),
        choice("group", "all", [(group, group) for group in groups]),
        choice("kind", "any", [(kind, f"{kind}: {words}") for kind, words in KINDS.items()]),
        tag(
            "label",
            tag("input", type="checkbox", data_filter="core"),
            tag("span", "core set only"),
            class_="check",
        ),
        tag("button", "show all", type="reset"),
        class_="controls",
        hidden=True,
    )


def row(run: Run, one: RowResult) -> Markup:
    """One row, closed."""
    statuses = {
        runner: one.status(runner) for runner in run.runners if any(c.runner == runner for c in one.cases)
    }
    return tag(
        "details",
        tag(
            "summary",
            tag("span", [sign(statuses.get(runner), runner) for runner in run.runners], class_="signs"),
            tag("span", one.id, class_="id"),
            tag("span", one.title, tag("b", "core", class_="core") if one.core else None),
            tag("span", one.kind, title=KINDS.get(one.kind, "")),
            tag("span", proof(one), class_="proof", title="; ".join(one.seen_to_fail_by)),
        ),
        tag("div", body(one), class_="body"),
        class_="row",
        id=anchor(one.id),
        data_group=one.group,
        data_kind=one.kind,
        data_core=one.core,
        data_statuses=" ".join(f"{runner}={status.value}" for runner, status in statuses.items()),
    )


def proof(one: RowResult) -> str:
    """By what this row was seen to fail, as much as fits."""
    by = list(dict.fromkeys(map(in_short, one.seen_to_fail_by)))
    return ", ".join(by[:3]) + (f" +{len(by) - 3}" if len(by) > 3 else "")


def body(one: RowResult) -> Iterator[Content]:
    """What the row says, then what came of it."""
    yield tag(
        "dl",
        [
            (tag("dt", title), tag("dd", words))
            for title, words in (
                ("does", one.does),
                ("expects", one.expects),
                ("why", one.why),
                ("sources", tag("ul", [tag("li", source) for source in one.sources]) if one.sources else ""),
                ("not covered yet", one.remains),
                ("not written, waits for", one.waits_for),
                (
                    "seen to fail by",
                    tag("ul", [tag("li", each) for each in one.seen_to_fail_by])
                    if one.seen_to_fail_by
                    else "",
                ),
            )
            if words
        ],
    )
    yield table(["runner", "layer", "", "cases", "because"], list(outcomes(one)), "outcomes")
    failed = [case for case in one.cases if case.status is Status.FAIL]
    yield [failure(case) for case in failed[:WHOLE]]
    if len(failed) > WHOLE:
        yield tag("p", f"{len(failed) - WHOLE:,} more failures are in the JSON.", class_="about")


def outcomes(one: RowResult) -> Iterator[Iterable[Content]]:
    """A line for all cases of a runner and layer that ended the same way for the same reason."""
    alike: dict[tuple[str, str, Status, str, str], list[CaseResult]] = {}
    for case in one.cases:
        because = "" if case.status is Status.FAIL else case.because
        alike.setdefault((case.runner, case.layer, case.status, because, case.alternative), []).append(case)
    for (runner, layer, status, because, alternative), cases in alike.items():
        names = ", ".join(case.case for case in islice(cases, NAMED))
        more = f" and {len(cases) - NAMED:,} more" if len(cases) > NAMED else ""
        reason = "; ".join(filter(None, (because, alternative)))
        yield (
            runner,
            layer,
            badge(status),
            tag("span", f"{len(cases):,}: {names}{more}", class_="names"),
            reason,
        )


def failure(case: CaseResult) -> Markup:
    """Everything that is known of one failed case."""
    return tag(
        "article",
        tag("h4", badge(case.status), f" {case.case}", tag("span", f"{case.layer} on {case.runner}")),
        tag("p", told(case)),
        [
            tag("h5", title) + content
            for title, content in (
                ("expected and found", state(case)),
                ("the code", code_table(case.listing) if case.listing else None),
                ("where it ended", code_table(case.around) if case.around else None),
                ("the last steps", code_table(case.steps) if case.steps else None),
            )
            if content
        ],
        class_="failure",
    )


def state(case: CaseResult) -> Markup | None:
    """Expected and found, side by side."""
    lines = [(one.name, one.expected, one.found, one.agrees) for one in case.state]
    lines = lines or [(one.what, one.expected, one.found, False) for one in case.differences]
    if not lines:
        return None
    return tag(
        "div",
        tag(
            "table",
            tag("thead", tag("tr", [tag("th", word, scope="col") for word in ("", "expected", "found", "")])),
            [
                tag(
                    "tr",
                    tag("th", name, scope="row"),
                    tag("td", expected or "\N{EM DASH}"),
                    tag("td", found),
                    tag("td", "" if agrees else "✗ differs"),
                    class_=False if agrees else "differs",
                )
                for name, expected, found, agrees in lines
            ],
            class_="state",
        ),
        class_="scroll",
    )
