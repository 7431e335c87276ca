"""A session with workers of every kind: what they said is reported, and none of them stays."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from bench.pretended import BEGINNING, NAMES, PLAN, line, pid, press_ctrl_c, run
from lab.labs import is_running, wait_until_gone

from kvmhost.bench import session
from kvmhost.bench.benchmark import Unit
from kvmhost.bench.errors import BenchError, WorkerBroke
from kvmhost.bench.results import Provenance, Report, Result, Series, Spoiler
from kvmhost.bench.wire import Plan, Step

ONE = 'series("exit/port", 5.0, 6.0)\n'
STEP = 'say(Step("exit exits", "measuring", 0.5))\n'


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "PATIENCE", 0.05)


@pytest.fixture
def endlessly_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends nevertheless has not ended because somebody lost patience."""
    monkeypatch.setattr(session, "PATIENCE", 3600.0)


def has_one(report: Report) -> bool:
    """Whether the one result that had been told is there, and the others are told not to be."""
    found = {result.name: (len(result.runs), result.unmeasured) for result in report.results}
    return found == {
        "exit/nothing": (0, "not reached"),
        "exit/port": (1, ""),
        "exit/hlt": (0, "not reached"),
    }


def test_all_that_is_said_is_in_the_report() -> None:
    steps: list[Step] = []
    report = run(
        f"here()\n{STEP}{ONE}"
        'series("exit/port", 7.0)\n'
        'say(Unmeasured("exit/hlt", "no HLT here"))\n'
        'say(Trouble("exit layers", "it broke"))\n'
        "say(End(1.0))",
        steps.append,
    )
    first = Series(
        "exit/port",
        Unit.NANOSECONDS,
        10,
        (9.0,),
        (5.0, 6.0),
        1.5,
        {"exits": (1.0, 1.0)},
        False,
        (2.0,),
    )
    second = Series("exit/port", Unit.NANOSECONDS, 10, (9.0,), (7.0,), 1.5, {"exits": (1.0,)}, False, (2.0,))
    assert report.provenance == Provenance(
        "vmx", "a CPU", "0x1", "6.1", "0.1", 10**9, "now", False, {"seed": "ab"}, {"smt": "0"}
    )
    assert report.results == (
        Result("exit/nothing", Unit.NANOSECONDS, (), "not reached"),
        Result("exit/port", Unit.NANOSECONDS, (first, second)),
        Result("exit/hlt", Unit.NANOSECONDS, (), "no HLT here"),
    )
    assert report.spoilers == (Spoiler("pid", str(pid(report)), "none"),)
    assert report.troubles == ("exit layers: it broke",)
    assert (report.words, report.interrupted) == (("bench",), 0)
    assert steps == [Step("exit exits", "measuring", 0.5)]
    assert not is_running(pid(report))


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "exit code -9"),
        ("sys.exit(7)", "exit code 7"),
        ("raise RuntimeError", "exit code 1"),
    ],
)
def test_a_worker_that_dies_leaves_what_it_had_said(
    end: str, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    report = run(f"here()\n{ONE}{end}")
    assert has_one(report)
    assert report.troubles == (f"the measuring process died with {told}",)


def test_a_line_that_was_cut_off_costs_no_other() -> None:
    report = run(
        f"here()\n{ONE}"
        "sys.stdout.write(as_line(Unmeasured('exit/hlt', 'x'))[:30])\n"
        "sys.stdout.flush()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert has_one(report)
    nonsense, death = report.troubles
    assert '{"kind": "unmeasured", "name":' in nonsense
    assert death.endswith("died with exit code -9")


@pytest.mark.parametrize(
    "garbage",
    [
        "what?",
        '{"kind": "riddle"}',
        '{"kind": "end"}',
        '{"name": "exit/port"}',
        "[]",
        "7",
        "\\xff\\xfe",
        '{"kind": "step", "more": 1}',
    ],
)
def test_nonsense_between_lines_is_a_trouble_and_the_rest_is_kept(garbage: str) -> None:
    report = run(
        f"here()\nos.write(1, b'{garbage}' + bytes([10, 255, 10]))\n{ONE}sys.stdout.flush()\nsay(End(1.0))"
    )
    assert has_one(report)
    assert len(report.troubles) == 1
    assert "nobody understands" in report.troubles[0]


@pytest.mark.parametrize(
    ("program", "cause"),
    [("", "exit code 0"), ("sys.exit(9)", "exit code 9"), ("print('what?')", "what?"), (ONE, "exit code 0")],
)
def test_a_worker_that_never_said_where_it_is_has_nothing_to_report(program: str, cause: str) -> None:
    with pytest.raises(WorkerBroke, match="before it began") as caught:
        run(program)
    assert cause in caught.value.cause


def test_a_line_that_cannot_be_run_is_an_error_of_the_system() -> None:
    with pytest.raises(FileNotFoundError):
        session.run(PLAN, ["/nowhere/at-all"])


@pytest.mark.parametrize("usage", [True, False])
def test_a_refusal_is_the_error_that_it_stands_for(usage: bool) -> None:
    with pytest.raises(BenchError, match="no CPU 99") as caught:
        run(f'say(Refusal("no CPU 99", "there are 2", "take another", {usage}))\nsay(End(0.0))')
    error = caught.value
    assert (error.cause, error.next_step, error.usage) == ("there are 2", "take another", usage)


def test_a_worker_that_refused_and_stays_is_ended(impatient: None) -> None:
    with pytest.raises(BenchError) as caught:
        run('deaf()\nsay(Refusal(str(os.getpid()), "", ""))\nfor_ever()')
    assert not is_running(int(caught.value.message))


def test_ctrl_c_asks_the_worker_to_end_and_keeps_what_it_has(endlessly_patient: None) -> None:
    report = run(
        "def told(number, frame):\n"
        '    series("exit/port", 8.0)\n'
        "    say(End(1.0, number))\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGINT, told)\n"
        f"here()\n{STEP}for_ever()",
        press_ctrl_c,
    )
    assert has_one(report)
    assert (report.interrupted, report.troubles) == (signal.SIGINT, ())
    assert not is_running(pid(report))


def test_another_signal_is_told_as_the_one_it_is() -> None:
    from kvmhost.cli.ending import end

    report = run(f"here()\n{ONE}{STEP}for_ever()", lambda step: end(signal.SIGTERM, None))
    assert has_one(report)
    assert report.interrupted == signal.SIGTERM


def test_ctrl_c_before_there_is_anything(impatient: None) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(f"deaf()\n{STEP}for_ever()", press_ctrl_c)


def test_a_worker_that_does_not_hear_is_killed_with_all_it_started(impatient: None) -> None:
    report = run(
        "deaf()\n"
        f"here()\n{ONE}"
        'child = subprocess.Popen(["sleep", "1000000"])\n'
        'say(Spoiler("child", str(child.pid), ""))\n'
        f"{STEP}for_ever()",
        press_ctrl_c,
    )
    assert has_one(report)
    assert report.interrupted == signal.SIGINT
    assert not is_running(pid(report))
    wait_until_gone(int(report.spoilers[1].seen))


def test_a_second_ctrl_c_ends_it_at_once(endlessly_patient: None) -> None:
    """The worker answers the first by pressing it again: for us, in the middle of waiting for the worker."""
    report = run(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGINT, lambda *_: os.kill(os.getppid(), signal.SIGINT))\n"
        f"here()\n{ONE}{STEP}for_ever()",
        press_ctrl_c,
    )
    assert has_one(report)
    assert report.interrupted == signal.SIGINT
    assert not is_running(pid(report))


def test_a_worker_that_falls_silent_and_stays_is_ended(impatient: None) -> None:
    report = run(f"deaf()\nhere()\n{ONE}os.close(1)\nfor_ever()")
    assert has_one(report)
    assert report.troubles == ("the measuring process died with exit code -9",)
    assert not is_running(pid(report))


PARENT = """
import sys
from kvmhost.bench import session
from kvmhost.bench.wire import Plan
def progress(step):
    print(step.group, flush=True)
session.run(Plan({names!r}, "quick"), [sys.executable, "-P", "-c", sys.argv[1]], progress=progress)
"""


def test_a_worker_does_not_outlive_whoever_asked_for_it() -> None:
    program = BEGINNING + 'here()\nsay(Step(str(os.getpid()), "", 0.0))\nfor_ever()'
    parent = PARENT.format(names=NAMES)
    with subprocess.Popen(
        [sys.executable, "-P", "-c", parent, program], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        assert is_running(worker)
        process.kill()
    wait_until_gone(worker)


def test_it_has_no_input_and_the_descriptors_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as other:
        assert other.stdin is not None
        number = other.stdin.fileno()
        report = session.run(
            PLAN,
            line(
                "here()\n"
                'say(Spoiler("input", repr(sys.stdin.read()), ""))\n'
                f'say(Spoiler("pipe", os.readlink("/proc/self/fd/{number}"), ""))\n'
                'say(Spoiler("hash", os.environ["PYTHONHASHSEED"], ""))\n'
                "say(End(0.0))"
            ),
            inherited=(number,),
        )
    seen = {one.name: one.seen for one in report.spoilers}
    assert (seen["input"], seen["hash"]) == ("''", "0")
    assert seen["pipe"].startswith("pipe:")


def test_the_line_of_a_worker_has_the_plan_in_one_word() -> None:
    assert Plan.from_word(session.worker_line(PLAN)[-1]) == PLAN
