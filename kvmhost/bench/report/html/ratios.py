"""Ratios to each group's reference: what a thing costs in terms of another, on any machine."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from kvmhost.bench.report.html import plots
from kvmhost.bench.report.html.markup import Content, tag
from kvmhost.bench.report.html.model import RATIO, Page, Sight
from kvmhost.bench.report.html.parts import chip, key, link, section
from kvmhost.bench.statistics import Interval


def ratios(page: Page) -> Element | None:
    """The section; None where nothing has a reference."""
    groups: dict[str, list[str]] = {}
    for name in page.names:
        reference = page.reference(name)
        if reference and reference != name and any(sight.ratio for sight in page.sights(name)):
            groups.setdefault(reference, []).append(name)
    if not groups:
        return None
    return section(
        "ratios",
        "Ratios",
        key(page),
        [group(page, reference, names) for reference, names in groups.items()],
        about="Each value over the value of the group's reference in the same round, so that a drift of the "
        "machine meets both. The axis is in powers of two. A ratio is what can be carried from one machine "
        "to another.",
    )


def group(page: Page, reference: str, names: list[str]) -> Element:
    """All that is compared with one benchmark."""
    found = {name: [sight for sight in page.sights(name) if sight.ratio] for name in names}
    intervals = [sight.ratio for sights in found.values() for sight in sights if sight.ratio]
    axis = plots.ratio_axis(intervals)
    lines = [line(name, sights, axis, page) for name, sights in found.items()]
    marks = plots.marks(axis, plots.ratio_marks(axis))
    return tag(
        "div",
        tag("h3", tag("span", "to "), link(reference)),
        tag("ol", lines, tag("li", tag("span"), marks, tag("span"), class_="ruler"), class_="steps forest"),
        class_="group",
    )


def line(name: str, sights: list[Sight], axis: plots.Axis, page: Page) -> Element:
    """One benchmark, a whisker a file."""
    many = len(sights) > 1
    drawn, told = [], []
    for sight in sights:
        found = sight.ratio
        assert found
        title = f"{sight.file.label}: {RATIO.amount(found.middle)}, interval {RATIO.between(found)}"
        drawn.append(
            plots.whisker(found, axis, title, sight.file.colour, plots.AMONG if many else plots.ALONE)
        )
        told.append(
            tag(
                "span",
                chip(sight.file) if len(page.files) > 1 else None,
                amount(found, many),
                class_="one-of",
            )
        )
    return tag(
        "li",
        link(name),
        tag("div", drawn, class_="stack"),
        tag("div", told, class_=f"told{' many' if many else ''}"),
        class_="step",
    )


def amount(found: Interval, many: bool) -> list[Content]:
    """A ratio with its interval, if there is room for that."""
    ends = "" if many or found.low == found.high else RATIO.between(found)
    return [tag("b", RATIO.amount(found.middle)), " ", tag("i", ends)]
