"""--net on the command line: what is refused before anything runs, and what a lab is given."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli.elves import elf

import kvmhost.lab
from kvmhost.cli import main
from kvmhost.cli.failures import HOST_CANNOT, USAGE
from kvmhost.launcher.devices import net_spec, net_tap, net_user


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "guest.elf"
    path.write_bytes(elf(b"\xf4"))
    return str(path)


@pytest.fixture
def labs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What labs were asked to have, each of which ends with 42."""
    asked: list[dict[str, Any]] = []

    def run(argv: list[str], **rest: Any) -> int:
        asked.append(rest)
        return 42

    monkeypatch.setattr(kvmhost.lab, "run", run)
    monkeypatch.setattr("kvmhost.launcher.privileges.settle", lambda user: _Nobody())
    monkeypatch.delenv("KVMHOST_IN_LAB", raising=False)
    return asked


class _Nobody:
    remark = None
    account = None


def fake_tap(name: str) -> int:
    return os.open("/dev/null", os.O_RDWR)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tap"], "no kind of network"),
        (["tap="], "1 to 15 bytes"),
        (["tap=sixteen-letters!"], "1 to 15 bytes"),
        (["tap=a/b"], "no space, slash"),
        (["tap=..", ""], "no space, slash"),
        (["bridge"], "'bridge' is no kind of network"),
        ([""], "'nothing' is no kind of network"),
        (["user,mac=1"], "six bytes"),
        (["user,mac=03:00:00:00:00:01"], "first byte must be even"),
        (["user,mac=00:00:00:00:00:00"], "single card"),
        (["user,speed=9"], "'speed=9' is no option"),
        (["user,mac=02:00:00:00:00:01,mac=02:00:00:00:00:02"], "twice"),
        (["tap=t0", "tap=t0"], "room for one card"),
        (["user,mac=02:00:00:00:00:01", "tap=t0,mac=02:00:00:00:00:01"], "one address"),
    ],
)
def test_what_is_no_network(
    image: str, labs: list[Any], capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    options = [part for word in words for part in ("--net", word)]
    assert main(["run", image, "--backend", "lab", *options]) == USAGE
    error = capsys.readouterr().err
    assert told in error
    assert "what to do: " in error
    assert labs == []


def test_a_lab_for_the_user_network_has_one(image: str, labs: list[dict[str, Any]]) -> None:
    assert main(["run", image, "--backend", "lab", "--net", "user"]) == 42
    assert main(["run", image, "--backend", "lab"]) == 42
    with_net, without = labs
    assert with_net["network"] is True
    assert with_net["env"][net_user.GATEWAY_OUTSIDE] == "1"
    assert without["network"] is False
    assert net_user.GATEWAY_OUTSIDE not in without["env"]


def test_the_lab_cannot_reach_a_tap(
    image: str, labs: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(net_spec, "open_tap", fake_tap)
    assert main(["run", image, "--backend", "lab", "--net", "tap=t0"]) == USAGE
    error = capsys.readouterr().err
    assert "the lab cannot reach the TAP t0" in error
    assert "use --net user" in error
    assert "t0 is switched off: ip link set t0 up" in error
    assert labs == []


def test_passt_is_missing(
    image: str,
    labs: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["run", image, "--backend", "lab", "--net", "user"]) == HOST_CANNOT
    error = capsys.readouterr().err
    assert "passt is not installed" in error
    assert net_user.INSTALL_LINE in error
    assert labs == []


def refusing(number: int) -> Callable[..., int]:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize(
    ("call", "number", "name", "told"),
    [
        ("open", 2, "t0", "modprobe tun"),
        ("open", 19, "t0", "modprobe tun"),
        ("open", 13, "t0", "start kvmhost with sudo, or use --net user"),
        ("open", 24, "t0", "Too many open files"),
        ("ioctl", 16, "t0", "another program uses it already"),
        ("ioctl", 1, "lo", "it belongs to somebody else"),
        ("ioctl", 1, "t0", "there is none of that name"),
        ("ioctl", 22, "lo", "it is no TAP with a single queue"),
        ("ioctl", 22, "t0", "Invalid argument"),
    ],
)
def test_a_tap_that_cannot_be_had(
    image: str,
    labs: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    call: str,
    number: int,
    name: str,
    told: str,
) -> None:
    stand_in = os.open("/dev/null", os.O_RDWR)
    monkeypatch.setattr(net_tap, "_open_device", refusing(number) if call == "open" else lambda: stand_in)
    monkeypatch.setattr(net_tap.fcntl, "ioctl", refusing(number))
    code = main(["run", image, "--backend", "lab", "--net", f"tap={name}"])
    monkeypatch.undo()
    assert code == HOST_CANNOT
    assert told in capsys.readouterr().err
    assert labs == []
    if call == "open":
        os.close(stand_in)
    else:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(stand_in)
