"""Files against the first one: what became dearer, what cheaper, and what nobody should believe yet.

What is compared with what, and which difference counts, `kvmhost.bench.compare` says; here it is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from kvmhost.bench import figures
from kvmhost.bench.compare import Comparison, Line, compare
from kvmhost.bench.report.html import plots, words
from kvmhost.bench.report.html.markup import Content, tag
from kvmhost.bench.report.html.model import RATIO, File, Page
from kvmhost.bench.report.html.parts import chip, link, named, section
from kvmhost.bench.statistics import Change

SIGNS = {"loss": "▲", "gain": "▼", "same": "≈"}
WORDS = {"loss": "dearer", "gain": "cheaper", "same": "not told apart"}
#: Which of a benchmark's figures is drawn: its own, or the ratio to its reference.
OWN = ("", figures.RATIO)


@dataclass(frozen=True, slots=True)
class Pair:
    """One benchmark in a later file against the first.  others: its exact counts that are others now."""

    file: File
    line: Line
    others: tuple[Line, ...]

    @property
    def change(self) -> Change:
        """What became of the benchmark's own figure."""
        return self.line.change

    @property
    def weight(self) -> float:
        """How far it went, for the order of lines."""
        ratio = self.change.ratio
        return ratio.middle if ratio and self.change.significant else 1.0


def verdict(change: Change) -> str:
    """Which way it went."""
    return "loss" if change.loss else "gain" if change.gain else "same"


def pairs(file: File, comparison: Comparison) -> dict[str, Pair]:
    """What can be compared in one file, by benchmark: its figure, or its ratio if that is all there is.

    Where files share nothing but exact counts, a count that changed stands for the benchmark.
    """
    lines: dict[str, list[Line]] = {}
    for line in comparison.lines:
        lines.setdefault(line.new.benchmark, []).append(line)
    found = {}
    for name, mine in lines.items():
        own = [line for kind in OWN for line in mine if line.new.kind == kind][:1]
        others = tuple(line for line in mine if line not in own and line.change.significant)
        for line in (own or others)[:1]:
            found[name] = Pair(file, line, others)
    return found


def compared(page: Page) -> Element | None:
    """The section; None with one file."""
    if len(page.files) < 2:
        return None
    first, *later = page.files
    comparisons = [(file, compare(first.report, file.report)) for file in later]
    by_file = [pairs(file, comparison) for file, comparison in comparisons]
    found = {
        name: two
        for name in page.names
        if not page.is_overhead(name) and (two := [mine[name] for mine in by_file if name in mine])
    }
    differing = {
        name: two for name, two in found.items() if any(one.change.significant or one.others for one in two)
    }
    order = sorted(differing, key=lambda name: -max(one.weight for one in differing[name]))
    same = {name: two for name, two in found.items() if name not in differing}
    return section(
        "compared",
        f"Compared with {first.letter}",
        tag("ul", [tally(file, comparison) for file, comparison in comparisons], class_="tallies"),
        forest({name: differing[name] for name in order}) if differing else None,
        tag(
            "details",
            tag("summary", f"{words.count(len(same), 'benchmark')} not told apart in any file"),
            forest(same),
        )
        if same
        else None,
        about=[
            named(first),
            " is 1×. A difference counts as one when its interval, widened for many benchmarks at once, "
            "leaves out 1, and when it is larger than what anybody should believe. Counts are exact. ",
            "▲ costs more, ▼ costs less.",
        ],
    )


def tally(file: File, comparison: Comparison) -> Element:
    """How one file did on the whole, and what else is not the same."""
    losses, gains = len(comparison.losses), len(comparison.gains)
    same = len(comparison.lines) - losses - gains
    pieces: list[Content] = [
        tag("span", tag("b", f"{SIGNS[which]} {number}"), f" {WORDS[which]}", class_=which)
        for which, number in (("loss", losses), ("gain", gains), ("same", same))
    ]
    alone = len(comparison.gone) + len(comparison.added)
    if alone:
        pieces.append(tag("span", tag("b", str(alone)), " in one file only", class_="same"))
    warned = [tag("li", words_) for words_ in comparison.warnings]
    more = tag(
        "details",
        tag("summary", f"what else is not the same ({len(warned)})"),
        tag("ul", warned),
    )
    return tag("li", named(file), tag("span", pieces, class_="verdicts"), more if warned else None)


def forest(found: dict[str, list[Pair]]) -> Element:
    """A line a benchmark, a whisker a file, on one axis of ratios."""
    axis = plots.ratio_axis([one.change.ratio for two in found.values() for one in two if one.change.ratio])
    marks = plots.marks(axis, plots.ratio_marks(axis))
    ruler = tag("li", tag("span"), marks, tag("span"), class_="ruler")
    return tag("ol", [step(name, two, axis) for name, two in found.items()], ruler, class_="steps forest")


def step(name: str, two: list[Pair], axis: plots.Axis) -> Element:
    """One benchmark; exact numbers that changed stand under its name."""
    many = len(two) > 1
    drawn = [whisker(one, axis, plots.AMONG if many else plots.ALONE) for one in two]
    told = [
        tag("span", chip(one.file), words_of(one, many), class_=f"one-of {verdict(one.change)}")
        for one in two
    ]
    others = [tag("span", chip(one.file), shifted(one.others), class_="exact") for one in two if one.others]
    return tag(
        "li",
        tag("div", link(name), others),
        tag("div", drawn, class_="stack"),
        tag("div", told, class_=f"told{' many' if many else ''}"),
        class_="step",
    )


def whisker(one: Pair, axis: plots.Axis, height: float) -> Element:
    """The ratio of one file, hollow where it is not believed."""
    ratio, which = one.change.ratio, verdict(one.change)
    if ratio is None:
        why = f"{one.file.label}: no ratio, because the first file's figure may as well be 0"
        return plots.drawing(height, class_="whisker", title=why)
    said = f"{one.file.label}: {RATIO.amount(ratio.middle)}, interval {RATIO.between(ratio)}, {WORDS[which]}"
    return plots.whisker(ratio, axis, said, f"{one.file.colour} {which}", height)


def words_of(one: Pair, many: bool) -> list[Content]:
    """The verdict and the ratio, with its interval where there is room for it."""
    ratio = one.change.ratio
    if ratio is None:
        middle, ends = f"{words.digits(one.change.difference.middle)} {one.line.new.label} more", ""
    else:
        middle, ends = RATIO.amount(ratio.middle), "" if ratio.low == ratio.high else RATIO.between(ratio)
    return [tag("b", f"{SIGNS[verdict(one.change)]} {middle}"), None if many else [" ", tag("i", ends)]]


def shifted(others: tuple[Line, ...]) -> str:
    """The counts that changed, from what to what."""
    return ", ".join(f"{line.new.kind} {median(line.old)} → {median(line.new)}" for line in others)


def median(figure: figures.Figure) -> str:
    """An exact number."""
    return words.exact(figure.interval().middle)
