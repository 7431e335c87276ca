"""Drawing: an axis, a strip of dots under a density, intervals as whiskers.

Every picture is as wide as it is given room and its text never shrinks with it: horizontal places are parts
of the width, heights are pixels, and paths lie in an inner drawing that is stretched while its strokes are
not.  A dot is a stroke of length nothing with round ends, so a thousand of them are one short path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log2
from statistics import quantiles
from xml.etree.ElementTree import Element

from kvmhost.bench.report.html import words
from kvmhost.bench.report.html.markup import Content, tag
from kvmhost.bench.report.html.model import Scale
from kvmhost.bench.statistics import Interval

#: The inner drawing's width.
WIDE = 1000
#: Heights in pixels: the density, one run's dots, an axis.
HILL, ROW, AXIS = 34, 7, 20
#: A whisker with room for words beside it, and one among several.
ALONE, AMONG = 24, 13
#: At most so many rows of dots; more runs share them.
ROWS = 6
#: How far beyond the quartiles an axis reaches for single values, in their distance.
REACH = 4.0


@dataclass(frozen=True, slots=True)
class Axis:
    """From where to where a picture reaches, linear or in powers of two."""

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, 0 to 1; what is outside lies at the end.

        >>> Axis(10, 20).place(15), Axis(1, 4, log=True).place(2), Axis(0, 1).place(7)
        (0.5, 0.5, 1.0)
        """
        low, high, here = self.low, self.high, value
        if self.log:
            low, high, here = log2(low), log2(high), log2(max(value, 1e-12))
        return min(1.0, max(0.0, (here - low) / (high - low)))

    def percent(self, value: float) -> str:
        """The same as a part of the width."""
        return f"{100 * self.place(value):.2f}%"


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile.

    >>> spread([1.0])
    (1.0, 1.0, 1.0)
    """
    if len(values) == 1:
        return values[0], values[0], values[0]
    lower, middle, upper = quantiles(values, n=4, method="inclusive")
    return middle, lower, upper


def around(groups: Sequence[Sequence[float]]) -> Axis:
    """An axis that shows the body of every group, and single values unless they are far away."""
    lows, highs = [], []
    for values in groups:
        middle, lower, upper = spread(values)
        reach = REACH * max(upper - lower, abs(middle) * 0.002)
        lows.append(max(min(values), lower - reach))
        highs.append(min(max(values), upper + reach))
    low, high = min(lows), max(highs)
    room = 0.04 * (high - low) or abs(high) * 0.02 or 1.0
    return Axis(low - room, high + room)


def drawing(height: float, *content: Content, class_: str, title: str) -> Element:
    """A picture that is as wide as its place."""
    return tag(
        "svg", tag("title", title), content, class_=class_, width="100%", height=str(height), role="img"
    )


def stretched(height: float, *content: Content) -> Element:
    """What is drawn in thousandths of the width."""
    return tag(
        "svg",
        content,
        viewBox=f"0 0 {WIDE} {height:g}",
        preserveAspectRatio="none",
        width="100%",
        height=str(height),
    )


def path(places: str, class_: str) -> Element:
    """A path whose stroke keeps its width."""
    return tag("path", d=places, class_=class_, vector_effect="non-scaling-stroke")


def line(x: str, top: float, bottom: float, class_: str) -> Element:
    """A vertical line."""
    return tag("line", x1=x, x2=x, y1=str(round(top, 1)), y2=str(round(bottom, 1)), class_=class_)


def block(axis: Axis, low: float, high: float, top: float, height: float, class_: str) -> Element:
    """A rectangle from one value to another."""
    left, right = axis.place(low), axis.place(high)
    return tag(
        "rect",
        x=f"{100 * left:.2f}%",
        width=f"{100 * (right - left):.2f}%",
        y=str(round(top, 1)),
        height=str(round(height, 1)),
        class_=class_,
    )


def density(values: Sequence[float], axis: Axis, points: int = 96) -> list[float]:
    """How thick values lie along an axis, the thickest 1: a normal curve around each.

    Its width is B. W. Silverman's rule of thumb for the quartiles, and never less than the picture can show.
    """
    _, lower, upper = spread(values)
    width = max(0.67 * (upper - lower) * len(values) ** -0.2, (axis.high - axis.low) / points)
    step = (axis.high - axis.low) / (points - 1)
    heights = [0.0] * points
    for value in values:
        centre, reach = (value - axis.low) / step, 4 * width / step
        for number in range(max(0, int(centre - reach)), min(points, int(centre + reach) + 2)):
            heights[number] += exp(-0.5 * ((number - centre) * step / width) ** 2)
    most = max(heights) or 1.0
    return [height / most for height in heights]


def hill(values: Sequence[float], axis: Axis) -> Element:
    """The density as an area that stands on its ground."""
    heights = density(values, axis)
    step = WIDE / (len(heights) - 1)
    tops = "".join(
        f"L{number * step:.0f} {HILL - (HILL - 2) * height:.1f}" for number, height in enumerate(heights)
    )
    return path(f"M0 {HILL}{tops}L{WIDE} {HILL}Z", "hill")


def strip(
    runs: Sequence[Sequence[float]], found: Interval, scale: Scale, axis: Axis, far: set[float]
) -> Element:
    """Every value as a dot, each run in a row of its own; above them their density.

    The band is the median's interval.  far: values to be shown as outliers; of those beyond the axis the ends
    tell how many there are and how far they reach.
    """
    rows = min(len(runs), ROWS)
    height = HILL + ROW * rows + 3
    dots: dict[str, list[str]] = {"dots": [], "far": [], "hole": []}
    low, high = [], []
    for number, run in enumerate(runs):
        y = HILL + 2 + ROW * (number % rows) + ROW / 2
        for value in run:
            if value < axis.low:
                low.append(value)
            elif value > axis.high:
                high.append(value)
            else:
                place = f"M{WIDE * axis.place(value):.0f} {y:g}h0"
                for kind in ("far", "hole") if value in far else ("dots",):
                    dots[kind].append(place)
    ends = []
    if low:
        words_ = f"\N{BLACK LEFT-POINTING TRIANGLE} {len(low)} down to {scale.amount(min(low))}"
        ends.append(tag("text", words_, x="0", y="11", class_="beyond"))
    if high:
        words_ = f"{len(high)} up to {scale.amount(max(high))} \N{BLACK RIGHT-POINTING TRIANGLE}"
        ends.append(tag("text", words_, x="100%", y="11", class_="beyond end"))
    values = [value for run in runs for value in run]
    title = (
        f"median {scale.amount(found.middle)}, interval {scale.between(found)}; "
        f"{words.count(len(values), 'value')} in {words.count(len(runs), 'run')}, "
        f"{scale.amount(min(values))} to {scale.amount(max(values))}"
    )
    return drawing(
        height,
        block(axis, found.low, found.high, 0, height, "band"),
        stretched(height, hill(values, axis), [path("".join(d), kind) for kind, d in dots.items() if d]),
        line(axis.percent(found.middle), 0, height, "median"),
        ends,
        class_="strip",
        title=title,
    )


def ruler(axis: Axis, scale: Scale, about: int = 5) -> Element:
    """The axis under a picture; `unit` tells what its numbers are."""
    by = unit(axis, scale)[0]
    found = words.ticks(axis.low / by, axis.high / by, about)
    return marks(axis, [(tick * by, label) for tick, label in zip(found, words.even(found), strict=True)])


def unit(axis: Axis, scale: Scale) -> tuple[float, str]:
    """What figures along an axis are divided by, and the word for that."""
    return (1.0, "×") if scale.unit is None else words.step(axis.high, scale.unit, scale.icount)


def grid(axis: Axis, scale: Scale, height: float, about: int = 4) -> list[Element]:
    """The same ticks as faint lines behind a picture."""
    by = unit(axis, scale)[0]
    return [
        line(axis.percent(tick * by), 0, height, "grid")
        for tick in words.ticks(axis.low / by, axis.high / by, about)
    ]


def marks(axis: Axis, places: Sequence[tuple[float, str]]) -> Element:
    """Ticks with labels; the first and last one stay inside."""
    pieces = []
    for value, label in places:
        place = axis.place(value)
        anchor = "start" if place < 0.04 else "end" if place > 0.94 else "middle"
        pieces.append(line(f"{100 * place:.2f}%", 0, 5, "tick"))
        pieces.append(tag("text", label, x=f"{100 * place:.2f}%", y="17", text_anchor=anchor))
    return tag("svg", pieces, class_="axis", width="100%", height=str(AXIS), aria_hidden="true")


def whisker(found: Interval, axis: Axis, title: str, class_: str, height: float = ALONE) -> Element:
    """A median as a dot on its interval, over a line where nothing differs."""
    middle = height / 2
    place = axis.percent(found.middle)
    return drawing(
        height,
        line(axis.percent(1.0), 0, height, "one"),
        tag(
            "line",
            x1=axis.percent(found.low),
            x2=axis.percent(found.high),
            y1=str(middle),
            y2=str(middle),
            class_="reach",
        ),
        tag("circle", cx=place, cy=str(middle), r="5" if height == ALONE else "4.5", class_="dot"),
        class_=f"whisker {class_}",
        title=title,
    )


def ratio_axis(found: Sequence[Interval]) -> Axis:
    """Ratios lie in powers of two, with 1 always among them."""
    low = min([1.0, *(max(one.low, 1e-3) for one in found)])
    high = max([1.0, *(one.high for one in found)])
    room = max((high / low) ** 0.06, 1.01)
    return Axis(low / room, high * room, log=True)


def ratio_marks(axis: Axis, most: int = 7) -> list[tuple[float, str]]:
    """Ticks for that: powers of two where it reaches far, even steps where it does not."""
    if axis.high / axis.low < 3:
        found = words.ticks(axis.low, axis.high, 4)
        return [(tick, f"{label}×") for tick, label in zip(found, words.even(found), strict=True)]
    powers = [power for power in range(-10, 24) if axis.low <= 2.0**power <= axis.high]
    by = max(1, -(-len(powers) // most))
    return [(2.0**power, f"{words.digits(2.0**power)}×") for power in powers if power % by == 0]


def hatch(name: str, class_: str) -> Element:
    """A pattern for what is not a measured part."""
    return tag(
        "svg",
        tag(
            "defs",
            tag(
                "pattern",
                tag("rect", width="8", height="8", class_=f"{class_} ground"),
                tag("path", d="M0 0V8", class_=class_),
                id=name,
                width="8",
                height="8",
                patternUnits="userSpaceOnUse",
                patternTransform="rotate(45)",
            ),
        ),
        width="0",
        height="0",
        class_="patterns",
        aria_hidden="true",
    )
