"""A subject that is a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvmhost.bench.benchmark import Sample


@dataclass(frozen=True, slots=True)
class Called:
    """A subject that is a function of the number of loops.

    >>> Called(lambda loops: Sample(7.0 * loops, loops)).sample(3).total
    21.0
    """

    call: Callable[[int], Sample]

    def sample(self, loops: int) -> Sample:
        """Do it."""
        return self.call(loops)
