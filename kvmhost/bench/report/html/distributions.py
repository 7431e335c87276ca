"""Every benchmark with everything that was seen of it: each value, how they lie, and what is exact."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from kvmhost.bench import statistics
from kvmhost.bench.report.html import plots, words
from kvmhost.bench.report.html.markup import Content, tag
from kvmhost.bench.report.html.model import RATIO, File, Page, Scale, Sight
from kvmhost.bench.report.html.parts import chip, key, link, section


def suites(page: Page) -> Element | None:
    """The section of all suites, with the search field that the script makes work."""
    if not page.names:
        return None
    field = tag(
        "form",
        tag("label", tag("span", "search"), tag("input", type="search", id="search", autocomplete="off")),
        tag("p", id="shown", role="status"),
        class_="controls",
        hidden=True,
    )
    return section(
        "distributions",
        "Every benchmark",
        key(page),
        tag("p", legend(), class_="legend"),
        field,
        [suite(page, name, names) for name, names in page.suites.items()],
        about="Every dot is one value, every row of dots one run: the group set up anew. Above them is how "
        "thick they lie. The line is the median of all, the band its bootstrap interval of 95 %. "
        "An outlier is a ring; no figure leaves it out.",
    )


def legend() -> list[Element]:
    """What the marks mean, drawn as they are."""
    samples: dict[str, Content] = {
        "a value": plots.path("M8 7h0", "dots"),
        "an outlier": [plots.path("M8 7h0", "far"), plots.path("M8 7h0", "hole")],
        "median": tag("line", x1="8", x2="8", y1="0", y2="14", class_="median"),
        "its interval": tag("rect", x="1", y="0", width="14", height="14", class_="band"),
    }
    return [
        tag("span", tag("svg", mark, width="16", height="14", class_="strip", aria_hidden="true"), title)
        for title, mark in samples.items()
    ]


def suite(page: Page, name: str, names: Sequence[str]) -> Element:
    """The benchmarks of one suite."""
    return tag(
        "section",
        tag(
            "h3",
            name,
            tag("span", page.titles.get(name, "")),
            tag("i", words.count(len(names), "benchmark")),
        ),
        [card(page, one) for one in names],
        class_="suite",
        id=f"suite-{words.anchor(name)}",
    )


def card(page: Page, name: str) -> Element:
    """One benchmark in every file."""
    benchmark = page.benchmarks.get(name)
    about: list[Content] = [tag("h4", tag("a", name, href=f"#{words.anchor(name)}"))]
    about.append(
        tag(
            "p",
            benchmark.says
            if benchmark
            else "This kvmhost has no benchmark of that name, and cannot say what it is.",
            class_="says",
        )
    )
    if benchmark and benchmark.minus:
        about.append(tag("p", "less: ", joined([link(one) for one in benchmark.minus]), class_="minus"))
    if benchmark and benchmark.reference:
        about.append(tag("p", "compared with: ", link(benchmark.reference), class_="minus"))
    sights = page.sights(name)
    scales = list(dict.fromkeys(sight.scale for sight in sights))
    plotted = [lanes([sight for sight in sights if sight.scale == scale], scale, page) for scale in scales]
    return tag(
        "article",
        tag("div", about, class_="what"),
        tag("div", plotted, [missing(page, name, *reason) for reason in page.reasons(name)], class_="lanes"),
        id=words.anchor(name),
        class_="bench",
        data_overhead=page.is_overhead(name),
    )


def joined(pieces: Sequence[Content]) -> list[Content]:
    """Pieces with commas between them."""
    return [part for piece in pieces for part in (", ", piece)][1:]


def missing(page: Page, name: str, file: File, why: str) -> Element:
    """A file that has nothing of a benchmark, and why."""
    return tag(
        "p",
        chip(file) if len(page.files) > 1 else None,
        tag("span", tag("b", "no figure: "), why, [[" ", one] for one in exacts(file.sights.get(name))]),
        class_="absent",
    )


def lanes(sights: Sequence[Sight], scale: Scale, page: Page) -> Element:
    """The files that can share one axis, under each other; what never varied needs no picture."""
    if all(sight.constant for sight in sights):
        return tag("div", [flat(sight, page) for sight in sights])
    axis = plots.around([[value for run in sight.runs for value in run] for sight in sights])
    by, word = plots.unit(axis, scale)
    return tag(
        "div",
        [lane(sight, axis, page) for sight in sights],
        tag(
            "div",
            tag("span"),
            plots.ruler(axis, scale),
            tag("span", word, class_="unit"),
            class_="lane ruler",
        ),
        class_=f"axis-of{'' if scale.meaningful else ' dim'}",
        data_low=axis.low / by,
        data_high=axis.high / by,
        data_word=word,
    )


def lane(sight: Sight, axis: plots.Axis, page: Page) -> Element:
    """One benchmark in one file."""
    assert sight.found
    values = [value for run in sight.runs for value in run]
    far = set(statistics.outliers(values))
    return tag(
        "div",
        chip(sight.file) if len(page.files) > 1 else tag("span"),
        plots.strip(sight.runs, sight.found, sight.scale, axis, far),
        tag("div", told(sight, page, sum(value in far for value in values)), class_="told"),
        class_=f"lane {sight.file.colour}",
    )


def flat(sight: Sight, page: Page) -> Element:
    """One benchmark in one file that gave the same number every time."""
    who = chip(sight.file) if len(page.files) > 1 else tag("span")
    return tag(
        "div", who, tag("div", told(sight, page, 0), class_="told"), class_=f"lane flat {sight.file.colour}"
    )


def told(sight: Sight, page: Page, far: int) -> list[Content]:
    """The same in words and numbers."""
    found, scale = sight.found, sight.scale
    assert found
    flat = found.low == found.high
    lines: list[Content] = [
        tag("b", scale.amount(found.middle)),
        tag("span", scale.between(found) if not flat else "most often" if far else "every time"),
    ]
    if scale is RATIO:
        lines[0] = tag(
            "b",
            scale.amount(found.middle),
            tag("small", f" of {page.reference(sight.name) or 'its reference'}"),
        )
        if sight.figure:
            lines.append(
                tag("span", f"{sight.native.amount(sight.figure.middle)} by a clock that means nothing")
            )
    elif not scale.meaningful:
        lines.append(tag("span", "by a clock that means nothing"))
    lines += exacts(sight)
    notes = [words.count(sum(map(len, sight.runs)), "value"), words.count(len(sight.runs), "run")]
    notes += [words.count(far, "outlier")] if far else []
    lines.append(tag("span", ", ".join(notes), class_="notes"))
    if not sight.stable:
        lines.append(tag("span", "never got warm: its warm-up ended unsettled", class_="unstable"))
    return lines


def exacts(sight: Sight | None) -> list[Element]:
    """What was counted in one operation, by kind."""
    counts = sight.counts if sight else {}
    return [tag("span", exact(kind, *numbers), class_="exact") for kind, numbers in counts.items()]


def exact(kind: str, least: float, middle: float, most: float) -> list[Content]:
    """A count: one number where it is the same every time, else from where to where."""
    if least == most:
        return [f"{kind} ", tag("b", words.exact(least))]
    return [f"{kind} ", tag("b", words.exact(middle)), f" ({words.exact(least)} to {words.exact(most)})"]
