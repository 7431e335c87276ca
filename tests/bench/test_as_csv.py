"""One line a figure, and a spreadsheet finds in it what it takes to judge it alone."""

import csv
import io
from dataclasses import replace

from bench.reports import COUNTING, LAB, NATIVE, report, result, some

from kvmhost.bench import as_csv
from kvmhost.bench.benchmark import Unit
from kvmhost.bench.results import Report, Spoiler


def lines(made: Report, lab_times: bool = False) -> dict[str, dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(as_csv.text(made, lab_times=lab_times))))
    assert all(None not in row and None not in row.values() for row in rows)
    return {row["name"]: row for row in rows}


def test_a_line_a_figure() -> None:
    made = lines(report(NATIVE, spoilers=(Spoiler("governor", "a", "b"), Spoiler("load", "c", "d"))))
    assert list(made) == [
        "switch/empty",
        "switch/round-trip",
        "switch/round-trip exits",
        "switch/round-trip instructions",
        "exit/shim-loop",
        "exit/shim-loop exits",
        "machine/memory",
        "boot/traps",
    ]
    trip = made["switch/round-trip"]
    assert (trip["median"], trip["least"], trip["most"], trip["unit"]) == ("815", "811", "2000", "cycles")
    assert (trip["runs"], trip["values"], trip["outliers"], trip["loops"], trip["stable"]) == (
        "2",
        "8",
        "1",
        "64",
        "yes",
    )
    assert float(trip["low"]) <= 815 <= float(trip["high"])
    assert (trip["backend"], trip["cpu"], trip["microcode"]) == ("svm", NATIVE.cpu, NATIVE.microcode)
    assert trip["spoilers"] == "governor load" and made["exit/shim-loop exits"]["unit"] == "exits"


def test_the_labs_times_are_left_out_unless_asked_for() -> None:
    assert list(lines(report(LAB))) == [
        "switch/round-trip exits",
        "switch/round-trip instructions",
        "switch/round-trip ratio",
        "exit/shim-loop exits",
        "machine/memory",
        "boot/traps",
    ]
    asked = lines(report(LAB), lab_times=True)
    assert asked["switch/round-trip"]["backend"] == "lab" and "exit/shim-loop" in asked
    counted = lines(report(COUNTING))
    assert counted["switch/round-trip"]["unit"] == counted["exit/shim-loop"]["unit"] == "instructions"
    assert "switch/round-trip ratio" not in counted


def test_a_name_is_no_formula_and_a_comma_no_column() -> None:
    odd = replace(NATIVE, cpu='=cmd(), "x"')
    (row,) = lines(report(odd, result("switch/a", Unit.CYCLES, (5.0,)))).values()
    assert row["cpu"] == '\'=cmd(), "x"'


def test_what_was_not_measured_has_no_line() -> None:
    assert lines(report(NATIVE, some()[2])) == {}
