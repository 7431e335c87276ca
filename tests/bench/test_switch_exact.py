"""Where the time-stamp counter counts instructions, every figure of the suite must be the right one exactly.

This needs a lab of its own, one whose clocks count instructions; so it starts one, and does not run in one.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from lab.labs import PATIENCE, lab_line

from kvmhost.bench.suites.switch import BENCHMARKS, BODIES, PARTS, TRIPS

#: Each subject five times with one operation and with ten: the middle one has met no interrupt.
MEASURE = """
import json
from kvmhost.bench.benchmark import Setting
from kvmhost.bench.suites.switch import SUITE
told = {}
with SUITE.subjects(SUITE.benchmarks, Setting(icount=True)) as subjects:
    for name, subject in subjects.items():
        if not isinstance(subject, str):
            samples = [[subject.sample(loops) for _ in range(5)] for loops in (1, 10)]
            told[name] = [sorted(each.total for each in of)[2] for of in samples]
            told[name].append(samples[0][0].counts.get("instructions", 0))
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def figures() -> dict[str, list[int]]:
    line = lab_line(sys.executable, "-P", "-c", MEASURE, icount=True)
    lab = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
    assert lab.returncode == 0, lab.stderr
    told: dict[str, list[int]] = json.loads(lab.stdout)
    return told


def of(figures: dict[str, list[int]], name: str, loops: int) -> int:
    """What so many operations read, with what is to be subtracted taken off."""
    minus = next(benchmark.minus for benchmark in BENCHMARKS if benchmark.name == name)
    place = 0 if loops == 1 else 1
    return figures[name][place] - sum(figures[other][place] for other in minus)


@pytest.mark.parametrize("loops", [1, 10])
def test_every_body_reads_its_instructions(figures: dict[str, list[int]], loops: int) -> None:
    bodies = {name: body for name, body in BODIES.items() if "overhead" not in name}
    read = {name: of(figures, name, loops) for name in bodies}
    assert read == {name: loops * body.instructions for name, body in bodies.items()}


@pytest.mark.parametrize("loops", [1, 10])
def test_round_trips_read_what_was_single_stepped(figures: dict[str, list[int]], loops: int) -> None:
    trips = [name for name in TRIPS if name in figures]
    assert len(trips) == 4
    assert {name: of(figures, name, loops) for name in trips} == {
        name: loops * figures[name][2] for name in trips
    }


def test_the_parts_add_up_to_the_whole(figures: dict[str, list[int]]) -> None:
    whole = of(figures, "switch/round-trip-hardened", 1)
    assert sum(of(figures, f"switch/part-{name}", 1) for name, *_ in PARTS) == whole


def test_a_round_trip_is_as_short_as_it_must_be(figures: dict[str, list[int]]) -> None:
    hardened, seed = (of(figures, f"switch/round-trip-{name}", 10) for name in ("hardened", "seed"))
    assert hardened <= 10 * 70
    assert hardened <= 1.05 * seed
