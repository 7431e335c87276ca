"""Defects beside the sixty: of the machine that a row starts from, of what it runs, and of how KVM is used.

The sixty of mutations.toml are a Switcher's.  Most rows look at something else: a gate's DPL, a bit of a page
table, an interrupt at a certain place, a call of KVM's.  So each defect of defects.toml spoils such a thing
for the rows that it names, and says by what it must show: a row has seen it only if it fails with the
predicted symptom, not if it merely fails.
"""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any

from .case import Case, Observation
from .expand import expand, family, overlaid
from .families.layered import LAYERED
from .mutations import Mutation, mutations, parsed
from .reference import image_of
from .row import NOTHING, CaseSpec, Code, Row, Table, find
from .switcher_image import SwitcherImage
from .verdict import Compared

#: So many cases of a row and layer show a defect, or none does.
MOST = 24
_LISTS = ("gdt", "idt", "pages", "memory")


@dataclass(frozen=True, slots=True)
class Defect:
    """One defect.

    runner: where it is played.  cases: globs over the names of the cases that meet it, none for all.
    over: keys of a case that are laid over a row's own.  each: for "gdt", "idt", "pages" what is laid over
    every entry that the row itself makes.  code: pairs (old bytes, new bytes) of what runs.  event: fields
    of the case's event that are different.  parameters: of a program.  switcher: what a Mutation says.
    symptom: what must show, see `shows`.
    """

    id: str
    title: str
    why: str
    killed_by: tuple[str, ...]
    runner: str
    cases: tuple[str, ...] = field(repr=False)
    over: Table = field(repr=False)
    each: Mapping[str, Table] = field(repr=False)
    code: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    event: Table = field(repr=False)
    parameters: Table = field(repr=False)
    switcher: Mutation | None = field(repr=False)
    symptom: Table = field(repr=False)

    @property
    def target(self) -> str:
        """What is spoilt, in a word."""
        if self.switcher is not None:
            return "reference"
        return "use of KVM" if self.parameters or self.event else "machine"


@cache
def defects() -> tuple[Defect, ...]:
    """All of them, in the order of their ids."""
    text = resources.files(__package__).joinpath("defects.toml").read_text(encoding="utf-8")
    return tuple(_read(each) for each in tomllib.loads(text)["defect"])


def _read(data: Table) -> Defect:
    switcher = None
    if "as" in data:
        switcher = next(each for each in mutations() if each.id == data["as"])
    elif "l2" in data or "stubs" in data:
        switcher = parsed(data)
    return Defect(
        id=data["id"],
        title=data["title"],
        why=data.get("why", ""),
        killed_by=tuple(data["killed_by"]),
        runner=data.get("runner", "tcg"),
        cases=tuple(data.get("cases", ())),
        over=data.get("over", NOTHING),
        each=data.get("each", NOTHING),
        code=tuple((bytes.fromhex(old), bytes.fromhex(new)) for old, new in data.get("code", ())),
        event=data.get("event", NOTHING),
        parameters=data.get("parameters", NOTHING),
        switcher=switcher,
        symptom=data["symptom"],
    )


def cases(defect: Defect, switchers: Mapping[str, SwitcherImage]) -> list[Case]:
    """The cases that must show a defect, with the defect in them; switchers has the reference ones."""
    found = (case for name in defect.killed_by for case in _of(defect, find(name), switchers))
    kept: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in found:
        if case.kind != "N":
            kept[case.row, case.layer].append(_met(defect, case))
    return [case for each in kept.values() for case in _spread(each)]


def _of(defect: Defect, row: Row, switchers: Mapping[str, SwitcherImage]) -> Iterator[Case]:
    if row.program:
        yield from expand(replace(row, parameters=overlaid(row.parameters, defect.parameters)))
        return
    planted = {}
    if defect.switcher is not None:
        planted = {f"L2-{name}": defect.switcher.planted(name) for name in defect.switcher.references()}
        switchers = {layer: image_of(reference) for layer, reference in planted.items()}
    if row.family not in LAYERED:
        specs = family(row)(row) if row.family else row.cases
        row = replace(row, family="", cases=tuple(_spoilt(defect, spec) for spec in specs))
    for case in expand(row, switchers, planted):
        if not defect.cases or any(fnmatchcase(case.name, glob) for glob in defect.cases):
            yield case


def _spoilt(defect: Defect, spec: CaseSpec) -> CaseSpec:
    """A spec with the defect laid over it."""
    over = defect.over
    lists: dict[str, Any] = {
        name: (*getattr(spec, name), *_marked(defect, name, getattr(spec, name)), *over.get(name, ()))
        for name in _LISTS
    }
    return replace(
        spec,
        cpu=overlaid(spec.cpu, over.get("cpu", NOTHING)),
        tss=overlaid(spec.tss, over.get("tss", NOTHING)),
        frame=overlaid(spec.frame, over.get("frame", NOTHING)),
        code=tuple(_exchanged(code, defect.code) for code in spec.code),
        **lists,
    )


def _marked(defect: Defect, name: str, entries: Iterable[Table]) -> Iterator[Table]:
    """For each entry that a row makes another one for the same place, with the defect's fields."""
    fields = defect.each.get(name)
    if fields is None:
        return
    where = {"gdt": ("selector", "table"), "idt": ("vector", "table"), "pages": ("linear", "table", "level")}
    for entry in entries:
        yield {**{key: entry[key] for key in where[name] if key in entry}, **fields}


def _exchanged(code: Code, pairs: Iterable[tuple[bytes, bytes]]) -> Code:
    data = code.bytes
    for old, new in pairs:
        data = data.replace(old, new)
    return replace(code, bytes=data)


def _met(defect: Defect, case: Case) -> Case:
    if not defect.event or case.event is None:
        return case
    return replace(case, event=replace(case.event, **defect.event))


def _spread(found: list[Case]) -> list[Case]:
    """At most MOST of them, from the first to the last."""
    if len(found) <= MOST:
        return found
    return [found[number * len(found) // MOST] for number in range(MOST)]


def shows(symptom: Table, observation: Observation, compared: Compared) -> bool:
    """Whether what was seen is what was predicted.

    symptom's keys: outcome; vector and error of the trap; values of a program; differs, things of which at
    least these are not as expected; detail, words in what the runner says.
    """
    trap = observation.trap
    seen: dict[str, Any] = {
        "outcome": observation.outcome,
        "vector": trap.vector if trap else None,
        "error": trap.error if trap else None,
    }
    told = {key: value for key, value in symptom.items() if key in seen}
    differs = {difference.what for difference in compared.differences}
    return (
        all(seen[key] == value for key, value in told.items())
        and set(symptom.get("differs", ())) <= differs
        and all(observation.values.get(name) == value for name, value in symptom.get("values", {}).items())
        and symptom.get("detail", "") in observation.detail
    )
