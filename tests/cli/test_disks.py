"""--block: what is refused before anything runs, and a disk's way into the lab."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmhost.cli import main
from kvmhost.cli.failures import DONE, USAGE
from kvmhost.launcher.devices.claim import Disk
from kvmhost.launcher.devices.disk import FileDisk

#: Much longer than a lab ever takes: only a hang reaches it.
PATIENCE = 120


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(64 << 10))
    return path


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    """No disk stays open, so none stays locked, however the command ends."""
    before = sorted(path.name for path in Path("/proc/self/fd").iterdir())
    yield
    assert sorted(path.name for path in Path("/proc/self/fd").iterdir()) == before


def refused(capfd: pytest.CaptureFixture[str], *disks: str) -> str:
    """What is said when these disks are not taken."""
    options = [word for disk in disks for word in ("--block", disk)]
    assert main(["run", "hello", *options]) == USAGE
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert "what to do:" in captured.err
    return captured.err


def test_disks_that_are_none(tmp_path: Path, image: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "no disk was named" in refused(capfd, "")
    assert "no disk was named" in refused(capfd, ",ro")
    assert f"there is no disk {tmp_path}/missing" in refused(capfd, f"{tmp_path}/missing,ro")
    assert "a folder" in refused(capfd, f"{image}", str(tmp_path))
    image.write_bytes(bytes(1000))
    assert "truncate -s 1024" in refused(capfd, str(image))


def test_the_same_file_twice(image: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = image.with_name("other.img")
    other.symlink_to(image)
    assert "this very process" in refused(capfd, str(image), str(other))
    assert "this very process" in refused(capfd, f"{image},ro", str(image))


def test_somebody_elses_disk(image: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with FileDisk.open(Disk(image, readonly=True)):
        assert f"{image} is another Guest's disk" in refused(capfd, str(image))
    with FileDisk.open(Disk(image)):
        assert f"{image} is being written to" in refused(capfd, f"{image},ro")


def test_a_disk_goes_to_the_lab_and_is_one_guests_meanwhile(image: Path) -> None:
    again = image.with_name("again.img")
    os.link(image, again)
    line = [sys.executable, "-P", "-m", "kvmhost", "run", "hello", "--backend", "lab", "--block"]
    with subprocess.Popen(
        [*line, str(image)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as lab:
        assert lab.stderr is not None
        # It says so once all disks are open, and then needs seconds.
        while "running in the lab" not in (said := lab.stderr.readline()):
            assert said, "no lab was started"
        second = subprocess.run(
            [*line, str(again)], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        out, err = lab.communicate(timeout=PATIENCE)
    assert second.returncode == USAGE
    assert f"process {lab.pid} (" in second.stderr
    assert lab.returncode == DONE, err
    assert "hello" in out.lower()
    FileDisk.open(Disk(image)).close()
