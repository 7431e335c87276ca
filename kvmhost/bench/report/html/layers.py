"""The layers of an exit: what stands on KVM_RUN, and what each storey adds."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from kvmhost.bench.report.html import plots
from kvmhost.bench.report.html.markup import tag
from kvmhost.bench.report.html.model import RATIO, File, Page, Scale
from kvmhost.bench.report.html.parts import key, link, named, section
from kvmhost.bench.report.html.stories import LAYERS, Layer
from kvmhost.bench.statistics import Interval

#: A row's height in pixels.
HIGH = 34


def layers(page: Page) -> Element | None:
    """The section; one layer alone makes none."""
    charts = [chart for file in page.files if (chart := stacked(page, file))]
    if not charts:
        return None
    used = [layer for layer in LAYERS if any(file.measured(layer.name) for file in page.files)]
    legend = [
        tag("span", tag("i", class_=f"swatch l{LAYERS.index(layer) + 1}"), layer.title) for layer in used
    ]
    return section(
        "layers",
        "The layers of an exit",
        key(page),
        tag("p", legend, class_="legend"),
        tag("div", charts, class_=f"falls n{min(len(charts), 3)}"),
        about="The same exit of the VM, waited for in different ways. Each way stands on one that does less; "
        "what it adds is the difference of their medians, and less than nothing is drawn hatched.",
    )


def figures(file: File) -> tuple[Scale, dict[str, Interval]] | None:
    """What a file has of the layers, all on one scale."""
    sights = [sight for layer in LAYERS if (sight := file.measured(layer.name))]
    if len(sights) < 2:
        return None
    scale = sights[0].scale
    found = {sight.name: sight.found for sight in sights if sight.scale == scale and sight.found}
    return (scale, found) if len(found) > 1 else None


def below(layer: Layer, found: dict[str, Interval]) -> list[Layer]:
    """The layers that one stands on, from the ground up, itself the last, as far as there are figures."""
    chain: list[Layer] = []
    here = layer
    while True:
        if here.name in found:
            chain.append(here)
        if not here.on:
            return chain[::-1]
        here = next(one for one in LAYERS if one.name == here.on)


def added(layer: Layer, found: dict[str, Interval]) -> list[tuple[Layer, float, float]]:
    """Each layer under this one with where its piece starts and ends."""
    pieces, ground = [], 0.0
    for one in below(layer, found):
        top = found[one.name].middle
        pieces.append((one, ground, top))
        ground = top
    return pieces


def stacked(page: Page, file: File) -> Element | None:
    """The chart of one file."""
    known = figures(file)
    if known is None:
        return None
    scale, found = known
    like = [other for one in page.files if (other := figures(one)) and other[0] == scale]
    axis = plots.Axis(0, max(one.high for _, other in like for one in other.values()) * 1.02)
    lines = [line(layer, scale, found, axis) for layer in LAYERS if layer.name in found]
    ruler = plots.ruler(axis, scale, 4)
    unit = tag("span", plots.unit(axis, scale)[1], class_="unit")
    caption = named(file) if len(page.files) > 1 else None
    note = f" in terms of {page.reference(LAYERS[0].name) or 'its reference'}" if scale is RATIO else ""
    return tag(
        "figure",
        tag("figcaption", caption, tag("span", f"one exit{note}, {comes_to(scale, found)}")),
        tag("ol", lines, tag("li", tag("span"), ruler, unit, class_="ruler"), class_="steps layers"),
        class_=f"fall{'' if scale.meaningful else ' dim'}",
    )


def comes_to(scale: Scale, found: dict[str, Interval]) -> str:
    """From the least to the most."""
    middles = [one.middle for one in found.values()]
    return f"from {scale.amount(min(middles))} to {scale.amount(max(middles))}"


def line(layer: Layer, scale: Scale, found: dict[str, Interval], axis: plots.Axis) -> Element:
    """One way to wait for an exit."""
    pieces, labels, said = added(layer, found), [], []
    blocks = []
    for one, start, end in pieces:
        kind = f"l{LAYERS.index(one) + 1}"
        less = end < start
        blocks.append(
            plots.block(axis, min(start, end), max(start, end), 5, HIGH - 10, "rest" if less else kind)
        )
        words = scale.amount(end - start)
        sign = "+" if start and not less else ""
        said.append(f"{one.title} {sign}{words}")
        if axis.place(end) - axis.place(start) > 0.13:
            middle = (axis.place(start) + axis.place(end)) / 2
            text = f"{sign}{words}"
            labels.append(
                tag("text", text, x=f"{100 * middle:.2f}%", y=str(HIGH / 2 + 5), class_=f"in {kind}")
            )
    total = found[layer.name]
    y = str(HIGH / 2)
    whisker = tag("line", x1=axis.percent(total.low), x2=axis.percent(total.high), y1=y, y2=y, class_="reach")
    drawn = plots.drawing(
        HIGH,
        plots.grid(axis, scale, HIGH),
        blocks,
        labels,
        whisker,
        class_="bar",
        title=f"{', '.join(said)}; interval {scale.between(total)}",
    )
    adds = ""
    if len(pieces) > 1:
        adds = f"adds {scale.amount(pieces[-1][2] - pieces[-1][1])}"
    told = tag("span", tag("b", scale.amount(total.middle)), " ", tag("i", adds), class_="told")
    return tag("li", link(layer.name, layer.title), drawn, told, class_="step")
