"""A selection of cases, laid out once: what a run needs of each, and the batches as the monitor plays them.

Evaluating the expressions of twenty thousand cases takes seconds, a CPU with KVM plays them in one.  So the
batches are kept (store.py), and of every case what a session asks of all of them.  The few cases that need
more, because their verdict is not known or is a failure, are expanded from their row as ever.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

from .. import store
from ..case import Case, Event, Outcome, Watch
from ..memory import Memory
from ..row import Row
from ..row import keep as keep_rows
from ..stage import hash_text
from ..switcher_image import SwitcherImage
from .batch import CASE_BYTES, Batch, batches

Expand = Callable[[Row], Sequence[Case]]
#: Fewer are expanded sooner than looked up.
WORTH_KEEPING = 1000


class KnownCase:
    """Stands for a Case: has what every run asks of it, and gets the rest from the Case when asked."""

    __slots__ = (
        *("id", "row", "name", "layer", "kind", "requires", "event", "looks_inside", "program", "parameters"),
        *("meant", "place", "selection", "_watched"),
    )

    def __init__(self, selection: Selection, row: str, place: int, facts: Sequence[Any]) -> None:
        self.selection, self.row, self.place = selection, row, place
        self.name, self.layer, self.kind, requires, event, self.looks_inside, *rest = facts
        self.program, self.parameters, meant, watched = rest
        self.id = f"{row}/{self.name}@{self.layer}"
        self.requires: frozenset[str] = frozenset(requires)
        self.event = _event(event)
        self.meant: tuple[Outcome, int | None] = tuple(meant)
        self._watched: Sequence[Sequence[int]] = watched

    @property
    def external(self) -> bool:
        """As of a Case."""
        return self.event is not None or bool(self.looks_inside)

    def watched(self) -> tuple[Watch, ...]:
        """As of a Case."""
        return tuple(Watch(address, size) for address, size in self._watched)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.selection.whole(self.row, self.place), name)


def _facts(case: Case) -> list[Any]:
    """What KnownCase takes, in its order."""
    return [
        *(case.name, case.layer, case.kind, sorted(case.requires), _told(case.event), case.looks_inside),
        *(case.program, dict(case.parameters), case.meant),
        [(watch.address, watch.size) for watch in case.watched()],
    ]


def _told(event: Event | None) -> dict[str, Any] | None:
    """Every field by its name, so that none is forgotten that comes later."""
    if event is None:
        return None
    told = {each.name: getattr(event, each.name) for each in fields(event)}
    return {**told, "after": _told(event.after)}


def _event(told: dict[str, Any] | None) -> Event | None:
    if told is None:
        return None
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in told.items()}
    values["after"] = _event(told["after"])
    return Event(**values)


@dataclass(frozen=True, slots=True)
class _Laid:
    """One batch: which cases (by their places in the selection), and the rest of a Batch, data compressed."""

    places: tuple[int, ...]
    packed: bytes
    results: tuple[int, ...]
    sizes: tuple[int, ...]
    end: int


class Selection:
    """The cases of some rows: from what was kept of them, or expanded and then kept for the next run.

    expand makes the cases of a row, and drawn says of what else than row and Switchers.  Nothing is kept of a
    selection that is expanded soon enough.
    """

    def __init__(
        self, rows: Sequence[Row], switchers: Mapping[str, SwitcherImage], drawn: str, expand: Expand
    ) -> None:
        images = [
            (layer, image.name, hash_text(image), image.follows, [*image.boundaries.items()])
            for layer, image in switchers.items()
        ]
        made_from = json.dumps([[row.id for row in rows], images, drawn])
        self.memory = Memory(made_from)
        self._rows = {row.id: row for row in rows}
        self._expand = expand
        self._name = store.key("cases", made_from)
        self._known: dict[str, Sequence[Case]] = {}
        self._first: dict[str, int] = {}
        self._laid: list[_Laid] = []
        self._expanded: dict[str, Sequence[Case]] = {}

    def load(self) -> None:
        """Take what was kept, if it is there and of use."""
        content = store.read(self._name) or b""
        head, _, data = content.partition(b"\n")
        try:
            told = json.loads(head or b"{}")
            known, first, place = {}, {}, 0
            for row in self._rows:
                known[row], first[row] = self._cases(row, place, told["rows"][row]), place
                place += len(known[row])
            laid, at = [], 0
            for places, size, results, sizes, end in told["batches"]:
                laid.append(_Laid(tuple(places), data[at : at + size], tuple(results), tuple(sizes), end))
                at += size
        except (ValueError, TypeError, KeyError):
            return
        self._known, self._first, self._laid = known, first, laid

    def _cases(self, row: str, place: int, told: Sequence[Sequence[Any]]) -> Sequence[Case]:
        return [cast("Case", KnownCase(self, row, place + n, facts)) for n, facts in enumerate(told)]

    def cases(self, row: Row) -> Sequence[Case]:
        """The cases of a row, or what stands for them."""
        return self._known[row.id] if row.id in self._known else self._whole(row.id)

    def whole(self, row: str, place: int) -> Case:
        """The case that another stands for."""
        return self._whole(row)[place - self._first[row]]

    def _whole(self, row: str) -> Sequence[Case]:
        if row not in self._expanded:
            self._expanded[row] = self._expand(self._rows[row])
        return self._expanded[row]

    def batches(self, cases: Sequence[Case]) -> Iterator[Batch]:
        """Batches of those of the selection that are wanted."""
        wanted = {cast("KnownCase", case).place: case for case in cases}
        for laid in self._laid:
            kept = [number for number, place in enumerate(laid.places) if place in wanted]
            if not kept:
                continue
            data = zlib.decompress(laid.packed)
            if len(kept) < len(laid.places):
                # The table has room to spare then; what it points to stays where it is.
                entries = b"".join(data[n * CASE_BYTES : (n + 1) * CASE_BYTES] for n in kept)
                data = entries + data[len(entries) :]
            yield Batch(
                tuple(wanted[laid.places[number]] for number in kept),
                data,
                tuple(laid.results[number] for number in kept),
                tuple(laid.sizes[number] for number in kept),
                laid.end,
            )

    def keep(self, most: int) -> None:
        """For the next run: the verdicts, and the cases if they are new, at most so many in a batch."""
        self.memory.keep()
        every = [case for row in self._rows for case in self._expanded.get(row, ())]
        if self._known or len(every) < WORTH_KEEPING or set(self._expanded) != set(self._rows):
            return
        places = {id(case): place for place, case in enumerate(every)}
        told, pieces = [], []
        for laid in batches((case for case in every if case.program is None), most):
            members = [places[id(case)] for case in laid.cases]
            pieces.append(zlib.compress(laid.data, 1))
            told.append([members, len(pieces[-1]), laid.results, laid.sizes, laid.end])
        facts = {row: [_facts(case) for case in self._expanded[row]] for row in self._rows}
        head = json.dumps({"rows": facts, "batches": told}, separators=(",", ":"))
        store.write(self._name, head.encode() + b"\n" + b"".join(pieces))
        keep_rows()


def batches_of(cases: Sequence[Case], most: int) -> Iterator[Batch]:
    """The cases in batches, as they were kept or newly laid out with at most so many in one."""
    if cases and all(isinstance(case, KnownCase) for case in cases):
        return cast("KnownCase", cases[0]).selection.batches(cases)
    return batches(cases, most)
