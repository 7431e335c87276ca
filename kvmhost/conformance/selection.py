"""Which rows are meant: by group, by id, by pattern, and by how much of the catalogue is wanted.

The catalogue calls some rows SW-NMI-006 and NMI-006 alike, so a name without its SW- is found too.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

from .errors import SelectionError
from .row import Row, catalogue

#: core: what must be green before a release.  all: every row but stress.  stress: those too, in full.
Scope = Literal["core", "all", "stress"]
WORDS: dict[Scope, str] = {
    "core": "the core set",
    "all": "all rows",
    "stress": "all rows, with stress in full",
}


def select(words: Sequence[str], scope: Scope | None = None) -> tuple[Row, ...]:
    """The rows of the catalogue that the words name, in its order.

    Without words the scope is "core" unless given; with words everything they name, unless a scope is given
    too.  Raises SelectionError for a word that names nothing, and if nothing is left.

    >>> [row.id for row in select(["sw-ent-00[12]"])]
    ['SW-ENT-001', 'SW-ENT-002']
    """
    named = [named_by(word) for word in words]
    wanted = {row.id for rows in named for row in rows} if words else {row.id for row in catalogue()}
    limit = scope or ("stress" if words else "core")
    chosen = tuple(row for row in catalogue() if row.id in wanted and within(row, limit))
    if not chosen:
        raise SelectionError(
            f"nothing of {' '.join(words)} is in {WORDS[limit]}", next_step=f"leave --{limit} out"
        )
    return chosen


def within(row: Row, scope: Scope) -> bool:
    """Whether a row belongs to this much of the catalogue."""
    return {"core": row.core, "all": row.core or row.kind != "S", "stress": True}[scope]


def named_by(word: str) -> list[Row]:
    """The rows of a group, with an id, or with ids that fit a pattern.  Raises SelectionError if none."""
    pattern = word.upper()
    spellings = {pattern, pattern.removeprefix("SW-"), f"SW-{pattern}"}
    found = [row for row in catalogue() if row.group in spellings or row.id in spellings]
    found = found or [row for row in catalogue() if any(fnmatchcase(row.id, one) for one in spellings)]
    if not found:
        known = [*dict.fromkeys(row.group for row in catalogue()), *(row.id for row in catalogue())]
        near = difflib.get_close_matches(pattern, known, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise SelectionError(
            f"no row and no group is called {word}", next_step=f"{hint}`kvmhost conform --list` tells all"
        )
    return found


def described(words: Sequence[str], scope: Scope | None) -> str:
    """The selection for the head of a report.

    >>> described(["NMI"], None), described([], None)
    ('NMI', 'the core set')
    """
    if not words:
        return WORDS[scope or "core"]
    return " ".join(words) + (f" of {WORDS[scope]}" if scope else "")
