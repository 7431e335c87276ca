"""Which rows see which defects: the mutation matrix, made by playing every defect on a runner.

Beside the sixty defects of a Switcher there is one of the CPU's, so that rows without a Switcher are seen to
fail as well: the instructions under test do nothing.  A row that such a CPU passes would prove nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from .case import Case
from .expand import expand, family
from .families.layered import LAYERED
from .mutations import Mutation, cases
from .results import Environment, Mutant, Status
from .row import CaseSpec, Row
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


def seen(runner: Plays, planted: Mapping[str, Sequence[Case]]) -> dict[str, dict[str, tuple[str, ...]]]:
    """By defect and layer, the rows that failed, in the order of their ids.

    All defects are played in one run.  A layer that was played has an entry, be it empty.
    """
    todo = {
        id(case): (name, case) for name, each in planted.items() for case in each if not runner.unmet(case)
    }
    failed: dict[str, dict[str, set[str]]] = {name: {} for name in planted}
    for name, case in todo.values():
        failed[name].setdefault(case.layer, set())

    def heard(case: Case, observation: object) -> None:
        name, _ = todo[id(case)]
        if compare(case, observation, runner.environment).status is Status.FAIL:  # type: ignore[arg-type]
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


def mutants(
    found: Mapping[str, Mapping[str, tuple[str, ...]]], mutations: Iterable[Mutation], what: str
) -> tuple[Mutant, ...]:
    """The matrix's lines: a row has seen a defect if it failed on any layer; what names the target."""
    return tuple(
        Mutant(each.id, each.title, f"{what}: {', '.join(found[each.id])}", _rows(found[each.id]), each.why)
        for each in mutations
        if found.get(each.id)
    )


def _rows(layers: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(sorted({row for rows in layers.values() for row in rows}))


def planted(mutations: Iterable[Mutation], switchers: Mapping[str, SwitcherImage]) -> dict[str, list[Case]]:
    """The cases of each defect on the reference Switchers, of the rows that it names."""
    return {each.id: cases(each, switchers) for each in mutations}
