"""A report against an earlier one: what became of each figure, and whether that is to be believed.

All figures cost something, so more is a loss.  What both reports show is compared: counts exactly, everything
else by the rule in statistics.py.  What else differs between the two (the machine, the kernel, what ran at
ring 0) is told first, because then a difference says nothing of the code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kvmhost.bench.figures import Figure, figures
from kvmhost.bench.results import Provenance, Report
from kvmhost.bench.statistics import Change, change


@dataclass(frozen=True, slots=True)
class Line:
    """One figure in both reports."""

    old: Figure
    new: Figure
    change: Change

    @property
    def name(self) -> str:
        """What the figure is called."""
        return self.new.name


@dataclass(frozen=True, slots=True)
class Comparison:
    """All of it.  warnings: what else differs.  gone, added: figures that one report has and one has not."""

    lines: tuple[Line, ...]
    warnings: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    @property
    def losses(self) -> tuple[Line, ...]:
        """What costs significantly more than before."""
        return tuple(line for line in self.lines if line.change.loss)

    @property
    def gains(self) -> tuple[Line, ...]:
        """What costs significantly less than before."""
        return tuple(line for line in self.lines if line.change.gain)

    @property
    def lost(self) -> bool:
        """Whether anything was lost: whoever asked for a comparison wants it to fail then."""
        return bool(self.losses)


def compare(old: Report, new: Report, *, lab_times: bool = False) -> Comparison:
    """What became of the figures of `old` in `new`."""
    before = {figure.name: figure for figure in figures(old, lab_times=lab_times)}
    after = {figure.name: figure for figure in figures(new, lab_times=lab_times)}
    both = [name for name in after if name in before and before[name].label == after[name].label]
    return Comparison(
        tuple(line(before[name], after[name]) for name in both),
        (*differences(old.provenance, new.provenance), *spoiled(old, new), *units(before, after)),
        tuple(name for name in before if name not in after),
        tuple(name for name in after if name not in before),
    )


def line(old: Figure, new: Figure) -> Line:
    """One figure's."""
    return Line(old, new, change(old.runs, new.runs, exact=old.exact and new.exact, noise=new.noise))


def units(before: dict[str, Figure], after: dict[str, Figure]) -> Iterator[str]:
    """What is counted in something else now."""
    for name, figure in after.items():
        if name in before and before[name].label != figure.label:
            was, now = before[name].label or "a ratio", figure.label or "a ratio"
            yield f"{name} is not compared: it was in {was}, and is in {now}"


def differences(old: Provenance, new: Provenance) -> Iterator[str]:
    """What else is not the same."""
    names = {
        "backend": "backend",
        "cpu": "CPU",
        "microcode": "microcode",
        "kernel": "kernel",
        "kvmhost": "version of kvmhost",
    }
    for key, name in names.items():
        was, now = getattr(old, key), getattr(new, key)
        if was != now:
            yield f"another {name}: {was or 'unknown'} before, {now or 'unknown'} now"
    if old.icount != new.icount:
        yield "one machine counts instructions where the other one counts time"
    for key in sorted({*old.hashes, *new.hashes}):
        pair = [each.hashes.get(key, "none")[:12] for each in (old, new)]
        if pair[0] != pair[1]:
            yield f"another {key}: {pair[0]} before, {pair[1]} now"
    for key in sorted({*old.facts, *new.facts}):
        pair = [each.facts.get(key, "unknown") for each in (old, new)]
        if pair[0] != pair[1] and is_setting(key):
            yield f"{key}: {pair[0]} before, {pair[1]} now"


def is_setting(fact: str) -> bool:
    """Whether a fact is a setting of the machine's, and not a reading that is another one each time.

    >>> is_setting("mitigation meltdown"), is_setting("load")
    (True, False)
    """
    return fact.startswith(("mitigation ", "kvm", "boot ", "governor", "turbo", "smt", "clocksource"))


def spoiled(old: Report, new: Report) -> Iterator[str]:
    """What spoils either."""
    for report, which in ((old, "earlier"), (new, "new")):
        if report.spoilers:
            yield f"the {which} figures are spoiled by {', '.join(one.name for one in report.spoilers)}"
        if report.interrupted:
            yield f"the {which} measurement was interrupted"
