"""Workers that measure nothing: small programs that say what a test wants said, and then behave badly."""

from __future__ import annotations

import sys
from collections.abc import Callable

from kvmhost.bench import session
from kvmhost.bench.results import Report
from kvmhost.bench.wire import Plan, Step

#: What they are asked for: the overhead, and two that subtract it.
NAMES = ("exit/nothing", "exit/port", "exit/hlt")
PLAN = Plan(NAMES, "quick")
BEGINNING = """
import os, signal, subprocess, sys
from kvmhost.bench.benchmark import Unit
from kvmhost.bench.results import Provenance, Series, Spoiler
from kvmhost.bench.wire import End, Refusal, Step, Trouble, Unmeasured, as_line
def say(message):
    print(as_line(message), flush=True)
def series(name, *values):
    counts = {"exits": (1.0,) * len(values)}
    say(Series(name, Unit.NANOSECONDS, 10, (9.0,), values, 1.5, counts, False, (2.0,)))
def here():
    names = {"seed": "ab"}, {"smt": "0"}
    say(Provenance("vmx", "a CPU", "0x1", "6.1", "0.1", 10**9, "now", False, *names))
    say(Spoiler("pid", str(os.getpid()), "none"))
def deaf():
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
def for_ever():
    while True:
        signal.pause()
"""


def line(program: str) -> list[str]:
    """What runs such a program."""
    return [sys.executable, "-P", "-c", BEGINNING + program]


def run(program: str, progress: Callable[[Step], None] | None = None) -> Report:
    """A session with it."""
    return session.run(PLAN, line(program), words=("bench",), progress=progress)


def press_ctrl_c(step: Step) -> None:
    """Progress that is met by a Ctrl-C."""
    raise KeyboardInterrupt


def pid(report: Report) -> int:
    """Of the program that was run."""
    return next(int(one.seen) for one in report.spoilers if one.name == "pid")
