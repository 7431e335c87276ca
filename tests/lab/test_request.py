"""What cannot work is said before anything is started."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kvmhost.lab import IN_LAB, LabError, run
from kvmhost.lab.job import Job
from kvmhost.lab.request import cached_folders, check_reachable, find_program, writable_folders


def test_a_command_that_does_not_exist(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["no-such-command"]) == 127
    assert run(["./no-such-file"], cwd=tmp_path) == 127
    assert "no-such-command: command not found" in capfd.readouterr().err


def test_a_command_that_is_not_executable(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    assert run(["./text"], cwd=tmp_path) == 126
    assert run(["/"]) == 126
    assert "./text: not executable" in capfd.readouterr().err


def test_where_a_program_is_found(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "it").write_text("")
        (tmp_path / folder / "it").chmod(0o755)
    path = {"PATH": f"{tmp_path}/none:{tmp_path}/two:{tmp_path}/one"}
    assert find_program(["it"], path, "/") == f"{tmp_path}/two/it"
    assert find_program(["one/it"], path, str(tmp_path)) == f"{tmp_path}/one/it"
    assert find_program([f"{tmp_path}/one/it"], {}, "/") == f"{tmp_path}/one/it"
    # A relative PATH counts from the folder of the command, as it would inside.
    assert find_program(["it"], {"PATH": "one"}, str(tmp_path)) == f"{tmp_path}/one/it"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"memory": "0M"}, "memory"),
        ({"memory": "1T"}, "memory"),
        ({"memory": "1G,slots=2"}, "memory"),
        ({"cpus": 0}, "0 CPUs"),
        ({"cpus": 65}, "65 CPUs"),
        ({"writable": ["/no/such/folder"]}, "no folder"),
        ({"writable": ["/"]}, "no folder"),
        ({"writable": [sys.executable]}, "no folder"),
        ({"argv": []}, "no command"),
        ({"env": {IN_LAB: "1", "PATH": "/bin"}}, "this is the lab already"),
    ],
)
def test_wrong_requests(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(LabError, match=told) as caught:
        run(**{"argv": ["true"], **wrong})  # type: ignore[arg-type]
    assert caught.value.next_step


def test_which_folders_are_written_back(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "inner")
    assert writable_folders(None, str(tmp_path)) == [tmp_path]
    assert writable_folders(None, "/") == []
    assert writable_folders(None, "/proc") == []
    assert writable_folders([], str(tmp_path)) == []
    twice = [tmp_path / "inner", tmp_path / "link", str(tmp_path)]
    assert writable_folders(twice, "/") == [tmp_path, tmp_path / "inner"]


def test_our_own_environment_is_not_written_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/usr/lib")
    assert cached_folders([Path("/usr")]) == [Path("/usr/lib")]
    assert cached_folders([Path("/home")]) == []
    assert cached_folders([Path("/usr/lib")]) == []
    # Unless somebody names a folder inside it.
    assert cached_folders([Path("/usr"), Path("/usr/lib/x")]) == []


def test_a_folder_that_qemu_cannot_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may read everything, so the answer of a less powerful user is played.
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path.parent)
    check_reachable(tmp_path.parent.parent)
    with pytest.raises(LabError, match=f"may not read {tmp_path.parent}"):
        check_reachable(tmp_path)


def job(**changes: object) -> Job:
    plain: dict[str, object] = {
        "program": "/bin/a",
        "arguments": ["a", "b c"],
        "environment": {"X": "ä=1"},
        "folder": "/f",
        "writable": [Path("/w")],
    }
    return Job(**{**plain, **changes})  # type: ignore[arg-type]


def test_how_a_job_is_packed() -> None:
    packed = job(channels=3).packed()
    line, _, fields = packed.partition(b"\n")
    assert line == b"job %d" % len(fields)
    assert fields.endswith(
        b"\x000\x000\x000\x0024\x0080\x003\x001\0/w\x000\0/f\0/bin/a\x001\0X=\xc3\xa4=1\x002\0a\0b c\0"
    )


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("arguments", ["x"] * 16385),
        ("channels", 21),
        ("environment", {f"X{i}": "" for i in range(16385)}),
        ("writable", [Path(f"/{i}") for i in range(33)]),
        ("program", "/" + "x" * (2 << 20)),
    ],
)
def test_a_job_that_is_too_large(part: str, value: object) -> None:
    with pytest.raises(LabError, match="too"):
        job(**{part: value}).packed()
