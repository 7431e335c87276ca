"""The suites `machine` and `boot` without a machine: what they say, and what they make of what goes wrong."""

from __future__ import annotations

import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kvmhost.bench import aims, boots, catalogue, processes
from kvmhost.bench.benchmark import Sample, Setting
from kvmhost.bench.doing import Doing
from kvmhost.bench.errors import Unmeasurable
from kvmhost.bench.processes import first_output
from kvmhost.bench.suites import boot, machine
from kvmhost.host import Trap

BOTH = (machine.SUITE, boot.SUITE)
WORDS = (sys.executable, "-P", "-c")


@pytest.mark.parametrize("suite", BOTH, ids=lambda suite: suite.name)
def test_every_benchmark_is_told_and_has_its_reference(suite: Any) -> None:
    names = [benchmark.name for benchmark in suite.benchmarks]
    assert len(set(names)) == len(names)
    assert len({benchmark.says for benchmark in suite.benchmarks}) == len(names)
    for benchmark in suite.benchmarks:
        assert benchmark.suite == suite.name
        assert benchmark.reference in {"", *names}
    assert suite in catalogue.suites()


def test_the_aims_find_their_figures() -> None:
    needed = {name for name in aims.NEEDED if name.startswith("machine/")}
    assert needed and needed <= {benchmark.name for benchmark in machine.BENCHMARKS}


def test_linux_takes_a_kernel() -> None:
    members = tuple(each for each in boot.BENCHMARKS if each.group == boot.LINUX)
    with boot.subjects(members, Setting()) as subjects:
        assert subjects == {each.name: boot.NO_KERNEL for each in members}
    assert "--kernel" in boot.NO_KERNEL


def test_a_command_is_not_counted_in_instructions() -> None:
    members = tuple(each for each in machine.BENCHMARKS if each.group == machine.COMMAND)
    with machine.subjects(members, Setting(icount=True)) as subjects:
        assert subjects == {"machine/run-command-first-instruction": machine.COUNTED}


@pytest.mark.parametrize(("shared", "totals"), [(True, [0, 0, 3]), (False, [0, 1, 5])])
def test_a_doing_serves_one_figure_or_all(shared: bool, totals: list[int]) -> None:
    numbers = count()

    def do() -> dict[str, Sample | str]:
        number = next(numbers)
        return {name: Sample(number, 1, {"exits": 1}) for name in "ab"}

    doing = Doing(do, shared=shared)
    samples = [doing.subject("a").sample(1), doing.subject("b").sample(1), doing.subject("a").sample(2)]
    assert [sample.total for sample in samples] == totals
    assert (samples[2].loops, samples[2].counts) == (2, {"exits": 2})


def test_what_a_doing_did_not_come_to_has_no_figure() -> None:
    doing = Doing(lambda: {"a": Sample(1, 1), "b": "the Guest died"}, shared=True)
    assert doing.subject("a").sample(1).total == 1
    with pytest.raises(Unmeasurable, match="the Guest died"):
        doing.subject("b").sample(1)


def test_a_command_is_timed_to_its_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends only when the clock has been read for the second time."""
    go = tmp_path / "go"
    ticks = count(100, 600)

    def clock() -> int:
        now = next(ticks)
        if now > 100:
            go.touch()
        return now

    monkeypatch.setattr(processes.time, "perf_counter_ns", clock)
    code = f"import os; os.write(1, b'x')\nwhile not os.path.exists({str(go)!r}): pass"
    assert first_output((*WORDS, code), 60, 60) == 600


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; sys.exit('no KVM here')", "ended with 1: no KVM here"),
        ("print('yes', flush=True); import sys; sys.exit('it died')", "ended with 1: it died"),
        ("pass", "ended with 0: it said nothing"),
    ],
)
def test_a_command_that_fails_has_no_figure(code: str, reason: str) -> None:
    with pytest.raises(Unmeasurable, match=reason):
        first_output((*WORDS, code), 60)


@pytest.mark.parametrize(
    ("code", "seconds", "to_end", "reason"),
    [
        ("import signal; signal.pause()", 0.1, 60, "said nothing for 0.1 s"),
        ("import signal; print('x', flush=True); signal.pause()", 60, 0.1, "did not end within 0.1 s"),
    ],
)
def test_a_command_that_hangs_is_ended(
    code: str, seconds: float, to_end: float, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def remembered(*words: Any, **options: Any) -> subprocess.Popen[bytes]:
        made.append(start(*words, **options))
        return made[0]

    monkeypatch.setattr(subprocess, "Popen", remembered)
    with pytest.raises(Unmeasurable, match=reason):
        first_output((*WORDS, code), seconds, to_end)
    assert made[0].returncode == -9


def test_counts_have_the_names_of_traps() -> None:
    statistics: Any = SimpleNamespace(runs=7, traps={Trap.PAGE_FAULT: 2, Trap(200): 1})
    assert boots.counts(statistics) == {"exits": 7, "traps-page-fault": 2, "traps-vector-200": 1}


def test_a_station_counts_once_and_the_last_one_stops_the_machine() -> None:
    runs, stopped = count(1), []
    machine: Any = SimpleNamespace(
        statistics=lambda: SimpleNamespace(runs=next(runs), traps={}), stop=lambda: stopped.append(True)
    )
    way = boots.Way(machine, count(10).__next__, 4, frozenset("ab"))
    way.reach("a")
    way.reach("a")
    assert not stopped
    way.reach("b")
    assert stopped == [True]
    first, last = way.seen["a"], way.seen["b"]
    assert isinstance(first, Sample) and isinstance(last, Sample)
    assert (first.counts, last.counts) == ({"exits": 1}, {"exits": 2})
    assert (first.total, last.total) == (6, 8)
