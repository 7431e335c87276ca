"""Machines that a test cannot have at hand: subjects of known cost, on a clock that only they move."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

from kvmhost.bench.benchmark import Benchmark, Sample, Subject, Unit
from kvmhost.bench.errors import Unmeasurable


@dataclass
class Machine:
    """A clock, what was sampled in order, and how often a group was set up and taken down."""

    now: int = 0
    asked: list[tuple[str, int]] = field(default_factory=list)
    made: int = 0
    closed: int = 0
    source: Random = field(default_factory=lambda: Random(1))

    def clock(self) -> int:
        """Each look takes 20 ns."""
        self.now += 20
        return self.now

    def subjects(
        self, makers: Mapping[str, Subject | str]
    ) -> Callable[[], contextmanager[Mapping[str, Subject | str]]]:  # type: ignore[type-arg]
        """What a suite would give for a group."""

        @contextmanager
        def group() -> Iterator[Mapping[str, Subject | str]]:
            self.made += 1
            try:
                yield makers
            finally:
                self.closed += 1

        return group


@dataclass
class Work:
    """An operation of so many ns, on top of what each sample costs at all.

    slower: what the n-th sample (0 the first) takes more, as a factor.  ends: from which sample on it is no
    longer to be measured.
    """

    machine: Machine
    name: str
    each: float
    once: float = 0.0
    noise: float = 0.0
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    slower: Callable[[int], float] = lambda number: 1.0
    ends: int = 1 << 60
    breaks: BaseException | None = None
    number: int = 0

    def sample(self, loops: int) -> Sample:
        self.machine.asked.append((self.name, loops))
        if self.number >= self.ends:
            if self.breaks is not None:
                raise self.breaks
            raise Unmeasurable("the machine has had enough")
        total = (self.each * loops + self.once) * self.slower(self.number)
        total += self.machine.source.gauss(0.0, self.noise) * loops if self.noise else 0.0
        self.number += 1
        self.machine.now += max(1, int(total))
        counts = {kind: once + each * loops for kind, (once, each) in self.counts.items()}
        return Sample(total, loops, counts)


def benchmark(
    name: str, minus: Sequence[str] = (), unit: Unit = Unit.NANOSECONDS, reference: str = ""
) -> Benchmark:
    """One of the group "g"."""
    return Benchmark(
        f"s/{name}", "What a test says.", unit, "g", tuple(f"s/{one}" for one in minus), reference
    )
