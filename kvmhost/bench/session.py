"""A run as the person sees it: a worker is started, listened to, and ended for certain.

What the worker said is a report, whatever became of the worker afterwards.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from kvmhost.bench import catalogue
from kvmhost.bench.errors import BenchError, WorkerBroke
from kvmhost.bench.results import Provenance, Report, Result, Series, Spoiler
from kvmhost.bench.wire import End, Plan, Refusal, Step, Trouble, Unmeasured, from_line

#: prctl(2): the signal that a process gets when its parent ends.
PR_SET_PDEATHSIG = 1
#: How long a worker that was told to end may take for the sample under way, in seconds.
PATIENCE = 10.0


def worker_line(plan: Plan) -> list[str]:
    """The command that measures by a plan."""
    return [sys.executable, "-P", "-m", "kvmhost.bench.worker", plan.as_word()]


def run(
    plan: Plan,
    line: Sequence[str],
    *,
    words: Sequence[str] = (),
    inherited: Sequence[int] = (),
    progress: Callable[[Step], None] | None = None,
) -> Report:
    """Run the worker by `line` (worker_line, or that behind what starts a lab) and make a report.

    KeyboardInterrupt ends the worker, and the report has what it had finished.  Raises BenchError if nothing
    can be measured as asked, WorkerBroke if the worker said nothing that could be reported.
    """
    notes = _Notes(plan)
    began = time.monotonic()
    with _worker(line, inherited) as process:
        assert process.stdout is not None
        try:
            for text in process.stdout:
                notes.listen(text, progress)
        except KeyboardInterrupt as interrupt:
            notes.interrupted = int(getattr(interrupt, "number", signal.SIGINT))
            notes.rest(process)
        code = _end(process)
    return notes.report(code, time.monotonic() - began, tuple(words))


class _Notes:
    """What was heard so far."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.provenance: Provenance | None = None
        self.spoilers: list[Spoiler] = []
        self.series: dict[str, list[Series]] = {}
        self.unmeasured: dict[str, str] = {}
        self.troubles: list[str] = []
        self.nonsense = ""
        self.interrupted = 0
        self.ended = False

    def listen(self, text: str, progress: Callable[[Step], None] | None = None) -> None:
        """One line of the worker's; one that nobody understands (its last may be cut off) is kept as that."""
        try:
            self.hear(text, progress)
        except WorkerBroke as error:
            self.nonsense = self.nonsense or f"{error.message}: {error.cause}"

    def hear(self, text: str, progress: Callable[[Step], None] | None = None) -> None:
        """One line of the worker's.  Raises WorkerBroke if it is none, BenchError for a refusal."""
        message = from_line(text)
        match message:
            case Provenance():
                self.provenance = message
            case Spoiler():
                self.spoilers.append(message)
            case Series():
                self.series.setdefault(message.name, []).append(message)
            case Unmeasured():
                self.unmeasured[message.name] = message.why
            case Refusal():
                error = BenchError(message.message, cause=message.cause, next_step=message.next_step)
                error.usage = message.usage
                raise error
            case Trouble():
                self.troubles.append(f"{message.group}: {message.what}")
            case Step():
                if progress is not None:
                    progress(message)
            case End():
                self.ended = True
                self.interrupted = self.interrupted or message.interrupted

    def rest(self, process: subprocess.Popen[str]) -> None:
        """Have the worker end, and hear what it still has to say; a second interrupt ends it at once."""
        assert process.stdout is not None
        watchdog = _Watchdog(process)
        try:
            process.send_signal(signal.SIGINT)  # a second interrupt may come in here already
            for text in process.stdout:
                self.listen(text)
        except KeyboardInterrupt:
            _kill(process)
        finally:
            watchdog.cancel()

    def report(self, code: int, seconds: float, words: tuple[str, ...]) -> Report:
        """All of it.  A worker that died before it said where it is has nothing to report."""
        if self.provenance is None:
            if self.interrupted:
                raise KeyboardInterrupt
            cause = self.nonsense or f"exit code {code}"
            raise WorkerBroke("the measuring process ended before it began", cause=cause)
        if self.nonsense and not self.interrupted:
            self.troubles.append(self.nonsense)
        if not self.ended and not self.interrupted:
            self.troubles.append(f"the measuring process died with exit code {code}")
        chosen = set(self.plan.names)
        results = tuple(
            Result(
                benchmark.name,
                benchmark.unit,
                tuple(self.series.get(benchmark.name, ())),
                "" if benchmark.name in self.series else self.unmeasured.get(benchmark.name, "not reached"),
            )
            for suite in catalogue.suites()
            for benchmark in suite.benchmarks
            if benchmark.name in chosen
        )
        return Report(
            provenance=self.provenance,
            results=results,
            spoilers=tuple(self.spoilers),
            words=words,
            seconds=seconds,
            interrupted=self.interrupted,
            troubles=tuple(self.troubles),
        )


class _Watchdog:
    """Kills a worker that does not end when told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        import threading

        self._timer = threading.Timer(PATIENCE, _kill, (process,))
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """It has ended."""
        self._timer.cancel()


@contextmanager
def _worker(line: Sequence[str], inherited: Sequence[int]) -> Iterator[subprocess.Popen[str]]:
    """The process, in a session of its own: a Ctrl-C at the terminal is ours to hand on."""
    set_option = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def die_with_us() -> None:
        set_option(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    process = subprocess.Popen(
        line,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        pass_fds=inherited,
        start_new_session=True,
        preexec_fn=die_with_us,
        # The same path through Python's dictionaries every time.
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    with process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            _end(process)


def _end(process: subprocess.Popen[str]) -> int:
    """Its exit code; a worker that says nothing any more and does not go is killed."""
    try:
        return process.wait(PATIENCE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        _kill(process)
        return process.wait()


def _kill(process: subprocess.Popen[str]) -> None:
    """The worker, and whatever it has started: that would hold the other end of what we listen to."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
