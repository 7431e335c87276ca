"""How far a long run is: one line on a terminal that is written again and again, else nothing."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from kvmhost.bench.wire import Step
    from kvmhost.conformance.results import CaseResult

#: At most so often is the line written, in seconds: results come by the thousand.
EVERY = 0.1
CLEAR = "\r\x1b[K"


def progress_line() -> Line | None:
    """A line on stderr if that is a terminal."""
    return Line(sys.stderr) if sys.stderr.isatty() else None


class Line:
    """What a session tells its progress to.

    >>> import io
    >>> out = io.StringIO()
    >>> Line(out, columns=80).begin("tcg", 1200)
    >>> out.getvalue().removeprefix(CLEAR)
    'tcg: 0 of 1,200 cases, 0 s'
    """

    def __init__(self, out: TextIO, columns: int = 0) -> None:
        self._out = out
        self._columns = columns or shutil.get_terminal_size().columns
        self._runner, self._all, self._done, self._failed = "", 0, 0, 0
        self._began = self._written = 0.0

    def preparing(self, what: str, done: int, of: int) -> None:
        """Something before anything runs."""
        self._say(f"{what}: {done:,} of {of:,}")

    def begin(self, runner: str, cases: int) -> None:
        """A runner has started."""
        self._runner, self._all, self._done, self._failed = runner, cases, 0, 0
        self._began, self._written = time.monotonic(), 0.0
        self._write()

    def done(self, result: CaseResult) -> None:
        """One case has ended."""
        self._done += 1
        self._failed += result.status.value == "FAIL"
        if time.monotonic() - self._written >= EVERY:
            self._write()

    def end(self) -> None:
        """The line goes away: the report will say it better."""
        self._out.write(CLEAR)
        self._out.flush()

    def _write(self) -> None:
        self._written = time.monotonic()
        failed = f", {self._failed:,} failed" if self._failed else ""
        seconds = int(self._written - self._began)
        text = f"{self._runner}: {self._done:,} of {self._all:,} cases{failed}, {seconds} s"
        self._say(text)

    def _say(self, text: str) -> None:
        self._out.write(CLEAR + text[: self._columns - 1])
        self._out.flush()


@contextmanager
def share_line(groups: int) -> Iterator[Callable[[Step], None] | None]:
    """For a run of `groups` groups that tells of each how much of it is done."""
    if not sys.stderr.isatty():
        yield None
        return
    share = Share(sys.stderr, groups)
    try:
        yield share.tell
    finally:
        share.end()


class Share:
    """A bar, what is under way, and how long the rest will take if it goes on as it went so far.

    >>> import io
    >>> out = io.StringIO()
    >>> share = Share(out, groups=2, columns=80, clock=iter([0.0, 30.0]).__next__)
    >>> share.show("exit layers", "measuring", 0.5)
    >>> out.getvalue().removeprefix(CLEAR)
    '[#####---------------]  25% 1:30 left  exit layers: measuring'
    """

    WIDTH = 20

    def __init__(
        self, out: TextIO, groups: int, columns: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._out, self._groups, self._clock = out, groups, clock
        self._columns = columns or shutil.get_terminal_size().columns
        self._began = clock()
        self._seen: dict[str, None] = {}

    def tell(self, step: Step) -> None:
        """One step of a group."""
        self.show(step.group, step.doing, step.done)

    def show(self, group: str, doing: str, done: float) -> None:
        """Write the line again."""
        self._seen[group] = None
        share = min(1.0, (len(self._seen) - 1 + done) / max(1, self._groups))
        spent = self._clock() - self._began
        rest = f"{_minutes(spent / share - spent)} left" if share > 0.02 else "time unknown"
        full = round(self.WIDTH * share)
        bar = "#" * full + "-" * (self.WIDTH - full)
        text = f"[{bar}] {share:4.0%} {rest}  {group}: {doing}"
        self._out.write(CLEAR + text[: self._columns - 1])
        self._out.flush()

    def end(self) -> None:
        """The line goes away."""
        self._out.write(CLEAR)
        self._out.flush()


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
