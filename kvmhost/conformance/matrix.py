"""Which rows see which defects: the mutation matrix, made by playing every defect on a runner.

Beside the sixty defects of a Switcher and those of the machine (defects.py) there is a crude one of the
CPU's: the instructions under test do nothing.  A row that such a CPU passes would prove nothing; but that is
not what a row is for, so none may rest on it alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from .case import Case, Observation
from .defects import Defect, shows
from .expand import expand, family
from .families.layered import LAYERED
from .mutations import Mutation, cases
from .results import Control, Environment, Mutant, Status
from .row import NOTHING, CaseSpec, Row, Table
from .runners.base import Heard
from .switcher_image import SwitcherImage
from .verdict import compare

INERT = "C01"
INERT_TITLE = "the instructions under test do nothing"
_NOP = b"\x90"


class Plays(Protocol):
    """As much of a runner as is needed here."""

    @property
    def environment(self) -> Environment: ...

    def unmet(self, case: Case) -> str: ...

    def run(self, cases: Sequence[Case], heard: Heard) -> None: ...


def seen(
    runner: Plays, planted: Mapping[str, Sequence[Case]], symptoms: Mapping[str, Table] = NOTHING
) -> dict[str, dict[str, tuple[str, ...]]]:
    """By defect and layer, the rows that failed, in the order of their ids.

    All defects are played in one run.  A layer that was played has an entry, be it empty.  Where a defect has
    a symptom, a row counts only if it shows it.
    """
    todo = {
        id(case): (name, case) for name, each in planted.items() for case in each if not runner.unmet(case)
    }
    failed: dict[str, dict[str, set[str]]] = {name: {} for name in planted}
    for name, case in todo.values():
        failed[name].setdefault(case.layer, set())

    def heard(case: Case, observation: Observation) -> None:
        name, _ = todo[id(case)]
        compared = compare(case, observation, runner.environment)
        if compared.status is Status.FAIL and shows(symptoms.get(name, NOTHING), observation, compared):
            failed[name][case.layer].add(case.row)

    runner.run([case for _, case in todo.values()], heard)
    return {
        name: {layer: tuple(sorted(rows)) for layer, rows in layers.items()}
        for name, layers in failed.items()
    }


def inert(row: Row, switchers: Mapping[str, SwitcherImage]) -> list[Case]:
    """A row's cases on a CPU that takes the first piece of their code for so many NOPs."""
    if row.program or row.family in LAYERED or not row.written:
        return []
    specs = family(row)(row) if row.family else row.cases
    return expand(replace(row, family="", cases=tuple(_idle(spec) for spec in specs if spec.code)), switchers)


def _idle(spec: CaseSpec) -> CaseSpec:
    first, *others = spec.code
    return replace(spec, code=(replace(first, bytes=_NOP * len(first.bytes)), *others))


def broken_controls(runner: Plays, controls: Sequence[Case]) -> list[Control]:
    """The cases of kind N that break as predicted; one that this runner cannot show is left out."""
    found: dict[tuple[str, str], Control] = {}

    def heard(case: Case, observation: Observation) -> None:
        if compare(case, observation, runner.environment).status in (Status.PASS, Status.XFAIL):
            found[case.row, case.name] = Control(case.row, case.name, runner.environment.runner)

    runner.run([case for case in controls if not runner.unmet(case)], heard)
    return [found[key] for key in sorted(found)]


def line(each: Mutation | Defect, what: str, layers: Mapping[str, tuple[str, ...]], runner: Plays) -> Mutant:
    """A line of the matrix: a row has seen a defect if it failed on any layer; what names the target."""
    target = f"{what}: {', '.join(layers)}"
    return Mutant(each.id, each.title, target, _rows(layers), each.why, runner.environment.runner)


def _rows(layers: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(sorted({row for rows in layers.values() for row in rows}))


def planted(mutations: Iterable[Mutation], switchers: Mapping[str, SwitcherImage]) -> dict[str, list[Case]]:
    """The cases of each defect on the reference Switchers, of the rows that it names."""
    return {each.id: cases(each, switchers) for each in mutations}
