"""The proof that rows can fail: the mutation matrix, and the negative controls of a run.

A check that was never seen to fail proves nothing.  The matrix was made by putting each of a list of named
defects into a Switcher and running the rows against it (tests/conformance makes it again and compares); a
negative control is a case that breaks on purpose and passes only with the symptom it predicts.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.resources import files

from .report.as_json import Misfit, built
from .results import CaseResult, MutationMatrix, Status

MATRIX = "matrix.json"


@cache
def matrix() -> MutationMatrix | None:
    """The matrix that comes with this version; None if there is none.  Raises ValueError if it is damaged."""
    import json

    file = files(__package__).joinpath(MATRIX)
    if not file.is_file():
        return None
    try:
        return built(MutationMatrix, json.loads(file.read_text(encoding="utf-8")), MATRIX)
    except Misfit as error:
        raise ValueError(str(error)) from None


def seen_to_fail_by(row: str, controls: Iterable[str], found: MutationMatrix | None) -> tuple[str, ...]:
    """What made this row fail: mutants that it noticed, then negative controls that broke as predicted."""
    mutants = [one.id for one in found.mutants if row in one.killed_by] if found else []
    return tuple(dict.fromkeys([*mutants, *(f"control: {name}" for name in controls)]))


def broken_controls(kinds: dict[tuple[str, str], str], results: Iterable[CaseResult]) -> Iterable[str]:
    """The names of the cases of kind N that came out as predicted; `kinds` is by layer and name."""
    return (
        case.case
        for case in results
        if kinds.get(case.key) == "N" and case.status in (Status.PASS, Status.XFAIL)
    )
