"""`kvmhost bench` from its words to its exit code; the worker has seen what a test wants seen."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyperf
import pytest
from bench import made_up
from cli.test_entry import HEAVY, modules_after

from kvmhost.bench import catalogue, pyperf_read, session
from kvmhost.bench.aims import NEEDED
from kvmhost.bench.errors import BenchError, ResultFileError, WorkerBroke
from kvmhost.bench.results import Report, Result
from kvmhost.bench.wire import Plan, Step
from kvmhost.cli import main
from kvmhost.cli.failures import DONE, HOST_CANNOT, INTERRUPTED, OUR_FAULT, USAGE
from kvmhost.cli.progress import CLEAR, Share

SLOWER = 1


def small(**changes: object) -> Report:
    """A run that is quickly judged."""
    return made_up.report(runs=2, number=6, **changes)  # type: ignore[arg-type]


class Worker:
    """What stands in for it: it reports this, or raises it, and remembers what it was asked for."""

    def __init__(self, gives: Report | Exception) -> None:
        self.gives = gives
        self.plans: list[Plan] = []

    def run(self, plan: Plan, line: list[str], **more: object) -> Report:
        """As session.run."""
        self.plans.append(plan)
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives


Install = Callable[[Report | Exception], Worker]


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Install:
    def install(gives: Report | Exception) -> Worker:
        made = Worker(gives)
        monkeypatch.setattr(session, "run", made.run)
        monkeypatch.setattr("kvmhost.cli.backend.goes_to_lab", lambda wanted, device: False)
        return made

    return install


def bench(*words: object) -> int:
    return main(["bench", *map(str, words)])


def test_the_list_has_every_benchmark_and_what_it_times(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--list") == DONE
    said = capsys.readouterr().out
    told = {line.split()[0] for line in said.splitlines() if not line.startswith(" ")}
    every = [each for suite in catalogue.suites() for each in suite.benchmarks]
    assert told == {each.name for each in every if not each.overhead}
    flat = " ".join(said.split())
    for each in every:
        assert len(each.says.split()) >= 8, each.name
        assert each.overhead or " ".join(each.says.split()) in flat


@pytest.mark.parametrize("words", [["bench", "--help"], ["bench", "--list"]])
def test_telling_imports_nothing_of_a_machine(words: list[str]) -> None:
    code, loaded = modules_after(*words)
    assert code == DONE
    assert "kvmhost.cli.bench" in loaded
    machinery = {"kvmhost._native", "kvmhost._bench", "_cffi_backend", "cffi", "psutil", "capstone"}
    assert loaded & (HEAVY if "--help" in words else machinery) == set()


@pytest.mark.parametrize("name", ["swotch", "exit/", "exit/prt", "nothing/*", "", "--", "EXIT"])
def test_names_that_do_not_exist(name: str, worker: Install, capsys: pytest.CaptureFixture[str]) -> None:
    made = worker(small())
    assert bench("--", "exit", name or "x y") == USAGE
    said = capsys.readouterr().err
    assert "no suite and no benchmark is called" in said
    assert "--list" in said
    assert made.plans == []


def test_a_name_brings_along_what_it_subtracts(worker: Install) -> None:
    made = worker(small())
    assert bench("exit/hlt", "--quick", "--strict", "--cpu", min(os.sched_getaffinity(0))) == DONE
    (plan,) = made.plans
    assert set(plan.names) == {"exit/nothing", "exit/port", "exit/hlt"}
    assert (plan.mode, plan.strict, plan.setting.cpu) == ("quick", True, min(os.sched_getaffinity(0)))


def test_aims_stands_for_what_they_are_told_from(worker: Install, capsys: pytest.CaptureFixture[str]) -> None:
    made = worker(small(factor=1.0))
    assert bench("aims") in (DONE, SLOWER)
    every = {each.name for suite in catalogue.suites() for each in suite.benchmarks}
    assert {name for name in NEEDED if name in every} <= set(made.plans[0].names)
    assert "exit/shim-loop" in made.plans[0].names
    assert "aims" in capsys.readouterr().out


def test_a_missed_aim_is_a_failure_where_aims_were_asked_for(worker: Install) -> None:
    worker(small(slower=("exit/shim-loop",)))
    assert bench("aims") == SLOWER
    assert bench("exit") == DONE


def test_reports_are_written_and_can_be_read(
    worker: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = small()
    worker(report)
    files = [tmp_path / name for name in ("r.json", "r.csv", "r.html")]
    assert bench("--json", files[0], "--csv", files[1], "--html", files[2]) == DONE
    back = {one.name: one.values() for one in pyperf_read.read(files[0]).results}
    assert back == {one.name: pytest.approx(one.values()) for one in report.results}
    names = pyperf.BenchmarkSuite.load(str(files[0])).get_benchmark_names()
    assert {"exit/c-loop", "exit/c-loop exits"} <= set(names)
    rows = list(csv.reader(io.StringIO(files[1].read_text())))
    assert any("exit/c-loop" in row for row in rows)
    assert len({len(row) for row in rows}) == 1
    page = files[2].read_text()
    assert "exit/c-loop" in page
    assert "</html>" in page
    assert "exit" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == sorted(files)


def saved(worker: Install, path: Path, report: Report) -> Path:
    """The file of a run."""
    worker(report)
    assert bench("--json", path) == DONE
    return path


def test_a_comparison_with_itself_is_clean(
    worker: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = saved(worker, tmp_path / "old.json", small())
    assert bench("--compare", old) == DONE
    assert f"compared with {old}" in capsys.readouterr().out


@pytest.mark.parametrize("where", [{}, {"lab": True, "icount": True}])
def test_a_planted_slowdown_is_a_failure(where: dict[str, bool], worker: Install, tmp_path: Path) -> None:
    old = saved(worker, tmp_path / "old.json", small(**where))
    slow = small(slower=("switch/round-trip-hardened",), **where)
    same = saved(worker, tmp_path / "same.json", slow)
    worker(slow)
    assert bench("--compare", same) == DONE
    assert bench("--compare", old) == SLOWER
    assert bench("--compare", old, "--compare", same, "--html", tmp_path / "all.html") == SLOWER
    assert str(same) in (tmp_path / "all.html").read_text()
    worker(small(**where))
    assert bench("--compare", same) == DONE


@pytest.mark.parametrize("kind", ["missing", "empty", "cut", "foreign", "text", "directory"])
def test_a_file_that_is_no_result_is_refused_before_anything_is_measured(
    kind: str, worker: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(worker, tmp_path / "r.json", small())
    match kind:
        case "missing":
            path.unlink()
        case "empty":
            path.write_text("")
        case "cut":
            path.write_text(path.read_text()[:-100])
        case "foreign":
            path.write_text(json.dumps({"version": "1.0", "benchmarks": []}))
        case "text":
            path.write_bytes(b"\xff\xfe")
        case _:
            path = tmp_path
    made = worker(small())
    capsys.readouterr()
    assert bench("--compare", path) == USAGE
    said = capsys.readouterr()
    assert "what to do:" in said.err
    assert (said.out, made.plans) == ("", [])


@pytest.mark.parametrize("option", ["--json", "--csv", "--html"])
@pytest.mark.parametrize("name", ["nowhere/r", "."])
def test_what_cannot_be_written_is_refused_before_anything_is_measured(
    option: str, name: str, worker: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = worker(small())
    assert bench(option, tmp_path / name) == USAGE
    assert "cannot be written" in capsys.readouterr().err
    assert made.plans == []


def test_who_writes_the_files_is_who_must_be_able_to(
    worker: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are tried by whom we become: to that one this directory is closed (here, it is not there)."""
    made = worker(small())
    folder = tmp_path / "root's"
    folder.mkdir()
    monkeypatch.setattr("kvmhost.cli.bench.stop_being_root", lambda user: folder.rmdir())
    assert bench("--json", folder / "r.json") == USAGE
    assert "cannot be written" in capsys.readouterr().err
    assert made.plans == []


