"""A run that a signal ends early: it gets its KeyboardInterrupt, and what was finished is still reported."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from kvmhost.cli.failures import INTERRUPTED

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
#: How a signal that is not Ctrl-C stands in a report.
MARK = "by "


class EndedBy(KeyboardInterrupt):
    """One of the signals that end a process, raised where the main thread is; `number` is which."""

    def __init__(self, number: int) -> None:
        super().__init__(f"{MARK}{signal.Signals(number).name}")
        self.number = number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Inside the block these signals do what Ctrl-C does; those that were ignored still are."""
    before = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end(number: int, frame: FrameType | None) -> NoReturn:
    """The handler."""
    raise EndedBy(number)


def code_of(words: str) -> int:
    """The exit code of a run that was interrupted, by what its report says.

    >>> code_of("interrupted by SIGTERM while kvm ran"), code_of("interrupted while kvm ran")
    (143, 130)
    """
    for number in ENDING:
        if f"{MARK}{number.name} " in words:
            return 128 + number
    return INTERRUPTED
