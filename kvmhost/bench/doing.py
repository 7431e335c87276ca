"""Things that are done once and give several figures: a life has a birth and an end, a boot has its stations.

Where time is measured each figure gets doings of its own, as the method expects.  Where instructions are
counted a doing is the same each time and takes seconds, so one serves all the figures it has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from kvmhost.bench.benchmark import Sample
from kvmhost.bench.errors import Unmeasurable
from kvmhost.bench.subject import Called

#: What one doing gave, by name; a sentence where it did not come to that.
Outcome = Mapping[str, Sample | str]


class Doing:
    """Something that can be done again and again.

    do: does it once.  shared: each doing is read by every subject, once.

    >>> numbers = iter(range(10))
    >>> doing = Doing(lambda: {name: Sample(next(numbers), 1) for name in "ab"}, shared=True)
    >>> [doing.subject(name).sample(1).total for name in "abab"]
    [0.0, 1.0, 2.0, 3.0]
    """

    def __init__(self, do: Callable[[], Outcome], *, shared: bool) -> None:
        self._do, self._shared = do, shared
        self._done: list[Outcome] = []
        self._read: Counter[str] = Counter()

    def subject(self, name: str) -> Called:
        """The figure of that name.  Its sample raises Unmeasurable if a doing did not come to it."""

        def sample(loops: int) -> Sample:
            parts = [self._next(name) for _ in range(loops)]
            counts: Counter[str] = Counter()
            for part in parts:
                counts.update(part.counts)
            return Sample(float(sum(part.total for part in parts)), sum(part.loops for part in parts), counts)

        return Called(sample)

    def _next(self, name: str) -> Sample:
        outcome = self._outcome(name)
        found = outcome[name]
        if isinstance(found, str):
            raise Unmeasurable(found)
        return found

    def _outcome(self, name: str) -> Outcome:
        if not self._shared:
            return self._do()
        at = self._read[name]
        self._read[name] += 1
        if at == len(self._done):
            self._done.append(self._do())
        return self._done[at]