def test_a_file_that_fails_in_the_end_costs_neither_the_others_nor_the_table(
    worker: Install,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object, **__: object) -> None:
        raise ResultFileError("the disk is full", next_step="make room")

    worker(small())
    monkeypatch.setattr("kvmhost.bench.pyperf_file.write", full)
    assert bench("--json", tmp_path / "r.json", "--csv", tmp_path / "r.csv") == USAGE
    said = capsys.readouterr()
    assert "the disk is full" in said.err
    assert "exit/c-loop" in said.out
    assert "exit/c-loop" in (tmp_path / "r.csv").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ["--cpu", "4095"],
        ["--cpu", "-1"],
        ["--cpu", "one"],
        ["--quick", "--thorough"],
        ["--switcher", "/nowhere/switcher"],
        ["--kernel", "/"],
        ["--initrd", "/dev/null"],
        ["--append", "quiet"],
        ["--backend", "moon"],
    ],
)
def test_words_that_make_no_sense(
    words: list[str], worker: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    made = worker(small())
    assert bench(*words) == USAGE
    assert capsys.readouterr().err
    assert made.plans == []


def test_an_interrupted_run_keeps_what_it_had(
    worker: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worker(small(interrupted=int(signal.SIGINT)))
    path = tmp_path / "r.json"
    assert bench("--json", path, "--csv", tmp_path / "r.csv") == INTERRUPTED
    assert "interrupted" in capsys.readouterr().out
    assert pyperf_read.read(path).interrupted == signal.SIGINT
    assert "exit/c-loop" in (tmp_path / "r.csv").read_text()
    worker(small())
    assert bench("--compare", path) == DONE
    assert "was interrupted" in " ".join(capsys.readouterr().out.split())
    worker(small(interrupted=int(signal.SIGTERM)))
    assert bench() == 128 + signal.SIGTERM


def test_a_trouble_is_a_fault_of_ours(worker: Install, capsys: pytest.CaptureFixture[str]) -> None:
    worker(small(troubles=("exit layers: it broke",)))
    assert bench() == OUR_FAULT
    said = capsys.readouterr()
    assert "exit layers: it broke" in said.err
    assert "exit/c-loop" in said.out


def test_where_nothing_can_be_measured_that_is_told_once(
    worker: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    none = tuple(Result(one.name, one.unit, (), "there is no KVM here") for one in small().results)
    worker(replace(small(), results=none))
    assert bench() == HOST_CANNOT
    said = capsys.readouterr().err
    assert "nothing could be measured here" in said
    assert said.count("there is no KVM here") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WorkerBroke("it ended before it began", cause="exit code 1"), OUR_FAULT),
        (BenchError("the figures would be spoilt", next_step="leave --strict out"), HOST_CANNOT),
    ],
)
def test_a_run_that_does_not_come_about(
    error: BenchError, code: int, worker: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worker(error)
    assert bench("--json", tmp_path / "r.json") == code
    assert error.message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_bar_never_goes_past_its_end_or_the_terminals() -> None:
    out = io.StringIO()
    clock = iter([0.0, 1.0, 10.0, 90.0, 100.0, 110.0])
    share = Share(out, groups=2, columns=60, clock=clock.__next__)
    for group, done in (("a", 0.0), ("a", 0.2), ("b", 0.8), ("b", 1.0), ("one more", 1.0)):
        share.tell(Step(group, "measuring " + "x" * 80, done))
    lines = out.getvalue().split(CLEAR)[1:]
    assert all(len(line) < 60 for line in lines)
    assert [line.split("]")[1].split("  a")[0].split("  b")[0].split("  one")[0] for line in lines] == [
        "   0% time unknown",
        "  10% 1:30 left",
        "  90% 0:10 left",
        " 100% 0:00 left",
        " 100% 0:00 left",
    ]
    share.end()
    assert out.getvalue().endswith(CLEAR)
