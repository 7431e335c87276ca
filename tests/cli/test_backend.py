"""Where a command runs, who decides, and in which order things happen on the way there."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from cli.elves import elf

import kvmhost.cli
import kvmhost.cli.backend
import kvmhost.doctor
import kvmhost.lab
import kvmhost.lab.qemu
from kvmhost.cli import main
from kvmhost.cli.failures import DONE, HOST_CANNOT
from kvmhost.cli.opened import Opened
from kvmhost.doctor import Verdict

SOMEBODY = pwd.getpwnam("daemon")
BAD = Verdict(False, "this KVM is made of straw", "build one of bricks")
GOOD = Verdict(True, "all probe Guests came back")


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "guest.elf"
    path.write_bytes(elf(b"\xf4"))
    return str(path)


@pytest.fixture
def labs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were sent to a lab that ends each with 42."""
    sent: list[list[str]] = []

    def run(argv: list[str], **rest: Any) -> int:
        sent.append(argv)
        return 42

    monkeypatch.setattr(kvmhost.lab, "run", run)
    monkeypatch.delenv("KVMHOST_IN_LAB", raising=False)
    return sent


@pytest.fixture
def boots(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The /dev/kvm descriptors that Guests were booted on, instead of booting them."""
    from kvmhost.cli import boot

    booted: list[int | None] = []

    def boot_nothing(arguments: object, opened: Opened, trace: object = None) -> int:
        booted.append(opened.device)
        return DONE

    monkeypatch.setattr(boot, "boot", boot_nothing)
    return booted


def say(verdict: Verdict, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the doctor says this."""
    monkeypatch.setattr(kvmhost.doctor, "native_verdict", lambda *_, **__: verdict)


def lines_about_the_lab(err: str) -> list[str]:
    return [line for line in err.splitlines() if "lab" in line]


def test_native_when_it_works(
    image: str,
    labs: list[list[str]],
    boots: list[int | None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    say(GOOD, monkeypatch)
    assert main(["run", image]) == DONE
    assert (len(boots), labs) == (1, [])
    assert lines_about_the_lab(capfd.readouterr().err) == []


def test_the_lab_when_native_cannot_work(
    image: str,
    labs: list[list[str]],
    boots: list[int | None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    say(BAD, monkeypatch)
    words = ["run", image, "--memory", "32M", "--stats"]
    assert main(words) == 42
    assert labs == [[sys.executable, "-P", "-m", "kvmhost", *words]]
    assert boots == []
    assert lines_about_the_lab(capfd.readouterr().err) == [
        "kvmhost: running in the lab, because native cannot work: this KVM is made of straw"
    ]


def test_native_by_hand_is_an_error_when_it_cannot_work(
    image: str, labs: list[list[str]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    say(BAD, monkeypatch)
    assert main(["run", image, "--backend", "native"]) == HOST_CANNOT
    err = capfd.readouterr().err
    assert "this KVM is made of straw" in err
    assert "build one of bricks" in err
    assert labs == []


def test_the_lab_by_hand_says_so(
    image: str, labs: list[list[str]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    say(GOOD, monkeypatch)
    assert main(["run", image, "--backend", "lab"]) == 42
    assert len(labs) == 1
    assert len(lines_about_the_lab(capfd.readouterr().err)) == 1


@pytest.mark.parametrize("backend", ["auto", "native", "lab"])
def test_inside_the_lab_nobody_goes_to_the_lab(
    backend: str,
    image: str,
    labs: list[list[str]],
    boots: list[int | None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    say(BAD, monkeypatch)
    monkeypatch.setenv("KVMHOST_IN_LAB", "1")
    kernels(f"quiet {kvmhost.lab.qemu.LAB_MARK}", tmp_path, monkeypatch)
    assert main(["run", image, "--backend", backend]) == DONE
    assert (len(boots), labs) == (1, [])
    assert capfd.readouterr().err == ""


def test_a_variable_alone_does_not_make_a_lab(
    image: str,
    labs: list[list[str]],
    boots: list[int | None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Believed, it would keep a kvmhost that sudo started root."""
    say(BAD, monkeypatch)
    monkeypatch.setenv("KVMHOST_IN_LAB", "1")
    kernels("quiet", tmp_path, monkeypatch)
    assert main(["run", image]) == 42
    assert (boots, len(labs)) == ([], 1)
    assert "KVMHOST_IN_LAB" not in os.environ


def kernels(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the kernel was started with this line."""
    (folder / "cmdline").write_text(f"{line}\n")
    monkeypatch.setattr(kvmhost.cli.backend, "KERNEL_COMMAND_LINE", folder / "cmdline")


def test_lab_run_passes_the_command_and_its_exit_code_through(labs: list[list[str]]) -> None:
    assert main(["lab", "run", "--timeout", "5", "--", "ls", "-la", "--", "x"]) == 42
    assert labs == [["ls", "-la", "--", "x"]]


def test_a_lab_that_cannot_be_is_this_hosts_fault(
    image: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object, **__: object) -> int:
        raise kvmhost.lab.LabError("QEMU is not installed", next_step="apt-get install it", log="last words")

    say(BAD, monkeypatch)
    monkeypatch.delenv("KVMHOST_IN_LAB", raising=False)
    monkeypatch.setattr(kvmhost.lab, "run", run)
    assert main(["run", image]) == HOST_CANNOT
    err = capfd.readouterr().err
    assert err.endswith("  | last words\nkvmhost: QEMU is not installed\n  what to do: apt-get install it\n")


def test_the_doctor_is_asked_about_the_lab_too(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KVMHOST_IN_LAB", raising=False)
    status = kvmhost.lab.LabStatus("/usr/bin/qemu", None, ("no kernel",), "fetch one")
    monkeypatch.setattr(kvmhost.lab, "check", lambda: status)
    code = main(["doctor", "--json"])
    told = json.loads(capfd.readouterr().out)
    assert (told["lab"]["ok"], told["lab"]["reason"], told["lab"]["next_step"]) == (
        False,
        "no kernel",
        "fetch one",
    )
    assert code == told["exit_code"] == (DONE if told["native"]["ok"] else HOST_CANNOT)


def test_version_names_program_backend_and_blobs(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == DONE
    out = capfd.readouterr().out
    assert re.match(r"kvmhost \d+\.\d+\.\d+\nbackend +(vmx|svm|lab|none)\b", out)
    blobs = Path(kvmhost.cli.__file__).parents[1] / "data" / "switcher"
    for name in ("seed", "hardened", "host"):
        digest = hashlib.sha256((blobs / f"{name}.bin").read_bytes()).hexdigest()
        assert re.search(rf"^{name} +sha256 {digest[:12]}$", out, re.M)


#: What kvmhost does between root and the lab, seen from the places it calls.
CHILD = """
import json, os, sys
import kvmhost.cli.boot, kvmhost.doctor, kvmhost.lab, kvmhost.launcher.boot, kvmhost.launcher.remarks
from kvmhost.cli import main
from kvmhost.launcher import images
from kvmhost.launcher.privileges import Ids
from kvmhost.switcher import load

load("hardened")  # so that it is read already: this installation, too, may be root's alone
image = sys.argv[1]
order = []

def note(what):
    ids = Ids.now()
    order.append([what, ids.uids, ids.gids, list(ids.groups)])

def open_image(name, really=images.open_image):
    note("open")
    return really(name)

def read(self, really=images.OpenImage.read):
    note("read")
    return really(self)

def verdict(path, *, fd):
    note("verdict")
    order.append(["descriptor", fd is not None])
    return kvmhost.doctor.Verdict(False, "straw")

def run(argv, **rest):
    note("lab")
    return 0

images.open_image, images.OpenImage.read = open_image, read
kvmhost.doctor.native_verdict, kvmhost.lab.run = verdict, run
os.access = lambda *_: True  # this Python may lie where only root can read; it has been imported already
code = main(["run", image])
print(json.dumps([code, order]))
"""


def test_images_are_opened_as_root_and_read_as_the_user() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        image = Path(folder) / "guest.elf"
        image.write_bytes(elf(b"\xf4"))
        child = subprocess.run(
            [sys.executable, "-P", "-c", CHILD, str(image)],
            env={k: v for k, v in os.environ.items() if k != "KVMHOST_IN_LAB"}
            | {"SUDO_UID": str(SOMEBODY.pw_uid), "SUDO_GID": str(SOMEBODY.pw_gid)},
            capture_output=True,
            text=True,
            check=True,
        )
    code, order = json.loads(child.stdout)
    assert code == DONE
    assert [step[0] for step in order] == ["open", "read", "verdict", "descriptor", "open", "lab"]
    if os.geteuid():
        assert {tuple(step[1]) for step in order if len(step) == 4} == {os.getresuid()}
        return
    groups = sorted(set(os.getgrouplist(SOMEBODY.pw_name, SOMEBODY.pw_gid)))
    user = [[SOMEBODY.pw_uid] * 3, [SOMEBODY.pw_gid] * 3, groups]
    assert order[0][1] == [0, 0, 0]
    assert [step[1:] for step in order[1:] if len(step) == 4] == [user] * 4


def test_an_image_only_root_can_open_does_not_go_to_the_lab() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        image = Path(folder) / "guest.elf"
        image.write_bytes(elf(b"\xf4"))
        image.chmod(0o600 if os.geteuid() == 0 else 0)
        child = subprocess.run(
            [sys.executable, "-P", "-c", CHILD, str(image)],
            env={k: v for k, v in os.environ.items() if k != "KVMHOST_IN_LAB"}
            | {"SUDO_UID": str(SOMEBODY.pw_uid), "SUDO_GID": str(SOMEBODY.pw_gid)},
            capture_output=True,
            text=True,
            check=True,
        )
    code, order = json.loads(child.stdout)
    assert code == 2
    assert "lab" not in [step[0] for step in order]
    assert "cannot open" in child.stderr or "cannot be opened" in child.stderr
