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
