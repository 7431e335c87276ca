"""How a Guest's life ended, or why it was put down."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class OutcomeKind(Enum):
    """Every way a run can end."""

    POWERED_OFF = "powered off"
    RESTARTED = "asked to be restarted"
    CRASHED = "crashed"
    KILLED = "killed"
    INTERRUPTED = "interrupted"
    TIMED_OUT = "timed out"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a Guest.

    reason: the Guest's own text for POWERED_OFF and CRASHED, ours for KILLED.  report: registers,
    disassembly and advice where there is something to explain, else None.

    >>> Outcome(OutcomeKind.POWERED_OFF, "Power down").succeeded
    True
    """

    kind: OutcomeKind
    reason: str
    report: str | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the Guest ended by its own will and without complaint."""
        return self.kind in (OutcomeKind.POWERED_OFF, OutcomeKind.RESTARTED)
