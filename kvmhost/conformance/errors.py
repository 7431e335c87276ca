"""What can be wrong with what this room is given: each error says what happened, why, and what to do."""

from __future__ import annotations


class ConformanceError(Exception):
    """Something cannot be done as asked; the machine under test is not what is wrong.

    usage: the command line asks for what does not exist or makes no sense.

    >>> ConformanceError("no row matches SW-XYZ", next_step="see --list").next_step
    'see --list'
    """

    usage = False

    def __init__(self, message: str, *, cause: str = "", next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cause = cause
        self.next_step = next_step


class SelectionError(ConformanceError):
    """Nothing in the catalogue, or no runner, has the name that was given."""

    usage = True


class ReportError(ConformanceError):
    """A report cannot be written, or a file is not a report that can be read."""

    usage = True


class RunnerAbsent(ConformanceError):
    """A runner that was asked for cannot run on this machine."""


class MachineryBroke(ConformanceError):
    """A runner or an engine did not do its work: a fault of ours, and no verdict on the machine."""


class RowError(ConformanceError):
    """A data file of the catalogue is not as the schema says.

    file is its path, key the place inside it ("case[2].gdt[0].type"), problem what is wrong, allowed what
    would be right.

    >>> str(RowError("SEN-010.toml", "kind", "'X'", "one of P, E, K, S, N"))
    "SEN-010.toml: kind: 'X'; allowed: one of P, E, K, S, N"
    """

    def __init__(self, file: str, key: str, problem: str, allowed: str) -> None:
        super().__init__(f"{file}: {key}: {problem}; allowed: {allowed}", next_step="correct the file")
        self.file = file
        self.key = key
        self.problem = problem
        self.allowed = allowed
