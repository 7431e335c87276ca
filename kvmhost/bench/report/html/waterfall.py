"""One world switch, part by part: a staircase from nothing to the whole round trip.

Parts are measured alone.  What the whole costs beyond their sum, or less than it, is a step of its own: the
picture never stretches parts so that they fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from kvmhost.bench.benchmark import Unit
from kvmhost.bench.report.html import plots, words
from kvmhost.bench.report.html.markup import Content, tag
from kvmhost.bench.report.html.model import RATIO, File, Page, Scale, Sight, short
from kvmhost.bench.report.html.parts import key, link, named, row, section, table
from kvmhost.bench.report.html.stories import BESIDE, PARTS, WHOLE
from kvmhost.bench.statistics import Interval

#: A step's height in pixels.
STEP = 28
#: Where clocks mean nothing the staircase is of instructions, if those were counted.
COUNTED = Scale(Unit.CYCLES, True, True)


@dataclass(frozen=True, slots=True)
class Fall:
    """The staircase of one file.

    parts: name, figure, and where it starts.  rest: what the whole has beyond the parts' sum (less than
    nothing where they overlap); None where there is no whole.  missing: parts that were not measured.
    reference: what a ratio is to.
    """

    file: File
    scale: Scale
    parts: tuple[tuple[str, Interval, float], ...]
    whole: Interval | None
    beside: tuple[tuple[str, Interval], ...]
    missing: tuple[tuple[str, str], ...]
    reference: str = ""

    @property
    def total(self) -> float:
        """What the parts add up to."""
        return sum(found.middle for _, found, _ in self.parts)

    @property
    def rest(self) -> float | None:
        """What no part explains."""
        return None if self.whole is None else self.whole.middle - self.total

    @property
    def reach(self) -> float:
        """The farthest that anything of it lies."""
        ends = [start + found.high for _, found, start in self.parts]
        ends += [found.high for found in (self.whole, *(one for _, one in self.beside)) if found]
        return max([self.total, *ends])


def fall(page: Page, file: File) -> Fall | None:
    """What a file knows of the parts; None if it knows nothing that adds up."""
    names = [name for name in page.names if name.startswith(PARTS) and name in file.sights]
    parts = [file.sights[name] for name in names]
    whole = file.sights.get(WHOLE)
    known = [sight for sight in parts if sight.found]
    if not known:
        return None
    measured = [*known, *([whole] if whole and whole.found else [])]
    counted = not known[0].native.meaningful and all("instructions" in sight.counts for sight in measured)
    as_is = counted or all(sight.values for sight in measured)
    if not as_is and len({page.reference(sight.name) for sight in known}) > 1:
        return None
    scale = COUNTED if counted else known[0].native if as_is else RATIO
    usable = [sight for sight in known if on(sight, scale)]
    total = on(whole, scale)
    if scale is RATIO and page.reference(known[0].name) == WHOLE:
        total = Interval(1.0, 1.0, 1.0)  # by itself, whether or not the file has it
    elif whole and not as_is and not same_reference(page, whole, known[0]):
        total = None
    steps, start = [], 0.0
    for sight in usable:
        found = on(sight, scale)
        assert found
        steps.append((sight.name, found, start))
        start += found.middle
    others = ((name, file.measured(name)) for name in BESIDE)
    beside = [
        (name, found)
        for name, sight in others
        if sight and (found := on(sight, scale)) and (as_is or same_reference(page, sight, known[0]))
    ]
    reference = page.reference(known[0].name) if scale is RATIO else ""
    missing = [(sight.name, sight.result.unmeasured) for sight in parts if not sight.found]
    return Fall(file, scale, tuple(steps), total, tuple(beside), tuple(missing), reference)


def on(sight: Sight | None, scale: Scale) -> Interval | None:
    """A benchmark's figure on a scale."""
    if sight and scale is COUNTED:
        least, middle, most = sight.counts.get("instructions", (0.0, 0.0, 0.0))
        return Interval(middle, least, most) if most else None
    if sight is None or (scale is not RATIO and sight.native != scale):
        return None
    return sight.ratio if scale is RATIO else sight.figure


def same_reference(page: Page, one: Sight, other: Sight) -> bool:
    """Whether the ratios of two can be compared."""
    return page.reference(one.name) == page.reference(other.name)


def waterfall(page: Page) -> Element | None:
    """The section; None without a single part."""
    falls = [found for file in page.files if (found := fall(page, file))]
    if not falls:
        return None
    return section(
        "switch",
        "One world switch, part by part",
        key(page),
        tag("div", [figure(one, falls, page) for one in falls], class_=f"falls n{min(len(falls), 3)}"),
        beside_each_other(falls) if len(falls) > 1 else None,
        about="From the Host's call to the instruction after it: into the Guest by the hardened Switcher and "
        "back. Each part is measured alone, so what overlaps in the pipeline, or costs something only in "
        "company, is the hatched remainder. It is shown as it came out.",
    )


