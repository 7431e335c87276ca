"""What was judged once need not be judged again: verdicts, remembered by the very bytes that they were about.

A verdict follows from three things: the case, the class of the environment, and the record that the engine
left.  If all three are what they were, bit for bit, so is the verdict; anything else is judged as ever.  So
there is no second, quicker rule of comparison that could be more lenient than the first.  What failed is
never remembered: it is looked at each time.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from . import store
from .results import Difference, Environment, Status


@dataclass(frozen=True, slots=True)
class Remembered:
    """A verdict, and the whole record that it was about."""

    raw: bytes
    status: Status
    because: str = ""
    alternative: str = ""
    outcome: str = ""
    differences: tuple[Difference, ...] = ()


Known = dict[str, Remembered]
"""By the id of the case."""


@dataclass(slots=True)
class Memory:
    """The verdicts about a selection of cases, by environment.  made_from: what the cases were made from."""

    made_from: str
    _known: dict[str, Known] = field(default_factory=dict)
    _before: dict[str, int] = field(default_factory=dict)

    def of(self, environment: Environment) -> Known:
        """What is known of a machine of this kind; whoever judges a case adds it."""
        name = store.key("verdicts", self.made_from, environment.runner, environment.class_code)
        if name not in self._known:
            self._known[name] = unpacked(store.read(name) or b"")
            self._before[name] = _fingerprint(self._known[name])
        return self._known[name]

    def keep(self) -> None:
        """For the next run, if there is anything new."""
        for name, known in self._known.items():
            if _fingerprint(known) != self._before[name]:
                store.write(name, packed(known))


def _fingerprint(known: Known) -> int:
    return hash(tuple((case, one.raw) for case, one in known.items()))


def packed(known: Known) -> bytes:
    """As compressed bytes: a line of JSON, and the records behind it.

    >>> unpacked(packed({"a": Remembered(b"xy", Status.PASS)}))["a"].raw
    b'xy'
    """
    lines = [
        (
            *(case, len(one.raw), one.status.value, one.because, one.alternative, one.outcome),
            [(each.what, each.expected, each.found) for each in one.differences],
        )
        for case, one in known.items()
    ]
    content = json.dumps(lines).encode() + b"\n" + b"".join(one.raw for one in known.values())
    return zlib.compress(content, 1)


def unpacked(content: bytes) -> Known:
    """Of packed(); what is not of that form is nothing."""
    found: Known = {}
    place = 0
    try:
        head, _, raw = zlib.decompress(content).partition(b"\n") if content else (b"", b"", b"")
        for case, size, status, because, alternative, outcome, differences in json.loads(head or b"[]"):
            if status == Status.FAIL or place + size > len(raw):
                return {}
            found[case] = Remembered(
                raw[place : place + size],
                Status(status),
                because,
                alternative,
                outcome,
                _differences(differences),
            )
            place += size
    except (ValueError, TypeError, zlib.error):
        return {}
    return found


def _differences(told: Sequence[Sequence[str]]) -> tuple[Difference, ...]:
    return tuple(Difference(*each) for each in told)
