"""What a benchmark is: data that can be listed without a machine, and a subject that can be sampled.

Everything here is light, because --list reads it.  A suite's module names its benchmarks; the subjects behind
them are built late, in the worker, by the suite's own `subjects`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class Unit(StrEnum):
    """What one operation's figure counts."""

    CYCLES = "cycles"  # of the time-stamp counter, read inside the VM
    NANOSECONDS = "ns"  # of the host's monotonic or CPU clock
    BYTES = "bytes"
    COUNT = "count"  # instructions, exits, ioctls: exact numbers


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One named figure.

    name: "suite/what", lower case, words joined by "-".  says: a paragraph with exactly what is timed, from
    which instruction or call to which, and what is subtracted.  minus: benchmarks of the same group whose
    figure per operation is taken off this one's (the empty loop, the reading of the counter).  group: those
    that are set up together and sampled in turn, so that a drift of the machine meets all of them; ratios
    are to the group's `reference`.  needs: what must be there ("paging32", "sysenter", "kernel", "two-cpus").
    overhead: it exists to be subtracted, and tables leave it out.

    >>> Benchmark("switch/empty", "Nothing between two readings.", Unit.CYCLES, group="parts").suite
    'switch'
    """

    name: str
    says: str
    unit: Unit
    group: str
    minus: tuple[str, ...] = ()
    reference: str = ""
    needs: tuple[str, ...] = ()
    overhead: bool = False

    @property
    def suite(self) -> str:
        """The part of the name before the stroke."""
        return self.name.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Sample:
    """What one subject gave for `loops` operations in a row.

    total: in the benchmark's unit over all of them, nothing subtracted.  counts: exact numbers over the same
    operations: "exits" (returns of KVM_RUN), "ioctls" (other calls on KVM's files), "instructions" (inside
    the VM, where they are counted and not estimated).
    """

    total: float
    loops: int
    counts: Mapping[str, int] = field(default_factory=dict)


class Subject(Protocol):
    """A machine made ready for one benchmark."""

    def sample(self, loops: int) -> Sample:
        """Do the operation `loops` times (at least once) and tell.  Raises Unmeasurable where it cannot."""
        ...


@dataclass(frozen=True, slots=True)
class Setting:
    """What the user chose that changes how subjects are built.

    switcher: a foreign Switcher's file to measure beside ours.  kernel, initrd, append: what the boot suite
    boots.  cpu: the host CPU that the measuring thread is bound to, None for none.  icount: the machine
    beneath counts instructions instead of time, so one operation is enough.  device: a descriptor of
    /dev/kvm that somebody with more rights has opened, None to open it by name.
    """

    switcher: Path | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    append: str = ""
    cpu: int | None = None
    icount: bool = False
    device: int | None = None


@dataclass(frozen=True, slots=True)
class Suite:
    """Benchmarks that belong together, and how to come by their subjects.

    subjects: given the benchmarks of ONE group and the setting, a context manager that yields a subject for
    each name that can be measured here, and a reason (str) for each that cannot.
    """

    name: str
    title: str
    benchmarks: tuple[Benchmark, ...]
    subjects: Callable[[tuple[Benchmark, ...], Setting], AbstractContextManager[Mapping[str, Subject | str]]]
