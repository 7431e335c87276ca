"""Sixty defects, and whether the rows see them.

A check that cannot fail proves nothing.  So each defect of mutations.toml is planted: in a reference
Switcher, in a product's, or in what a Host sets up around it; the rows that it names run, and at least one of
them must fail.  What comes out is a matrix of defects and rows (matrix.json), which every report shows.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from .case import Case
from .expand import expand, overlaid
from .reference import NAMES, Instruction, Reference, Stubs, image_of, load
from .row import NOTHING, CaseSpec, Row, find
from .switcher_image import SwitcherImage

_LISTS = ("gdt", "idt", "pages", "memory")


@dataclass(frozen=True, slots=True)
class Mutation:
    """One defect.

    l2: reference's name to label to the instructions that replace it.  stubs: keys of the reference's rule
    to their new values.  source: product's name to pairs (old text, new text) of its assembler source.
    setup: keys of a case with what is added in front of a row's own.  killed_by: the rows that must see it.
    """

    id: str
    title: str
    why: str
    killed_by: tuple[str, ...]
    l2: Mapping[str, Mapping[str, tuple[Instruction, ...]]] = field(repr=False)
    stubs: Mapping[str, Any] = field(repr=False)
    source: Mapping[str, tuple[tuple[str, str], ...]] = field(repr=False)
    setup: Mapping[str, Any] = field(repr=False)

    def references(self) -> tuple[str, ...]:
        """The reference Switchers that the defect can be planted in."""
        return NAMES if self.stubs else tuple(name for name in NAMES if name in self.l2)

    def planted(self, name: str) -> Reference:
        """A reference Switcher with the defect."""
        reference = load(name)
        edits = {label: _named(reference, label, new) for label, new in self.l2.get(name, NOTHING).items()}
        reference = reference.edited(edits)
        return replace(reference, stubs=_stubs(reference.stubs, self.stubs)) if self.stubs else reference


def _named(reference: Reference, label: str, new: tuple[Instruction, ...]) -> tuple[Instruction, ...]:
    """The replacement under the name that rows call the old one; what is taken out leaves its place."""
    first = new[0] if new else Instruction(label, b"", "")
    return (replace(first, name=reference.instruction(label).name), *new[1:])


def _stubs(rule: Stubs, change: Mapping[str, Any]) -> Stubs:
    exits = list(rule.exits)
    for vector, target in change.get("exits", NOTHING).items():
        exits[int(vector)] = target
    codes = change.get("error_codes")
    # The defect is in the seven of 2007; what a later list has beside them stays.
    later = rule.error_codes - {8, 10, 11, 12, 13, 14, 17}
    return replace(
        rule,
        exits=tuple(exits),
        push_number=bytes.fromhex(change["push_number"]) if "push_number" in change else rule.push_number,
        number_bytes=change.get("number_bytes", rule.number_bytes),
        error_codes=rule.error_codes if codes is None else frozenset(codes) | later,
    )


@cache
def mutations() -> tuple[Mutation, ...]:
    """All of them, in the order of their ids.

    >>> len(mutations())
    60
    """
    text = resources.files(__package__).joinpath("mutations.toml").read_text(encoding="utf-8")
    return tuple(parsed(each) for each in tomllib.loads(text)["mutation"])


def parsed(data: Mapping[str, Any]) -> Mutation:
    """One defect as a file has it."""
    return Mutation(
        id=data["id"],
        title=data["title"],
        why=data.get("why", ""),
        killed_by=tuple(data["killed_by"]),
        l2={
            name: {label: tuple(_instructions(label, each)) for label, each in labels.items()}
            for name, labels in data.get("l2", NOTHING).items()
        },
        stubs=data.get("stubs", NOTHING),
        source={name: tuple((a, b) for a, b in pairs) for name, pairs in data.get("source", NOTHING).items()},
        setup=data.get("setup", NOTHING),
    )


def _instructions(label: str, told: Iterable[Mapping[str, str]]) -> Iterator[Instruction]:
    """The first keeps the label, so that what jumps to it still can."""
    for number, each in enumerate(told):
        name = label if number == 0 else f"{label}+{number}"
        yield Instruction(name, bytes.fromhex(each["hex"]), each["listing"])


def cases(mutation: Mutation, switchers: Mapping[str, SwitcherImage] = MappingProxyType({})) -> list[Case]:
    """The cases of the rows that must see a defect, with the defect in them.

    A defect of the reference Switchers is planted in each that can have it; one of the set-up is played on
    switchers.  Cases of kind N are left out, as they break already, and those that need more than a CPU.
    """
    rows = [find(name) for name in mutation.killed_by]
    if mutation.setup:
        return _kept(case for row in rows for case in _disturbed(row, mutation.setup, switchers))
    planted = {f"L2-{name}": mutation.planted(name) for name in mutation.references()}
    images = {layer: image_of(reference) for layer, reference in planted.items()}
    return _kept(case for row in rows for case in expand(row, images, planted))


def of_product(mutation: Mutation, images: Mapping[str, SwitcherImage]) -> list[Case]:
    """The same for the product's Switchers, given as images that have the defect."""
    return _kept(case for name in mutation.killed_by for case in expand(find(name), images))


def _kept(found: Iterable[Case]) -> list[Case]:
    return [case for case in found if case.layer != "L1" and case.kind != "N" and not case.requires]


def _disturbed(row: Row, setup: Mapping[str, Any], switchers: Mapping[str, SwitcherImage]) -> list[Case]:
    worlds = tuple(_added(spec, setup) for spec in row.cases if spec.world == "pair")
    return expand(replace(row, cases=worlds), switchers) if worlds else []


def _added(spec: CaseSpec, setup: Mapping[str, Any]) -> CaseSpec:
    """A spec with the defect's builders in front of its own."""
    lists: dict[str, Any] = {name: (*setup.get(name, ()), *getattr(spec, name)) for name in _LISTS}
    if "idt_all" in setup:
        lists["idt"] = (*({"vector": vector, **setup["idt_all"]} for vector in range(256)), *spec.idt)
    return replace(
        spec,
        cpu=overlaid(setup.get("cpu", NOTHING), spec.cpu),
        tss=overlaid(setup.get("tss", NOTHING), spec.tss),
        **lists,
    )
