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
