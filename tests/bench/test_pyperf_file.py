"""What is written is read back, pyperf's own tools read it too, and the lab's times stay at home."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyperf
import pytest
from bench.reports import COUNTING, LAB, NATIVE, report, result

from kvmhost.bench import catalogue, pyperf_file
from kvmhost.bench.benchmark import Benchmark, Suite, Unit
from kvmhost.bench.pyperf_file import LEFT_OUT
from kvmhost.bench.pyperf_read import read
from kvmhost.bench.results import Report, Result, Series, Spoiler

SPOILERS = (Spoiler("governor", 'CPU 3: "powersave"', "set it to performance\nfirst"),)


def there_and_back(tmp_path: Path, made: Report, lab_times: bool = False) -> Report:
    path = tmp_path / "results.json"
    pyperf_file.write(path, made, lab_times=lab_times)
    return read(path)


def nearly(series: Series) -> Series:
    """To be compared: nanoseconds go through seconds, which moves the last digit."""

    def rounded(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(round(value, 6) for value in values)

    return replace(series, values=rounded(series.values), warmups=rounded(series.warmups))


def rounded(made: Report) -> Report:
    results = tuple(replace(one, runs=tuple(nearly(run) for run in one.runs)) for one in made.results)
    return replace(made, results=results)


def test_a_report_comes_back(tmp_path: Path) -> None:
    made = report(NATIVE, spoilers=SPOILERS)
    made = replace(made, interrupted=2, troubles=("the lab was slow",))
    assert rounded(there_and_back(tmp_path, made)) == rounded(made)


def test_what_never_settled_stays_marked(tmp_path: Path) -> None:
    one = result("switch/a", Unit.CYCLES, (5.0, 6.0), (7.0, 8.0))
    shaky = replace(one, runs=(one.runs[0], replace(one.runs[1], stable=False)))
    (back,) = there_and_back(tmp_path, report(NATIVE, shaky)).results
    assert [run.stable for run in back.runs] == [True, False]


def test_what_is_nothing_or_less_comes_back(tmp_path: Path) -> None:
    made = report(NATIVE, result("switch/empty", Unit.CYCLES, (0.0, -3.5, 1e-3), exits=0.0))
    path = tmp_path / "results.json"
    pyperf_file.write(path, made)
    assert min(pyperf.BenchmarkSuite.load(str(path)).get_benchmark("switch/empty").get_values()) > 0
    (back,) = read(path).results
    assert back.runs[0].values == pytest.approx((0.0, -3.5, 1e-3)) and back.runs[0].values[0] == 0.0
    assert back.runs[0].counts == {"exits": (0.0,) * 3}


def test_the_labs_times_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    made = report(LAB)
    back = there_and_back(tmp_path, made)
    trip = back.find("switch/round-trip")
    assert trip is not None and [run.values for run in trip.runs] == [(), ()]
    assert trip.runs[0].ratios == (1.5,) * 4 and trip.runs[0].counts["instructions"] == (66.0,) * 4
    assert trip.runs[0].overhead == 0 and trip.runs[0].warmups == ()
    empty, memory, traps = (back.find(name) for name in ("switch/empty", "machine/memory", "boot/traps"))
    assert empty is not None and empty.runs == () and empty.unmeasured == LEFT_OUT
    assert memory is not None and memory.values() == (12288.0,) * 2
    assert traps is not None and traps.values() == (7012.0, 7013.0)
    text = (tmp_path / "results.json").read_text()
    assert "812" not in text and "615" not in text
    assert rounded(there_and_back(tmp_path, made, lab_times=True)) == rounded(made)


def test_counted_instructions_are_no_times(tmp_path: Path) -> None:
    made = report(COUNTING)
    assert there_and_back(tmp_path, made) == made
    loop = pyperf.BenchmarkSuite.load(str(tmp_path / "results.json")).get_benchmark("exit/shim-loop")
    assert (loop.get_unit(), loop.median()) == ("integer", 612.25)


def test_pyperf_reads_what_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    pyperf_file.write(path, report(NATIVE, spoilers=SPOILERS))
    suite = pyperf.BenchmarkSuite.load(str(path))
    trip, loop = suite.get_benchmark("switch/round-trip"), suite.get_benchmark("exit/shim-loop")
    assert (trip.get_unit(), trip.get_nrun(), trip.median()) == ("integer", 2, 815.0)
    assert (loop.get_unit(), loop.median()) == ("second", pytest.approx(612.25e-9))
    assert suite.get_benchmark("machine/memory").get_unit() == "byte"
    assert suite.get_benchmark("switch/round-trip instructions").get_values() == (66.0,) * 8
    facts = trip.get_metadata()
    assert facts["cpu_model_name"] == NATIVE.cpu and facts["kvmhost_fact_kvm_amd npt"] == "Y"
    assert trip.get_runs()[0].warmups == ((64, 4000.0),)
    assert loop.get_total_duration() == pytest.approx(64 * (612.25 + 615 + 611 + 613 + 612 + 5 * 0.25) * 1e-9)


def test_pyperf_writes_it_again_and_nothing_is_lost(tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    pyperf_file.write(first, report(NATIVE, spoilers=SPOILERS))
    pyperf.BenchmarkSuite.load(str(first)).dump(str(second))
    assert read(first) == read(second)
    single = report(NATIVE, result("switch/a", Unit.CYCLES, (5.0,)))
    pyperf_file.write(first, single)
    pyperf.BenchmarkSuite.load(str(first)).dump(str(second), replace=True)
    assert read(second) == single


@pytest.mark.parametrize("command", [["stats"], ["show"], ["metadata"], ["check"], ["hist"], ["dump"]])
def test_pyperfs_tools_work_on_it(tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "results.json"
    pyperf_file.write(path, report(NATIVE, spoilers=SPOILERS))
    said = pyperf_says(*command, str(path))
    assert "round-trip" in said or "815" in said


def test_pyperf_compares_two(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    fast, slow = ([base + step / 8 for step in range(20)] for base in (800.0, 880.0))
    pyperf_file.write(old, report(NATIVE, result("switch/round-trip", Unit.CYCLES, fast, fast)))
    pyperf_file.write(new, report(NATIVE, result("switch/round-trip", Unit.CYCLES, slow, slow)))
    assert "1.10x slower" in pyperf_says("compare_to", str(old), str(new))


def pyperf_says(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pyperf", *words], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_facts_of_many_lines_and_none(tmp_path: Path) -> None:
    odd = replace(NATIVE, cpu="", facts={"kvm nx": "", "boot": "a\n b"}, hashes={})
    path = tmp_path / "results.json"
    pyperf_file.write(path, report(odd, result("switch/a", Unit.CYCLES, (5.0,))))
    back = read(path).provenance
    assert back.cpu == "unknown" and back.facts == {"kvm nx": "unknown", "boot": "a b"}
    assert pyperf.BenchmarkSuite.load(str(path)).get_metadata()["cpu_model_name"] == "unknown"


def test_what_a_benchmark_times_is_in_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    said = Benchmark("switch/a", "From LCALL\n to IRET.", Unit.CYCLES, "g")
    monkeypatch.setattr(catalogue, "suites", lambda: (Suite("switch", "Switch", (said,), never),))  # type: ignore[arg-type]
    written = json.loads(pyperf_file.text(report(NATIVE, result("switch/a", Unit.CYCLES, (5.0,)))))
    assert written["benchmarks"][0]["metadata"]["description"] == "From LCALL to IRET."


def test_nothing_measured_is_a_result_too(tmp_path: Path) -> None:
    made = report(NATIVE, Result("switch/a", Unit.CYCLES, (), "no KVM"))
    assert there_and_back(tmp_path, made) == made
