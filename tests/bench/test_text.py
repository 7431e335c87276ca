"""The table on the terminal: every figure with where it comes from, how sure it is, and what spoils it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from bench.reports import COUNTING, LAB, NATIVE, report, result, some

from kvmhost.bench import catalogue
from kvmhost.bench.benchmark import Benchmark, Suite, Unit
from kvmhost.bench.compare import compare
from kvmhost.bench.report import text
from kvmhost.bench.report.numbers import digits
from kvmhost.bench.results import Report, Result, Spoiler


@pytest.fixture(autouse=True)
def made_up_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    group = (
        Benchmark("switch/round-trip", "x", Unit.CYCLES, "whole", reference="switch/seed"),
        Benchmark("switch/nothing", "x", Unit.CYCLES, "whole", overhead=True),
    )
    monkeypatch.setattr(catalogue, "suites", lambda: (Suite("switch", "Switch", group, never),))  # type: ignore[arg-type]


def line(said: str, start: str) -> list[str]:
    found = [row.split() for row in said.splitlines() if row.strip().startswith(start + "  ")]
    assert len(found) == 1
    return found[0]


def test_every_figure_says_where_it_comes_from() -> None:
    said = text.render(report(NATIVE))
    for words in (
        "on svm",
        NATIVE.cpu,
        NATIVE.microcode,
        NATIVE.kernel,
        NATIVE.made,
        "hardened abababababab",
    ):
        assert words in said
    assert said.endswith("\n") and max(map(len, said.splitlines())) <= 110


def test_a_line_has_the_median_its_interval_and_how_often() -> None:
    said = text.render(report(NATIVE))
    found = line(said, "switch/round-trip")
    assert found[1] == "815" and found[3] == "to" and float(found[2]) <= 815 <= float(found[4])
    assert found[5:] == ["cycles", "1.50", "0", "66", "2", "x", "4"]
    assert "switch, whole (ratios to switch/seed)" in said
    assert line(said, "machine/memory")[1:6] == ["12.3", "12.3", "to", "12.3", "KB"]
    assert line(said, "exit/shim-loop")[-1] == "3+2"


def test_outliers_other_counts_and_unrest_are_told() -> None:
    one = result("switch/a", Unit.CYCLES, (5.0, 5.0, 5.0, 90.0, 5.0), pages=3.0)
    shaky = replace(one, runs=(replace(one.runs[0], stable=False),))
    said = text.render(report(NATIVE, shaky))
    assert "switch/a: 1 outlier, 90 cycles, kept; never came to rest in its warm-up; pages 3" in said


def test_what_is_subtracted_has_no_line() -> None:
    said = text.render(report(NATIVE, result("switch/nothing", Unit.CYCLES, (5.0,)), *some()[1:2]))
    assert "switch/nothing" not in said and "switch/round-trip" in said


def test_reasons_are_told_once() -> None:
    lacking = [Result(f"switch/{name}", Unit.CYCLES, (), "there is no KVM") for name in "ab"]
    said = text.render(report(NATIVE, *lacking))
    assert "not measured: switch/a, switch/b: there is no KVM" in said


def test_spoilers_are_named() -> None:
    spoilers = (Spoiler("governor", "CPU 3: powersave", "set it to performance"),)
    said = text.render(replace(report(NATIVE, spoilers=spoilers), interrupted=2))
    assert "spoiled by governor: CPU 3: powersave; set it to performance" in said
    assert "was interrupted" in said and "spoiled" not in text.render(report(NATIVE))


def test_the_labs_times_are_called_so() -> None:
    said = text.render(report(LAB))
    assert line(said, "switch/round-trip")[5:7] == ["cycles", "(lab)"]
    assert line(said, "exit/shim-loop")[5:7] == ["ns", "(lab)"]
    assert "mean nothing" in said and "leave the times out" in said
    assert "leave the times out" not in text.render(report(LAB), lab_times=True)


def test_counted_instructions_are_called_so() -> None:
    said = text.render(report(COUNTING))
    assert line(said, "exit/shim-loop")[5] == "instructions" and "(lab)" not in said
    assert "counts instructions" in said


def test_the_labs_files_have_a_table_without_times() -> None:
    bare = replace(some()[1], runs=tuple(replace(run, values=()) for run in some()[1].runs))
    assert line(text.render(report(LAB, bare)), "switch/round-trip")[1:] == ["1.50", "0", "66", "2", "x", "4"]


def test_aims_are_told_where_something_was_asked_for_that_they_need() -> None:
    said = text.render(report(NATIVE))
    assert "met: An empty benchmark reads 0 within its interval: 0" in " ".join(said.split())
    assert "machine/memory-beside-guest was not asked for" in " ".join(said.split())
    assert "aims" not in text.render(report(NATIVE, *some()[4:]))


def compared(old: Report, new: Report) -> str:
    return text.render_comparison("old.json", compare(old, new))


def test_a_comparison_has_ratio_and_interval_of_each() -> None:
    old, new = (
        report(NATIVE, result("exit/a", Unit.NANOSECONDS, *[(base, base + 1, base + 2)] * 3, exits=1.0))
        for base in (600.0, 700.0)
    )
    said = compared(old, new)
    found = line(said, "exit/a")
    assert found[:5] == ["exit/a", "601", "701", "ns", "1.166"] and found[-1] == "LOSS"
    assert "compared with old.json" in said and "of 3 figures" not in said
    assert "of 2 figures 1 lost and 0 gained significantly" in said
    assert line(compared(new, old), "exit/a")[-1] == "gain"


def test_a_comparison_with_itself() -> None:
    said = compared(report(NATIVE), report(NATIVE))
    assert "none of 8 figures differs significantly" in said and "warning" not in said
    assert line(said, "switch/empty")[-1] == "more"


def test_a_comparison_tells_what_else_differs() -> None:
    said = compared(report(NATIVE, *some()[:1]), report(replace(NATIVE, kernel="7.0"), *some()[1:2]))
    assert "warning: another kernel: 6.12.1-amd64 before, 7.0 now" in said
    assert "no longer measured: switch/empty" in said and "new: switch/round-trip, " in said
    assert "nothing could be compared" in said


@pytest.mark.parametrize(
    ("value", "said"), [(0.0, "0"), (-0.0, "0"), (999.5, "1000"), (1e-9, "0.00000000"), (-3.14159, "-3.14")]
)
def test_digits(value: float, said: str) -> None:
    assert digits(value) == said
