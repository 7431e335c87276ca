"""A Case and what was observed, side by side: does it pass, and if not, in what.

Three things may excuse a difference, and each is said by name.  An alternative that the manual leaves open is
a pass.  A deviation that the row names for this class of environments is XFAIL if it shows exactly as
foretold, and a failure if it does not show at all: then our knowledge is out of date.  And the bits that a
whole class gets wrong (deviations.toml) are not looked at, unless the row is about those very bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from . import row
from .case import NO_ERROR, Case, Expect, Masked, MemoryExpect, Observation, Trap
from .results import Difference, Environment, StateLine, Status
from .stage import ALWAYS_CHANGED, PAGES, SW, place_name
from .switcher_image import TEXT_LIMIT

_ALL = 0xFFFFFFFF
_ADDRESSES = frozenset({"eip", "esp", "esp (before the trap)", "cr2", "gdt_base", "idt_base", "cr3"})


@dataclass(frozen=True, slots=True)
class Compared:
    """The verdict on one run of a case.

    because: the deviation of XFAIL and NOT_DEMONSTRABLE; for some failures a reason that is not a difference.
    alternative: the reason of the any_of that was met.  differences are those to the expectation itself.
    """

    status: Status
    because: str = ""
    alternative: str = ""
    differences: tuple[Difference, ...] = ()
    state: tuple[StateLine, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that is compared: both sides as text, and whether they agree."""

    what: str
    expected: str
    found: str
    agrees: bool


def compare(case: Case, observation: Observation, environment: Environment) -> Compared:
    """Judge one observation; environment.class_code says which deviations are known, "" none.

    A deviation that shows nothing (its expectation is empty) gives NOT_DEMONSTRABLE, whatever was seen.
    """
    ignored = _ignored(case, environment.class_code)
    lines = tuple(_lines(case.expect, observation, ignored))
    state = tuple(StateLine(line.what, line.expected, line.found, line.agrees) for line in lines)
    differences = tuple(Difference(line.what, line.expected, line.found) for line in lines if not line.agrees)
    met, reason = not differences, ""
    for alternative in case.any_of:
        if met:
            break
        if _agrees(alternative.expect, observation, ignored):
            met, reason = True, alternative.reason
    deviation = case.deviations.get(environment.class_code)
    if observation.outcome == "broken":
        return Compared(Status.FAIL, observation.detail, "", differences, state)
    if deviation is not None and deviation.expect is None:
        return Compared(Status.NOT_DEMONSTRABLE, deviation.dev, "", (), state)
    if deviation is not None and deviation.expect is not None:
        if met:
            gone = Difference(deviation.dev, "this environment deviates", "it does as the manual says")
            return Compared(Status.FAIL, f"the deviation {deviation.dev} is gone", reason, (gone,), state)
        if _agrees(deviation.expect, observation, ignored):
            return Compared(Status.XFAIL, deviation.dev, "", differences, state)
    if met:
        return Compared(Status.PASS, "", reason, (), state)
    return Compared(Status.FAIL, observation.detail, "", differences, state)


def outcome(observation: Observation) -> str:
    """What was seen, in a few words: "trap 13, error 0x50, at G_CODE+0x5"."""
    trap = observation.trap
    if observation.outcome != "trap" or trap is None:
        return f"{observation.outcome}: {observation.detail}" if observation.detail else observation.outcome
    error = "" if trap.error == NO_ERROR else f", error {trap.error:#x}"
    return f"trap {trap.vector}{error}, at {address(trap.eip)}"


def address(value: int) -> str:
    """A linear address as a person calls it."""
    if SW <= value < SW + TEXT_LIMIT // 2:
        return f"SW+{value - SW:#x}"
    return place_name(value)


def _ignored(case: Case, class_code: str) -> Mapping[str, int]:
    """Bits by field that this class gets wrong as a whole, but for the deviation that the case is about."""
    named = case.deviations[class_code].dev if class_code in case.deviations else ""
    ignored: dict[str, int] = {}
    for name, deviation in row.deviations().items():
        if class_code in deviation.classes and name != named:
            for where, bits in deviation.mask:
                ignored[where] = ignored.get(where, 0) | bits
    return ignored


def _agrees(expect: Expect, observation: Observation, ignored: Mapping[str, int]) -> bool:
    return all(line.agrees for line in _lines(expect, observation, ignored))


