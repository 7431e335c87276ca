"""The aims that kvmhost has for itself, with the figure and the verdict of each file."""

from __future__ import annotations

from collections import Counter
from xml.etree.ElementTree import Element

from kvmhost.bench.aims import Outcome, Verdict, judge
from kvmhost.bench.report.html.markup import Content, tag
from kvmhost.bench.report.html.model import File, Page
from kvmhost.bench.report.html.parts import chip, section

SIGNS = {Outcome.MET: "✓", Outcome.MISSED: "✗", Outcome.NOT_HERE: "◌"}
CLASSES = {Outcome.MET: "met", Outcome.MISSED: "missed", Outcome.NOT_HERE: "not-here"}


def aims(page: Page) -> Element | None:
    """The section; None without a file, or where no file can say anything of any aim."""
    judged = [(file, {one.name: one for one in judge(file.report)}) for file in page.files]
    verdicts = [one for _, found in judged for one in found.values()]
    if all(one.outcome is Outcome.NOT_HERE for one in verdicts):
        return None
    names = dict.fromkeys(one.name for one in verdicts)
    lines = [aim([(file, found[name]) for file, found in judged if name in found]) for name in names]
    number = Counter(one.outcome for one in verdicts)
    said = ", ".join(f"{number[outcome]} {outcome.value}" for outcome in Outcome if number[outcome])
    return section("aims", "Aims", tag("ul", lines, class_="aims"), about=f"{said[0].upper()}{said[1:]}.")


def aim(verdicts: list[tuple[File, Verdict]]) -> Element:
    """One aim, and what became of it in each file."""
    many = len(verdicts) > 1
    return tag(
        "li",
        tag("p", verdicts[0][1].sentence, class_="sentence"),
        tag("div", [tag("p", line(file, one, many), class_=CLASSES[one.outcome]) for file, one in verdicts]),
    )


def line(file: File, one: Verdict, many: bool) -> list[Content]:
    """One verdict."""
    return [
        [chip(file), " "] if many else None,
        tag("b", SIGNS[one.outcome], " ", one.figure or one.outcome.value, class_="verdict"),
        tag("span", one.outcome.value, class_="outcome") if one.figure else None,
        tag("span", one.reason, class_="reason") if one.reason else None,
    ]
