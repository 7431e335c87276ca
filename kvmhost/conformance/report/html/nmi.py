"""The NMI map: one cell for each instruction boundary of a Switcher, and the listing beneath it.

The strips stand under each other, so that one sees what the order of two instructions is worth.
"""

from __future__ import annotations

from collections import Counter
from itertools import groupby

from kvmhost.conformance.report.html.markup import Markup, tag
from kvmhost.conformance.report.html.parts import section
from kvmhost.conformance.results import Boundary, NmiMap, Run, Verdict

SIGNS = {
    Verdict.SAFE: "",
    Verdict.HANDLED: "h",
    Verdict.FATAL: "✗",
    Verdict.WRONG: "!",
    Verdict.UNKNOWN: "?",
}
#: What one has to look at.
NOTABLE = (Verdict.FATAL, Verdict.WRONG)
MEANING = {
    Verdict.SAFE: "safe: the end is the same as without it",
    Verdict.HANDLED: "the Host's own handler runs",
    Verdict.FATAL: "fatal: the machine shuts down",
    Verdict.WRONG: "not as the catalogue says",
    Verdict.UNKNOWN: "not known",
}
PATHS = {
    "enter": "into the Guest",
    "return": "back to the Host",
    "deliver": "back, and on to a handler",
    "nmi": "in the handler",
    "stub": "at the entries of vectors",
}
ABOUT = (
    "What one NMI does just before each instruction of a Switcher. Between LGDT and LIDT the Host's IDT "
    "points into the Guest's GDT: there an NMI is the end of the machine, unless LIDT comes first."
)


def nmi_map(run: Run) -> Markup | None:
    """All maps; nothing if no runner made one."""
    if not run.nmi_maps:
        return None
    # Of several maps of one Switcher the first that shows something is open.
    notable = {one.switcher: number for number, one in reversed(list(enumerate(run.nmi_maps))) if shows(one)}
    open_ones = set(notable.values())
    return section(
        "nmi",
        "NMI at every boundary",
        legend(run.nmi_maps),
        tag("div", [strip(number, one) for number, one in enumerate(run.nmi_maps)], class_="strips"),
        [listing(number, one, number in open_ones) for number, one in enumerate(run.nmi_maps)],
        about=ABOUT,
    )


def legend(maps: tuple[NmiMap, ...]) -> Markup:
    """What the cells mean, as far as they occur."""
    seen = {boundary.verdict for one in maps for boundary in one.boundaries}
    return tag(
        "p",
        [
            tag("span", tag("i", SIGNS[verdict], class_=f"cell v-{verdict.value}"), words)
            for verdict, words in MEANING.items()
            if verdict in seen
        ],
        class_="legend",
    )


def strip(number: int, one: NmiMap) -> Markup:
    """One Switcher: its paths one after the other."""
    parts = [
        tag(
            "div",
            tag("span", PATHS.get(path, path), class_="path"),
            tag("ol", [cell(number, boundary) for boundary in boundaries]),
        )
        for path, boundaries in (
            (path, list(found)) for path, found in groupby(one.boundaries, lambda b: b.path)
        )
    ]
    return tag(
        "div", tag("h3", title(one)), tag("p", tally(one), class_="tally"), tag("div", parts, class_="strip")
    )


def title(one: NmiMap) -> Markup:
    """Which Switcher, and where it was run."""
    return tag("b", one.switcher) + tag(
        "span", f"{one.layer} on {one.runner}{one.method and ', '}{one.method}"
    )


def tally(one: NmiMap) -> str:
    """How many boundaries are what."""
    counts = Counter(boundary.verdict for boundary in one.boundaries)
    return ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in MEANING if counts[verdict])


def words(boundary: Boundary) -> str:
    """A boundary in a sentence."""
    text = f"{boundary.label}, before {boundary.text}: {boundary.verdict.value}"
    if boundary.verdict is not boundary.expected:
        text += f", and the catalogue says {boundary.expected.value}"
    return text + (f"; {boundary.detail}" if boundary.detail else "")


def cell(number: int, boundary: Boundary) -> Markup:
    """One boundary of the strip, a link to its line in the listing."""
    verdict = boundary.verdict
    return tag(
        "li",
        tag(
            "a",
            SIGNS[verdict],
            href=f"#nmi-{number}-{boundary.address:x}",
            class_=f"cell v-{verdict.value}",
            title=words(boundary),
            aria_label=words(boundary),
        ),
        tag("b", boundary.label) if verdict in NOTABLE else None,
    )


def shows(one: NmiMap) -> bool:
    """Whether anything is to be seen in it."""
    return any(boundary.verdict in NOTABLE for boundary in one.boundaries)


def listing(number: int, one: NmiMap, opened: bool) -> Markup:
    """The Switcher itself, instruction by instruction."""
    return tag(
        "details",
        tag("summary", f"listing of {one.switcher} ({one.layer} on {one.runner})"),
        tag("ol", [line(number, boundary) for boundary in one.boundaries], class_="listing"),
        open=opened,
    )


def line(number: int, boundary: Boundary) -> Markup:
    """One instruction with what an NMI before it does."""
    return tag(
        "li",
        tag("i", SIGNS[boundary.verdict], class_=f"cell v-{boundary.verdict.value}"),
        tag("span", boundary.label, class_="label"),
        tag("span", f"+{boundary.address & 0xFFF:03x}", class_="address"),
        tag("span", boundary.text.replace("dword ptr ", ""), class_="text"),
        tag("em", boundary.verdict.value) if boundary.verdict in NOTABLE else None,
        id=f"nmi-{number}-{boundary.address:x}",
        title=words(boundary),
    )
