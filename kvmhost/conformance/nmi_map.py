"""The NMI map, drawn from what a runner saw: what an NMI does at every labelled instruction of a Switcher.

The words of the map come from the observation alone.  A shutdown is fatal.  A trap of vector 2 in the
collector is the Host's own handler, which the stage stands in for.  Anything else is safe if the case came
out as it would have without the NMI, and wrong if it did not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .case import Case, Observation
from .listing import instruction
from .results import Boundary, NmiMap, Status, Verdict
from .stage import SW
from .switcher_image import SwitcherImage

#: The rows whose cases make the map.
ROWS = frozenset({"NMI-001", "NMI-006"})
NMI = 2
INT_2 = "INT 2 in its place"
#: How the family calls its cases, and the entries of vectors.
BY_INT_2 = re.compile(r"(\S+) (?:trap|deliver), by INT 2")
STUB = "stub"
#: The parts of a Switcher, and what the map calls them.
PATHS = {
    "switch_to_guest": "enter",
    "return_to_host": "return",
    "deliver_to_host": "deliver",
    "handle_nmi": "nmi",
}
#: Where several cases have the same boundary, the first of these that occurs is shown.
ORDER = (Verdict.FATAL, Verdict.WRONG, Verdict.UNKNOWN, Verdict.HANDLED, Verdict.SAFE)


@dataclass(frozen=True, slots=True)
class Seen:
    """One case with an NMI, and what came out."""

    case: Case
    observation: Observation
    status: Status


def place_of(case: Case, image: SwitcherImage) -> tuple[int, str] | None:
    """The offset in the Switcher at which a case of the map has its NMI, and what the place is called.

    None for any other case.  Where INT 2 stands in for the NMI, in front of the instruction in a copy of the
    text, the place is the instruction's own in the text that the map shows.
    """
    if case.row not in ROWS:
        return None
    if found := BY_INT_2.fullmatch(case.name):
        label = found[1]
        if label.startswith(STUB):
            return image.entries[int(label.removeprefix(STUB))], label
        return (image.boundaries[label], label) if label in image.boundaries else None
    event = case.event
    if event is None or event.kind != "nmi" or event.at is None or event.after:
        return None
    offset = event.at - SW
    label = next((label for label, at in image.boundaries.items() if at == offset), "")
    if not label and offset in image.entries:
        label = f"{STUB}{len(image.entries) - 1 - image.entries[::-1].index(offset)}"
    return (offset, label) if label else None


def draw(runner: str, seen: Iterable[Seen], switchers: Mapping[str, SwitcherImage]) -> tuple[NmiMap, ...]:
    """A map for each layer of which this runner ran cases: by real NMIs where it has them, else by INT 2."""
    by_layer: dict[str, dict[bool, dict[tuple[int, str], list[Seen]]]] = {}
    for one in seen:
        layer = one.case.layer
        if layer in switchers and (place := place_of(one.case, switchers[layer])):
            real = one.case.event is not None
            by_layer.setdefault(layer, {}).setdefault(real, {}).setdefault(place, []).append(one)
    return tuple(
        NmiMap(
            switchers[layer].name,
            layer,
            runner,
            boundaries(switchers[layer], found.get(True) or found[False]),
            "" if True in found else INT_2,
        )
        for layer, found in by_layer.items()
    )


def boundaries(image: SwitcherImage, found: Mapping[tuple[int, str], list[Seen]]) -> tuple[Boundary, ...]:
    """Every instruction that a case was about, in the order of the text."""
    return tuple(boundary(image, label, offset, found[offset, label]) for offset, label in sorted(found))


def boundary(image: SwitcherImage, label: str, offset: int, cases: list[Seen]) -> Boundary:
    """One boundary, from all cases that are about it."""
    worst = min(cases, key=lambda one: ORDER.index(verdict(one)))
    expected = min((meaning(one.case) for one in cases), key=ORDER.index)
    return Boundary(
        label,
        SW + offset,
        instruction(image, offset),
        verdict(worst),
        expected,
        "stub" if label.startswith(STUB) else path(image, offset),
        detail(worst),
    )


def verdict(one: Seen) -> Verdict:
    """What an NMI does, by what was seen."""
    if one.status not in (Status.PASS, Status.FAIL, Status.XFAIL):
        return Verdict.UNKNOWN
    if one.observation.outcome == "shutdown":
        return Verdict.FATAL
    if one.status is Status.FAIL:
        return Verdict.WRONG
    trap = one.observation.trap
    return Verdict.HANDLED if trap is not None and trap.vector == NMI else Verdict.SAFE


def meaning(case: Case) -> Verdict:
    """What the row says that an NMI does."""
    outcome, vector = case.meant
    if outcome == "shutdown":
        return Verdict.FATAL
    return Verdict.HANDLED if vector == NMI else Verdict.SAFE


def detail(one: Seen) -> str:
    """What else there is to say of a boundary that is not safe."""
    if verdict(one) is Verdict.FATAL:
        return one.observation.detail or "the machine shuts down"
    return f"{one.case.name}: {one.observation.outcome}" if verdict(one) is Verdict.WRONG else ""


def path(image: SwitcherImage, offset: int) -> str:
    """The part of the Switcher that an offset lies in."""
    starts = [(image.symbols[name], word) for name, word in PATHS.items() if name in image.symbols]
    return max(((start, word) for start, word in starts if start <= offset), default=(0, ""))[1]
