"""What can be wrong with what this room is given: each error says what happened, why, and what to do."""

from __future__ import annotations


class BenchError(Exception):
    """Something cannot be measured or told as asked.

    usage: the command line asks for what does not exist or makes no sense.

    >>> BenchError("no benchmark matches swotch", next_step="see --list").next_step
    'see --list'
    """

    usage = False

    def __init__(self, message: str, *, cause: str = "", next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cause = cause
        self.next_step = next_step


class SelectionError(BenchError):
    """No suite and no benchmark has the name that was given."""

    usage = True


class ResultFileError(BenchError):
    """A file of results cannot be written, or is none that can be read."""

    usage = True


class Unmeasurable(BenchError):
    """This machine, or this selection, lacks what a benchmark needs; the others go on."""


class Spoiled(BenchError):
    """--strict, and something here would spoil the figures."""


class WorkerBroke(BenchError):
    """The measuring process did not do its work: a fault of ours, and no figure."""
