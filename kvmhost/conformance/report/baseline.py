"""What changed since an earlier run: case by case, and in which direction.

A case is the same if its row, layer, name and runner are.  What the earlier run did not have is new; what
this one lacks is gone, unless it ended early, for then nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvmhost.conformance.results import Baseline, CaseResult, Change, Direction, Run, Status

Key = tuple[str, str, str, str]


def compare(before: Run, after: Run, name: str) -> Baseline:
    """The later run against the earlier one, which was read from the file `name`."""
    old, new = cases(before), cases(after)
    changes = [
        Change(row, layer, case, runner, status_of(old, key), status_of(new, key), direction)
        for key in dict.fromkeys([*new, *old])
        for row, layer, case, runner in [key]
        if (direction := moved(status_of(old, key), status_of(new, key)))
        and not (direction is Direction.GONE and not expected_again(after, runner))
    ]
    return Baseline(name, before.started, before.version, tuple(changes), tuple(remarks(before, after)))


def cases(run: Run) -> dict[Key, CaseResult]:
    """Every case by what makes it the same one."""
    return {(row.id, case.layer, case.case, case.runner): case for row in run.rows for case in row.cases}


def status_of(found: dict[Key, CaseResult], key: Key) -> Status | None:
    """How it ended, None if it was not run."""
    return found[key].status if key in found else None


def expected_again(after: Run, runner: str) -> bool:
    """Whether a run should have this runner's cases: it was asked for, and nothing ended it early."""
    return not after.interrupted and runner in after.runners


def moved(before: Status | None, after: Status | None) -> Direction | None:
    """Which way a case went; None if it did not move.

    >>> moved(Status.PASS, Status.SKIP).value
    'worse'
    """
    if before is after:
        return None
    if before is None:
        return Direction.NEW
    if after is None:
        return Direction.GONE
    if after is Status.FAIL or before is Status.PASS:
        return Direction.WORSE
    if before is Status.FAIL or after is Status.PASS:
        return Direction.BETTER
    return Direction.OTHER


def remarks(before: Run, after: Run) -> Iterator[str]:
    """What makes the two runs less than comparable."""
    if before.interrupted:
        yield f"the earlier run ended early: {before.interrupted}"
    if before.version != after.version:
        yield f"kvmhost was {before.version} and is {after.version}"
    if before.selection != after.selection:
        yield f"the earlier run was of {before.selection}, this one is of {after.selection}"
    if before.seed != after.seed:
        yield f"the seed was {before.seed} and is {after.seed}: random cases are not the same"
    for old in before.environments:
        for new in after.environments:
            if old.runner == new.runner:
                for what, was, now in (
                    ("class", old.class_code, new.class_code),
                    ("engine", old.engine, new.engine),
                    ("CPU", old.cpu, new.cpu),
                    ("kernel", old.kernel, new.kernel),
                    ("backend", old.backend, new.backend),
                ):
                    if was != now:
                        yield f"{new.runner}: {what} was {was or 'not known'} and is {now or 'not known'}"
