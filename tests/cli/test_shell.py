"""The shell at an unhandled trap: what is bound in it, and the two ways out."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.elves import BEGIN, SHUTDOWN, TEXT, hypercall, run

from kvmhost.cli.failures import DONE, GUEST_FAILED
from kvmhost.cli.shell import converse
from kvmhost.host.errors import GuestBroke


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


def typed(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the person types, and then Ctrl-D."""
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_the_end_of_input_lets_the_host_decide(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed("print(trap + 1)\n", monkeypatch)
    assert converse({"trap": 41}, "hello", "unhandled trap 6") is False
    out, err = capsys.readouterr()
    assert "42" in out
    assert "hello: unhandled trap 6" in err


def test_resume_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    typed("resume()\nraise SystemError\n", monkeypatch)
    assert converse({}, "hello", "unhandled trap 6") is True


def test_a_mistake_in_the_shell_is_shown_and_forgiven(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed("1 / 0\nresume()\n", monkeypatch)
    assert converse({}, "hello", "unhandled trap 6") is True
    assert "ZeroDivisionError" in capsys.readouterr().err


UD2 = b"\x0f\x0b"
SURVIVOR = BEGIN + UD2 + hypercall(SHUTDOWN, TEXT, 1)


@pytest.mark.lab
def test_a_guest_can_be_helped_over_its_trap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    typed("print(trap.kind.name, guest.name, len(machine.cpus))\ntrap.regs.eip += 2\nresume()\n", monkeypatch)
    assert run(tmp_path, "trips", SURVIVOR, "--shell") == DONE
    out, err = capfd.readouterr()
    assert "INVALID_OPCODE trips 1" in out
    assert "trips: unhandled trap 6" in err


@pytest.mark.lab
def test_a_guest_that_is_not_helped_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    typed("", monkeypatch)
    assert run(tmp_path, "trips", SURVIVOR, "--shell") == GUEST_FAILED
    assert "trips killed: unhandled trap 6" in capfd.readouterr().err


def test_killing_in_the_shell_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill() -> None:
        raise GuestBroke("enough")

    typed("kill()\nraise SystemError\n", monkeypatch)
    with pytest.raises(GuestBroke, match="enough"):
        converse({"kill": kill}, "hello", "unhandled trap 6")


def test_exit_means_the_end_of_input(monkeypatch: pytest.MonkeyPatch) -> None:
    typed("raise SystemExit(7)\n", monkeypatch)
    assert converse({}, "hello", "unhandled trap 6") is False


def test_ctrl_c_means_the_line_and_not_the_guest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: stopped.append(number))
    typed("import signal\nsignal.raise_signal(signal.SIGINT)\nprint(6 * 7)\n", monkeypatch)
    try:
        assert converse({}, "hello", "unhandled trap 6") is False
    finally:
        signal.signal(signal.SIGINT, before)
    out, err = capsys.readouterr()
    assert "KeyboardInterrupt" in err
    assert "42" in out
    assert stopped == []


@pytest.mark.lab
def test_a_guest_dies_of_what_the_person_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    typed("1 / 0\ntrap.kill('enough')\n", monkeypatch)
    assert run(tmp_path, "trips", SURVIVOR, "--shell") == GUEST_FAILED
    err = capfd.readouterr().err
    assert "trips killed: enough" in err
    assert "another exception occurred" not in err
