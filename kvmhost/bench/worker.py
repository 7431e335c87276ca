"""The process that measures, and does nothing else: `python -m kvmhost.bench.worker PLAN`.

It runs natively or in a lab, says what it saw line by line (see wire), and computes nothing that could be
computed afterwards.  SIGINT ends it after the sample under way; what was complete has been said by then.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from types import FrameType
from typing import NoReturn, TextIO

from kvmhost.bench import catalogue, method, provenance, spoilers
from kvmhost.bench.benchmark import Benchmark, Suite
from kvmhost.bench.errors import BenchError, WorkerBroke
from kvmhost.bench.wire import End, Message, Plan, Refusal, Step, Trouble, Unmeasured, as_line

#: personality(2): the flag, and the number that only asks.
ADDR_NO_RANDOMIZE = 0x0040000
ASK = 0xFFFFFFFF


class EndedBy(KeyboardInterrupt):
    """A signal that ends the worker; `number` is which."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def main(words: list[str]) -> int:
    """Measure what the plan says."""
    plan = Plan.from_word(words[0])
    if plan.setting.icount:
        stand_still(words)
    voice = private_output()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    began = time.monotonic()
    interrupted = 0
    try:
        _obey(plan, voice)
    except EndedBy as end:
        interrupted = end.number
    except Exception as error:
        if not hasattr(error, "next_step"):
            raise
        _say(voice, Refusal.of(error))
    _say(voice, End(time.monotonic() - began, interrupted))
    return 0


def private_output() -> TextIO:
    """Our standard output for ourselves: whatever a Guest or a library prints goes to standard error."""
    ours = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return ours


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise EndedBy(number)


def _obey(plan: Plan, voice: TextIO) -> None:
    """Tell where we are, and measure.  Raises what makes all of it impossible."""
    setting = plan.setting
    spoilers.need_clocks()
    if setting.cpu is not None:
        spoilers.bind(setting.cpu)
    here = provenance.gather(
        switcher=setting.switcher, cpu=setting.cpu, tsc_hz=provenance.tsc_hz(), icount=setting.icount
    )
    _say(voice, here)
    found = () if setting.icount else spoilers.find(spoilers.look(), setting.cpu)
    for spoiler in found:
        _say(voice, spoiler)
    if plan.strict:
        spoilers.refuse(found)
    before = spoilers.counters()
    try:
        for suite, benchmarks in catalogue.groups(plan.names):
            _measure(suite, benchmarks, plan, voice)
    finally:
        for spoiler in () if setting.icount else spoilers.meanwhile(before, spoilers.counters()):
            _say(voice, spoiler)


def _measure(suite: Suite, benchmarks: tuple[Benchmark, ...], plan: Plan, voice: TextIO) -> None:
    """One group.  A group that breaks is told of, and the next one has its turn."""
    group = f"{suite.name} {benchmarks[0].group}"
    try:
        runs = method.measure(
            benchmarks,
            lambda: suite.subjects(benchmarks, plan.setting),
            method.MODES[plan.mode],
            icount=plan.setting.icount,
            progress=lambda at: _say(voice, Step(group, at.phase, at.done)),
        )
        for run in runs:
            for name, why in run.unmeasured.items():
                _say(voice, Unmeasured(name, why))
            for series in run.series:
                _say(voice, series)
    except WorkerBroke as error:
        _say(voice, Trouble(group, reason(error)))
    except BenchError as error:
        for benchmark in benchmarks:
            _say(voice, Unmeasured(benchmark.name, reason(error)))
    except Exception as error:
        if os.environ.get("KVMHOST_DEBUG") == "1":
            import traceback

            traceback.print_exception(error)
        _say(voice, Trouble(group, f"{type(error).__name__}: {reason(error)}"))


def reason(error: Exception) -> str:
    """What an error says, and its cause if it has one."""
    return ": ".join(str(part) for part in (error, getattr(error, "cause", "")) if part)


def stand_still(words: list[str]) -> None:
    """Where instructions are counted, have everything lie at the same addresses every time.

    Python's dictionaries of objects take longer or shorter ways by them.  personality(2) holds for what is
    executed from now on, so this process executes itself once more.
    """
    libc = ctypes.CDLL(None)
    now = libc.personality(ctypes.c_ulong(ASK))
    if now < 0 or now & ADDR_NO_RANDOMIZE:
        return
    if libc.personality(ctypes.c_ulong(now | ADDR_NO_RANDOMIZE)) >= 0:
        os.execv(sys.executable, [sys.executable, "-P", "-m", "kvmhost.bench.worker", *words])


def _say(voice: TextIO, message: Message) -> None:
    voice.write(as_line(message) + "\n")
    voice.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
