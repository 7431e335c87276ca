"""The worker with a suite that nobody has: what it says of one that works, breaks, or prints."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kvmhost.bench.benchmark import Setting
from kvmhost.bench.results import Provenance, Series
from kvmhost.bench.wire import End, Message, Plan, Refusal, Trouble, Unmeasured, from_line

#: A group that works and prints while it does; and the body of `broken`, which a test gives.
PROGRAM = """
import os, signal, sys
from contextlib import contextmanager
from kvmhost.bench import catalogue, method, worker
from kvmhost.bench.benchmark import Benchmark, Sample, Suite, Unit
from kvmhost.bench.errors import BenchError, Unmeasurable, WorkerBroke
from kvmhost.bench.subject import Called

def fine(loops):
    print("a Guest's words")
    os.write(1, b"and a library's\\n")
    return Sample(1e9 * loops, loops, {"exits": loops})

def broken(loops):
    BODY

@contextmanager
def subjects(benchmarks, setting):
    if benchmarks[0].group == "a":
        yield {"made/fine": Called(fine), "made/lacking": "no such thing here"}
    else:
        yield {"made/broken": Called(broken)}

made = (
    Benchmark("made/fine", "", Unit.NANOSECONDS, "a"),
    Benchmark("made/lacking", "", Unit.NANOSECONDS, "a"),
    Benchmark("made/broken", "", Unit.NANOSECONDS, "b"),
)
catalogue.suites = lambda: (Suite("made", "Made up", made, subjects),)
sys.exit(worker.main(sys.argv[1:]))
"""
NAMES = ("made/fine", "made/lacking", "made/broken")


def messages(body: str, plan: Plan | None = None) -> tuple[int, list[Message], str]:
    """Its exit code, what it said, and what others said."""
    word = (plan or Plan(NAMES, "quick")).as_word()
    line = [sys.executable, "-P", "-c", PROGRAM.replace("BODY", body), word]
    child = subprocess.run(line, capture_output=True, text=True, timeout=120)
    return child.returncode, [from_line(each) for each in child.stdout.splitlines()], child.stderr


@pytest.mark.parametrize(
    ("body", "kind", "why"),
    [
        ("raise Unmeasurable('not now')", Unmeasured, "not now"),
        ("raise WorkerBroke('it ended', cause='badly')", Trouble, "it ended: badly"),
        ("raise RuntimeError('oh')", Trouble, "RuntimeError: oh"),
    ],
)
def test_a_group_that_breaks_is_told_and_the_other_is_measured(
    body: str, kind: type[Message], why: str
) -> None:
    code, said, aside = messages(body)
    assert code == 0
    assert isinstance(said[0], Provenance)
    assert isinstance(said[-1], End)
    assert said[-1].interrupted == 0
    assert {one.name for one in said if isinstance(one, Series)} == {"made/fine"}
    assert Unmeasured("made/lacking", "no such thing here") in said
    told = [one for one in said if isinstance(one, kind) and "lacking" not in str(one)]
    assert len(told) == 1
    assert why in str(told[0])
    assert "a Guest's words" in aside
    assert "and a library's" in aside


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_it_with_what_was_finished(name: str) -> None:
    code, said, _ = messages(f"os.kill(os.getpid(), signal.{name})")
    end = said[-1]
    assert code == 0
    assert isinstance(end, End)
    assert end.interrupted > 0
    assert "made/fine" in [one.name for one in said if isinstance(one, Series)]
    assert not any(isinstance(one, Trouble) for one in said)


def test_a_cpu_that_is_not_there_is_refused_before_anything() -> None:
    code, said, _ = messages("raise AssertionError", Plan(NAMES, "quick", Setting(cpu=4095)))
    assert code == 0
    refusal, end = said
    assert isinstance(refusal, Refusal)
    assert refusal.usage
    assert "4095" in refusal.message
    assert isinstance(end, End)
