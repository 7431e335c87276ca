"""The proof that rows can fail: the mutation matrix, and negative controls.

A check that was never seen to fail proves nothing.  The matrix was made by putting each of a list of named
defects into a Switcher, into the machine around it or into how KVM is used, and running the rows against it
(tests/conformance makes it again and compares); a negative control is a case that breaks on purpose and
passes only with the symptom it predicts.  Both were played on real engines.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cache
from importlib.resources import files

from .report.as_json import Misfit, built
from .results import CaseResult, MutationMatrix, Status

MATRIX = "matrix.json"
CONTROL = "control"


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
    """What made this row fail, by number and name: mutants that it noticed, then negative controls.

    controls are those that broke as predicted just now; those of the matrix count as well.

    >>> seen_to_fail_by("PGF-003", (), matrix())[0]
    'D46: the page is writable'
    """
    mutants = [f"{one.id}: {one.title}" for one in found.mutants if row in one.killed_by] if found else []
    before = [one.case for one in found.controls if one.row == row] if found else []
    return tuple(dict.fromkeys([*mutants, *(f"{CONTROL}: {name}" for name in (*controls, *before))]))


def in_short(proof: str) -> str:
    """One of these without its name.

    >>> in_short("D46: the page is writable")
    'D46'
    """
    return proof.partition(": ")[0]


def unproven(rows: Iterable[str], found: MutationMatrix, but: Collection[str] = ()) -> list[str]:
    """The rows that were never seen to fail, leaving out of account the mutants in `but`."""
    seen = {row for one in found.mutants if one.id not in but for row in one.killed_by}
    seen |= {one.row for one in found.controls}
    return [row for row in rows if row not in seen]


def broken_controls(kinds: dict[tuple[str, str], str], results: Iterable[CaseResult]) -> Iterable[str]:
    """The names of the cases of kind N that came out as predicted; `kinds` is by layer and name."""
    return (
        case.case
        for case in results
        if kinds.get(case.key) == "N" and case.status in (Status.PASS, Status.XFAIL)
    )
