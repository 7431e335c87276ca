"""What came of a run, from the raw series to a whole report.  Frozen; statistics are computed from these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kvmhost.bench.benchmark import Unit


@dataclass(frozen=True, slots=True)
class Spoiler:
    """Something about the machine that would spoil a figure.

    name: short and fixed ("governor").  seen: what was found.  next_step: what would cure it.
    """

    name: str
    seen: str
    next_step: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where figures come from.

    backend: "vmx", "svm" or "lab"; icount: TSC and cycles are instructions.  hashes: SHA-256 of every blob
    that ran, by name.  facts: everything else by name (mitigations, KVM's parameters, frequency, ...).
    """

    backend: str
    cpu: str
    microcode: str
    kernel: str
    kvmhost: str
    tsc_hz: int
    made: str
    icount: bool = False
    hashes: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def timeless(self) -> bool:
        """Whether seconds mean nothing here."""
        return self.backend == "lab"


@dataclass(frozen=True, slots=True)
class Series:
    """One benchmark in one run (one setting up of its group), raw.

    loops: operations a sample.  warmups and values: per operation in the unit, overhead already taken off
    values and warmups, round by round.  overhead: what was taken off, the median.  counts: per operation,
    one list a kind, one entry a value; exact, so a kind that never varies is as good as one number.
    ratios: each value over that of the group's reference in the same round; kept by itself, because it still
    means something where seconds do not, and values may be gone from a file.
    """

    name: str
    unit: Unit
    loops: int
    warmups: tuple[float, ...]
    values: tuple[float, ...]
    overhead: float = 0.0
    counts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    stable: bool = True
    ratios: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """One benchmark over all runs; or why it has none."""

    name: str
    unit: Unit
    runs: tuple[Series, ...] = ()
    unmeasured: str = ""

    def values(self) -> tuple[float, ...]:
        """Every value of every run, in order.

        >>> a = Series("x/y", Unit.CYCLES, 1, (), (1.0, 2.0))
        >>> Result("x/y", Unit.CYCLES, (a, a)).values()
        (1.0, 2.0, 1.0, 2.0)
        """
        return tuple(value for run in self.runs for value in run.values)


@dataclass(frozen=True, slots=True)
class Report:
    """All of it.  interrupted: the signal that ended it early, 0 for none."""

    provenance: Provenance
    results: tuple[Result, ...]
    spoilers: tuple[Spoiler, ...] = ()
    words: tuple[str, ...] = ()
    seconds: float = 0.0
    interrupted: int = 0
    troubles: tuple[str, ...] = ()

    def find(self, name: str) -> Result | None:
        """The result of that name."""
        return next((result for result in self.results if result.name == name), None)
