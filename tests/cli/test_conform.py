"""`kvmhost conform` from its words to its exit code; the engine sees what a test wants it to see."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conformance.engines import FakeEngine, as_expected, judge
from terminals import Terminal

from kvmhost.cli import main
from kvmhost.cli.failures import DONE, HOST_CANNOT, INTERRUPTED, OUR_FAULT, USAGE
from kvmhost.cli.progress import CLEAR, Line
from kvmhost.conformance.case import Case, Observation
from kvmhost.conformance.errors import MachineryBroke, RunnerAbsent
from kvmhost.conformance.report import as_json
from kvmhost.conformance.results import CaseResult, Status

CHECK_FAILED = 1


def sees_nothing(case: Case) -> Observation:
    return replace(as_expected(case), outcome="timeout")


Engines = Callable[..., list[FakeEngine]]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Engines:
    """Make these the only runners there are; a name in `absent` is not installed."""
    made: list[FakeEngine] = []

    def install(
        sees: Callable[[Case], Observation] = as_expected, absent: str = "", **more: Any
    ) -> list[FakeEngine]:
        def make(name: str, *, backend: str) -> FakeEngine:
            if name == absent:
                raise RunnerAbsent(f"there is no {name}", next_step=f"install {name}")
            made.append(FakeEngine(name, sees, **more))
            return made[-1]

        monkeypatch.setattr("kvmhost.conformance.runners.make", make)
        monkeypatch.setattr("kvmhost.conformance.verdict.compare", judge)
        return made

    return install


def conform(*words: object) -> int:
    return main(["conform", *map(str, words)])


def test_all_as_expected(engines: Engines, capsys: pytest.CaptureFixture[str]) -> None:
    made = engines()
    assert conform("SEN-010", "--runner", "tcg", "--timing") == DONE
    out, err = capsys.readouterr()
    assert (
        out.startswith("kvmhost ")
        and "conform: SEN-010, seed 1" in out
        and "no row failed of 1 that ran" in out
    )
    assert "inside the engine, 1 start" in out and err == ""
    assert [engine.name for engine in made] == ["tcg"] and made[0].closed == 1


def test_a_check_that_fails(engines: Engines, capsys: pytest.CaptureFixture[str]) -> None:
    engines(sees_nothing)
    assert conform("SEN-010", "--runner", "tcg") == CHECK_FAILED
    assert "kvmhost conform --explain SEN-010" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["tcg,bochs", "all"])
def test_several_runners(engines: Engines, given: str) -> None:
    made = engines()
    assert conform("SEN-010", "--runner", given, "--backend", "native") in (DONE, HOST_CANNOT)
    if given != "all":
        assert [engine.name for engine in made] == ["tcg", "bochs"]


def test_every_report_of_one_run(
    engines: Engines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engines()
    paths = {form: tmp_path / form for form in ("json", "junit", "html")}
    options = [word for form, path in paths.items() for word in (f"--{form}", path)]
    assert conform("SEN-010", "--runner", "tcg", "--tap", "--repeat", 2, "--seed", 7, *options) == DONE
    assert capsys.readouterr().out.startswith("TAP version 14\n1..1\nok 1 - tcg SEN-010")
    run = as_json.read(paths["json"])
    assert (run.seed, run.repeat, run.rows[0].cases[0].repeated) == (7, 2, 2)
    assert run.words[:2] == ("conform", "SEN-010") and run.selection == "SEN-010"
    assert paths["junit"].read_text().startswith("<?xml") and paths["html"].read_text().startswith(
        "<!DOCTYPE"
    )


def test_a_disk_that_fills_up_costs_one_report_and_not_the_verdict(
    engines: Engines, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        if path.name in ("json", "html"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        path.write_text(text)

    engines()
    monkeypatch.setattr("kvmhost.conformance.report.files.replace", full)
    options = [word for form in ("json", "junit", "html") for word in (f"--{form}", tmp_path / form)]
    assert conform("SEN-010", "--runner", "tcg", *options) == USAGE
    out, err = capsys.readouterr()
    assert "no row failed of 1 that ran" in out
    assert [path.name for path in tmp_path.iterdir()] == ["junit"]
    for form in ("json", "html"):
        assert f"cannot write the report {tmp_path / form}" in err
    assert err.count("No space left on device") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["SW-NOPE"], "no row and no group is called SW-NOPE"),
        (["--runner", "unicorn"], "there is no runner called unicorn"),
        (["--switcher", "x"], "--switcher and --offsets belong together"),
        (["--baseline", "/dev/null"], "/dev/null is not a whole JSON file"),
        (["--baseline", "none.json"], "cannot read none.json"),
        (["--json", "/proc/x"], "cannot write the report /proc/x"),
        (["--html", "no/such/folder"], "cannot write the report no/such/folder"),
        (["--json", "a", "--html", "a"], "a is named for two reports"),
        (["--repeat", "0"], "0 is not a number from 1 on"),
        (["--core", "--all"], "not allowed with argument"),
        (["--list", "--explain", "X"], "not allowed with argument"),
        (["--explain", "SEN"], "SEN is 23 rows"),
        (["--switcher", "/bin/true", "--offsets", "/dev/null"], "/bin/true cannot be put on the stage"),
        (["--list", "--json", "r.json"], "--list makes no report, so --json does not go with it"),
        (["--explain", "SEN-010", "--html", "r"], "--explain makes no report, so --html does not go with it"),
        (["PRP-008", "--core"], "nothing of PRP-008 is in the core set"),
    ],
)
def test_wrong_words_are_told_before_anything_runs(
    engines: Engines,
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    made = engines()
    assert conform(*words, *([] if "--runner" in words else ["--runner", "tcg"])) == USAGE
    assert said in capsys.readouterr().err
    assert made == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("given", "code"), [("bochs", HOST_CANNOT), ("tcg,bochs", HOST_CANNOT)])
def test_a_runner_that_is_not_installed(
    engines: Engines, given: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    engines(absent="bochs")
    assert conform("SEN-010", "--runner", given) == code
    out, err = capsys.readouterr()
    assert "did not run: there is no bochs" in out and "what to do: install bochs" in out
    assert "kvmhost: bochs did not run: there is no bochs" in err


def test_an_engine_that_dies_is_our_fault(engines: Engines, capsys: pytest.CaptureFixture[str]) -> None:
    def dies(case: Case) -> Observation:
        raise MachineryBroke("QEMU ended", cause="signal 11")

    engines(dies)
    assert conform("SEN-010", "--runner", "tcg") == OUR_FAULT
    assert "a fault of kvmhost itself: tcg: QEMU ended: signal 11" in capsys.readouterr().out


def test_ctrl_c_keeps_a_partial_report(
    engines: Engines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = 0

    def presses(case: Case) -> Observation:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return as_expected(case)

    engines(presses)
    assert conform("SEN", "--runner", "tcg", "--json", tmp_path / "a.json") == INTERRUPTED
    run = as_json.read(tmp_path / "a.json")
    assert run.interrupted.startswith("interrupted while tcg ran: ")
    assert [case.status for row in run.rows for case in row.cases].count(Status.PASS) == 2
    assert "ended early: interrupted while tcg ran" in capsys.readouterr().out


def test_a_baseline_that_was_better(
    engines: Engines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engines()
    assert conform("SEN-010", "--runner", "tcg", "--json", tmp_path / "a") == DONE
    assert conform("SEN-010", "--runner", "tcg", "--baseline", tmp_path / "a") == DONE
    assert "nothing changed" in capsys.readouterr().out
    engines(unable="x")
    data = json.loads((tmp_path / "a").read_text())
    data["rows"][0]["cases"][0]["status"] = "FAIL"
    (tmp_path / "b").write_text(json.dumps(data))
    assert conform("SEN-010", "--runner", "tcg", "--baseline", tmp_path / "b") == DONE
    assert "1 better" in capsys.readouterr().out
    engines(sees_nothing)
    assert conform("SEN-010", "--runner", "tcg", "--baseline", tmp_path / "a") == CHECK_FAILED
    assert "worse: SEN-010" in capsys.readouterr().out


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert conform("--list") == DONE
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 367 and "367 rows" in err and "SEN-010     P      LAR, LSL" in out
    assert conform("--list", "--core", "IOP") == DONE
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["IOP-001", "IOP-005"]


def test_explaining(engines: Engines, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = engines(sees_nothing)
    assert conform("--explain", "SW-NMI-006") == DONE
    assert capsys.readouterr().out.startswith("NMI-006: fatal window shown\n") and made == []
    assert conform("--explain", "SEN-010", "--runner", "tcg") == CHECK_FAILED
    out = capsys.readouterr().out
    assert "what came of it" in out and "outcome  trap      timeout  <--" in out and "where it ended" in out
    assert conform("SEN-010", "--runner", "tcg", "--json", tmp_path / "a") == CHECK_FAILED
    capsys.readouterr()
    assert conform("--explain", "SEN-010", "--baseline", tmp_path / "a") == DONE
    assert "outcome  trap      timeout  <--" in capsys.readouterr().out
    assert conform("--explain", "SEN-011", "--baseline", tmp_path / "a") == DONE
    assert "SEN-011 was not run there" in capsys.readouterr().err


def test_the_last_steps_of_a_failure(
    engines: Engines, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engines(sees_nothing)
    monkeypatch.setattr(FakeEngine, "trace", lambda self, case: (case.cpu.eip,), raising=False)
    assert conform("--explain", "SEN-010", "--runner", "tcg") == CHECK_FAILED
    assert (
        "  last steps\n    <G_CODE>           00416000  0f02c3               lar eax, ebx"
        in capsys.readouterr().out
    )


def test_on_a_terminal_one_line_tells_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    line = Line(sys.stdout, columns=30)
    line.begin("tcg", 1200)
    for status in (Status.PASS, Status.FAIL):
        line.done(CaseResult("c", "L1", "tcg", status))
    line.end()
    written = capsys.readouterr().out
    assert written.startswith(f"{CLEAR}tcg: 0 of 1,200 cases, 0 s") and written.endswith(CLEAR)
    assert all(len(text) < 30 for text in written.split(CLEAR)) and "\n" not in written


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_leaves_a_report_and_nothing_running(tmp_path: Path, ending: int) -> None:
    report = tmp_path / "a.json"
    words = [sys.executable, "-P", "-m", "kvmhost", "conform", "VEC", "--runner", "tcg", "--repeat", "1000"]
    terminal = Terminal([*words, "--json", str(report)])
    terminal.wait_for(b"tcg: ")
    terminal.wait_until(lambda: bool(children_of(terminal.pid)))
    engines = children_of(terminal.pid)
    terminal.signal(ending)
    assert b"ended early: interrupted" in terminal.rest()
    assert terminal.exit_code() == 128 + ending
    assert "while tcg ran" in as_json.read(report).interrupted
    # One that was just being started dies by its PR_SET_PDEATHSIG, a moment after us.
    terminal.wait_until(lambda: not any(map(runs, engines)))


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie, which waits for somebody else to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_under_sudo_only_a_native_kvm_keeps_root(
    engines: Engines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    became: list[object] = []
    monkeypatch.setattr("kvmhost.cli.run.stop_being_root", became.append)
    monkeypatch.setattr("kvmhost.cli.backend.goes_to_lab", lambda wanted, device: wanted == "lab")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_UID", "65534")
    engines()
    assert conform("SEN-001", "--runner", "kvm", "--backend", "native") == DONE and became == []
    assert conform("SEN-001", "--runner", "kvm", "--backend", "lab") == DONE and became == [None]
    assert conform("SEN-001", "--runner", "tcg") == DONE and became == [None, None]
    monkeypatch.delenv("SUDO_UID")
    assert conform("SEN-001", "--runner", "tcg") == DONE and became == [None, None]