def _lines(expect: Expect, observation: Observation, ignored: Mapping[str, int]) -> Iterator[Line]:
    """Everything that an expectation compares, in the order of a report."""
    same = expect.outcome == observation.outcome
    yield Line("outcome", expect.outcome, outcome(observation), same)
    if not same:
        return
    if expect.trap is not None:
        yield from _trap(expect, observation.trap, ignored)
    groups = (("regs", expect.regs, observation.regs), ("cr", expect.cr, observation.cr))
    for group, masks, found in (*groups, ("dr", expect.dr, observation.dr)):
        for name, masked in masks.items():
            yield _number(name, masked, found.get(name), ignored.get(f"{group}.{name}", 0))
    for values, found in ((expect.segs, observation.segs), (expect.tables, observation.tables)):
        for name, value in values.items():
            yield _number(name, Masked(value), found.get(name), 0)
    for memory in expect.memory:
        yield _memory(memory, observation)
    if expect.changed is not None:
        yield _changed(expect.changed, observation.changed, ignored)
    for segment, parts in expect.hidden.items():
        for name, value in parts.items():
            yield _number(
                f"hidden {segment}.{name}", Masked(value), observation.hidden.get(segment, {}).get(name), 0
            )
    for name, wanted_value in expect.values.items():
        seen = observation.values.get(name, "nothing")
        yield Line(name, str(wanted_value), str(seen), seen == wanted_value)


def _trap(expect: Expect, trap: Trap | None, ignored: Mapping[str, int]) -> Iterator[Line]:
    wanted = expect.trap
    assert wanted is not None
    for name in ("vector", "error", "eip", "cs", "eflags", "ss", "esp"):
        value = getattr(wanted, name)
        if value is None:
            continue
        mask = _ALL
        if name == "eflags":
            mask = wanted.eflags_mask
            # A row with a mask of its own has thought about the bits.
            if mask == _ALL:
                mask &= ~ignored.get("trap.eflags", 0)
        elif f"trap.{name}" in ignored:
            mask &= ~ignored[f"trap.{name}"]
        yield _number(name, Masked(value, mask), None if trap is None else getattr(trap, name), 0)


def _number(name: str, wanted: Masked, found: int | None, ignored: int) -> Line:
    mask = wanted.mask & ~ignored
    if found is None:
        return Line(name, _text(name, wanted.value), "none", False)
    agrees = found == wanted.value or (
        NO_ERROR not in (found, wanted.value) and (found ^ wanted.value) & mask == 0
    )
    expected = _text(name, wanted.value)
    if mask != _ALL and wanted.value != NO_ERROR:
        expected = f"{wanted.value & mask:#x} in the bits {mask & _ALL:#x}"
    return Line(name, expected, _text(name, found), agrees)


def _text(name: str, value: int) -> str:
    if value == NO_ERROR:
        return "none"
    if name == "vector":
        return str(value)
    number = f"{value:#x}"
    named = address(value) if name in _ADDRESSES else number
    return number if named == number else f"{number} ({named})"


def _memory(wanted: MemoryExpect, observation: Observation) -> Line:
    name = wanted.what or place_name(wanted.address)
    found = observation.memory.get((wanted.address, len(wanted.data)))
    if found is None:
        return Line(name, _bytes(wanted.data), "not read", False)
    mask = wanted.mask or b"\xff" * len(wanted.data)
    agrees = all((a ^ b) & m == 0 for a, b, m in zip(wanted.data, found, mask, strict=True))
    expected = _bytes(wanted.data)
    if wanted.mask is not None:
        expected += f" in the bits {_bytes(mask)}"
    return Line(name, expected, _bytes(found), agrees)


def _bytes(data: bytes) -> str:
    """Dwords where they come out even, else bytes; long ranges are cut."""
    if len(data) > 64:
        return f"{_bytes(data[:64])} ... ({len(data)} bytes)"
    if len(data) % 4 == 0 and data:
        return " ".join(f"{int.from_bytes(data[at : at + 4], 'little'):#x}" for at in range(0, len(data), 4))
    return data.hex(" ")


def _changed(allowed: frozenset[int], found: frozenset[int] | None, ignored: Mapping[str, int]) -> Line:
    always = {name.removeprefix("changed.") for name in ignored if name.startswith("changed.")}
    excused = allowed | ALWAYS_CHANGED | {PAGES.index(name) for name in always if name in PAGES}
    expected = _pages(allowed) or "none"
    if found is None:
        return Line("changed pages", f"at most {expected}", "not compared", False)
    return Line(
        "changed pages", f"at most {expected}", _pages(found - ALWAYS_CHANGED) or "none", found <= excused
    )


def _pages(pages: frozenset[int]) -> str:
    return " ".join(PAGES[page] if page < len(PAGES) else f"page {page}" for page in sorted(pages))
