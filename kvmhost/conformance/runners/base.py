"""What a runner is: something that plays Cases on one engine and says what it saw.

A runner is a context manager.  Entering it finds the engine and asks it what it is and what it can; leaving
it leaves nothing running and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from ..case import Case, Observation
from ..results import Environment

Heard = Callable[[Case, Observation], None]
"""Called with each result as it comes in."""

Recall = Callable[[Case, bytes, Callable[[], Observation]], bool]
"""Called with all that an engine said of a case, before that is made an Observation, and with what would make
it one; true if nobody needs to hear of it any more."""


def no_recall(case: Case, raw: bytes, observe: Callable[[], Observation]) -> bool:
    """Nothing is known."""
    return False


# What only a runner with its hands on a vCPU can do.
KVM_ONLY = frozenset(
    {
        *("nmi-injection", "intr-injection", "snapshot", "hidden-state", "kvm", "irqchip", "tss-addr"),
        *("hw-breakpoints", "single-step", "port-exit"),
    }
)


class Runner(Protocol):
    """One engine.  engine_seconds and starts count from entering."""

    name: str
    engine_seconds: float
    starts: int

    @property
    def environment(self) -> Environment:
        """What was found on entering."""

    def __enter__(self) -> Self:
        """Find the engine; RunnerAbsent with a next step if there is none."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End whatever runs, however we got here."""

    def unmet(self, case: Case) -> str:
        """The requirement of a case that this engine does not meet, or ""."""

    def run(self, cases: Sequence[Case], heard: Heard) -> None:
        """Play all cases; MachineryBroke if the engine fails in a way that is no verdict on a case."""


def unmet(case: Case, features: frozenset[str]) -> str:
    """The first requirement that is not among an engine's features, or "".

    A case that needs an event or hidden registers needs them whether its row says so or not.

    >>> from ..stage import Stage
    >>> case = Case("R", "c", "L1", "P", None, None, requires=frozenset({"pge", "smap"}))
    >>> unmet(case, frozenset({"kvm", "pge"}))
    'smap'
    """
    wanted = set(case.requires)
    if case.program is not None:
        wanted.add("kvm")
    if case.event is not None:
        wanted.add({"intr": "intr-injection", "nmi": "nmi-injection"}.get(case.event.kind, "kvm"))
    if case.looks_inside:
        wanted.add("hidden-state")
    missing = wanted - features
    return min(missing) if missing else ""