def figure(one: Fall, falls: list[Fall], page: Page) -> Element:
    """The staircase of one file; those that can share a scale have the same one."""
    like = [other for other in falls if other.scale == one.scale]
    axis = plots.Axis(0, max(other.reach for other in like) * 1.02)
    base = one.whole.middle if one.whole else one.total
    lines: list[Element] = [
        step(one, axis, name, short(name, "part-"), found, start, base) for name, found, start in one.parts
    ]
    if one.rest is not None:
        lines.append(remainder(one, axis, base))
    if one.whole:
        lines.append(bar(one, axis, WHOLE, one.whole, base, "whole"))
    lines += [bar(one, axis, name, found, base, "beside") for name, found in one.beside]
    ruler = plots.ruler(axis, one.scale, 4)
    unit = tag("span", plots.unit(axis, one.scale)[1], class_="unit")
    said = [
        tag("li", link(name, short(name, "part-")), f": not measured, {why}") for name, why in one.missing
    ]
    return tag(
        "figure",
        tag("figcaption", named(one.file) if len(page.files) > 1 else None, tag("span", headline(one))),
        tag("ol", lines, tag("li", tag("span"), ruler, unit, class_="ruler"), class_="steps"),
        tag("ul", said, class_="missing") if said else None,
        class_=f"fall {one.file.colour}{'' if one.scale.meaningful else ' dim'}",
    )


def headline(one: Fall) -> str:
    """What the staircase comes to, in a sentence."""
    terms = f", in terms of {one.reference}" if one.reference else ""
    if one.whole is None:
        return f"{one.scale.amount(one.total)} in the parts that were measured; no whole to compare{terms}"
    rest = one.rest or 0.0
    share = abs(rest) / one.whole.middle if one.whole.middle else 0.0
    what = "that no part explains" if rest >= 0 else "less than the parts cost one by one"
    whole, left = one.scale.amount(one.whole.middle), one.scale.amount(abs(rest))
    return f"{whole} in all; {left} ({share:.0%}) {what}{terms}"


def step(
    one: Fall, axis: plots.Axis, name: str, label: str, found: Interval, start: float, base: float
) -> Element:
    """A part, from where the one before it ended."""
    end = start + found.middle
    drawn = plots.drawing(
        STEP,
        plots.grid(axis, one.scale, STEP),
        plots.block(axis, min(start, end), max(start, end), 4, STEP - 8, "part"),
        plots.line(axis.percent(end), 4, STEP + 4, "riser"),
        reach(axis, start + found.low, start + found.high),
        class_="bar",
        title=f"{label}: {one.scale.amount(found.middle)}, interval {one.scale.between(found)}; "
        f"up to here {one.scale.amount(end)}",
    )
    return tag("li", link(name, label), drawn, told(one, found.middle, base), class_="step")


def remainder(one: Fall, axis: plots.Axis, base: float) -> Element:
    """What the parts do not explain, or have too much."""
    rest, total = one.rest or 0.0, one.total
    label = "not explained" if rest >= 0 else "saved in company"
    drawn = plots.drawing(
        STEP,
        plots.grid(axis, one.scale, STEP),
        plots.block(axis, min(total, total + rest), max(total, total + rest), 4, STEP - 8, "rest"),
        plots.line(axis.percent(total + rest), 4, STEP + 4, "riser"),
        class_="bar",
        title=f"{label}: the whole less the sum of the parts is {one.scale.amount(rest)}",
    )
    return tag(
        "li", tag("span", label), drawn, told(one, rest, base), class_="step remainder", data_rest=rest
    )


def bar(one: Fall, axis: plots.Axis, name: str, found: Interval, base: float, class_: str) -> Element:
    """A whole round trip from nothing."""
    drawn = plots.drawing(
        STEP,
        plots.grid(axis, one.scale, STEP),
        plots.block(axis, 0, found.middle, 3, STEP - 6, class_),
        reach(axis, found.low, found.high),
        class_="bar",
        title=f"{name}: {one.scale.amount(found.middle)}, interval {one.scale.between(found)}",
    )
    return tag("li", link(name, short(name)), drawn, told(one, found.middle, base), class_=f"step {class_}")


def reach(axis: plots.Axis, low: float, high: float) -> Element:
    """An interval as a thin line over the end of a bar."""
    y = str(STEP / 2)
    return tag("line", x1=axis.percent(low), x2=axis.percent(high), y1=y, y2=y, class_="reach")


def told(one: Fall, value: float, base: float) -> Element:
    """A figure and what part of the whole it is; where seconds mean nothing, the part comes first."""
    unit = one.scale.unit
    plain = (
        words.digits(value / words.step(base, unit, one.scale.icount)[0]) if unit else one.scale.amount(value)
    )
    share = f"{value / base:.0%}" if base else ""
    first, second = (plain, share) if one.scale.meaningful else (share, plain)
    return tag("span", tag("b", first), " ", tag("i", second), class_="told")


def beside_each_other(falls: list[Fall]) -> Element:
    """The same figures as a table: a part a line, a file a column."""
    names = dict.fromkeys(name for one in falls for name, _, _ in one.parts)
    found = [{name: interval for name, interval, _ in one.parts} for one in falls]
    rows = [
        row(
            link(name, short(name, "part-")),
            [cell(one.scale, at.get(name)) for one, at in zip(falls, found, strict=True)],
        )
        for name in names
    ]
    rows.append(row("not explained by a part", [cell(one.scale, one.rest) for one in falls], "sum"))
    rows.append(row("whole round trip, hardened", [cell(one.scale, one.whole) for one in falls], "sum"))
    for name in BESIDE:
        at = [dict(one.beside).get(name) for one in falls]
        if any(at):
            rows.append(
                row(link(name, short(name)), [cell(one.scale, x) for one, x in zip(falls, at, strict=True)])
            )
    head: list[Content] = ["part", *(named(one.file) for one in falls)]
    return tag("details", tag("summary", "the same as a table"), table(head, rows, "figures"))


def cell(scale: Scale, found: Interval | float | None) -> Content:
    """A figure in the table."""
    if found is None:
        return "\N{EM DASH}"
    if isinstance(found, Interval):
        return [scale.amount(found.middle), tag("i", scale.between(found))]
    return scale.amount(found)
