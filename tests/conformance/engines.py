"""An engine that is no engine: it sees whatever a test wants it to see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from kvmhost.conformance.case import NO_ERROR, Case, Observation, Trap
from kvmhost.conformance.results import Difference, Environment, StateLine, Status


@dataclass
class FakeEngine:
    """`sees` makes an observation of each case; it may raise, which ends the run there."""

    name: str = "kvm"
    sees: Callable[[Case], Observation] = lambda case: as_expected(case)
    unable: str = ""
    starts: int = 1
    engine_seconds: float = 0.5
    closed: int = 0
    ran: list[str] = field(default_factory=list)

    @property
    def environment(self) -> Environment:
        return Environment(self.name, "TCG", "no engine", masked=("DV-02",))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed += 1

    def unmet(self, case: Case) -> str:
        return self.unable if case.external else ""

    def run(self, cases: Sequence[Case], heard: Callable[[Case, Observation], None]) -> None:
        for case in cases:
            observation = self.sees(case)
            self.ran.append(case.id)
            heard(case, observation)


def as_expected(case: Case) -> Observation:
    """What the row wants to be seen."""
    expect = case.expect
    if expect.outcome != "trap":
        return Observation(expect.outcome)
    trap = expect.trap
    error = NO_ERROR if trap is None or trap.error is None else trap.error
    vector = 0x2F if trap is None or trap.vector is None else trap.vector
    eip = 0x400000 if trap is None or trap.eip is None else trap.eip
    return Observation("trap", Trap(vector, error, eip, 0x60, 2, None, None))


@dataclass(frozen=True)
class Judged:
    status: Status
    because: str = ""
    alternative: str = ""
    differences: tuple[Difference, ...] = ()
    state: tuple[StateLine, ...] = ()


def judge(case: Case, observation: Observation, environment: Environment) -> Judged:
    """By outcome and vector alone, which is enough for what a session does with a judgement."""
    expected = as_expected(case)
    if observation.outcome != expected.outcome or observation.trap != expected.trap:
        return Judged(
            Status.FAIL, differences=(Difference("outcome", expected.outcome, observation.outcome),)
        )
    return Judged(Status.PASS)
