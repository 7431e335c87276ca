"""What is missing is said with one line that, run as it stands, provides it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from lab.things import KERNEL_FILES, PACKAGE, PACKAGE_FILE, debian_package, program

from kvmhost.lab import LabError, check, run

ROOT = "" if os.geteuid() == 0 else "sudo "
QEMU_LINE = f"{ROOT}apt-get install --no-install-recommends qemu-system-x86"


@pytest.fixture
def debian(programs: Path) -> Path:
    """A Debian with package lists and nothing else."""
    program(programs, "apt-get", "exit 100")
    program(programs, "apt-cache", f"echo linux-image-amd64; echo '  Depends: {PACKAGE}'")
    return programs


def test_nothing_is_there(cache: Path, debian: Path) -> None:
    status = check()
    assert not status.ready
    assert (status.qemu, status.kernel) == (None, None)
    assert status.missing == ("qemu-system-x86_64 is not installed", "the lab has no kernel to boot")
    fetch = f"mkdir -p {cache} && cd {cache} && apt-get download {PACKAGE}"
    assert status.next_step == f"{QEMU_LINE} && {fetch}"


def test_the_line_that_fetches_a_kernel_provides_it(cache: Path, debian: Path, tmp_path: Path) -> None:
    program(debian, "qemu-system-x86_64", "")
    status = check()
    assert status.missing == ("the lab has no kernel to boot",)
    package = debian_package(tmp_path / PACKAGE_FILE, KERNEL_FILES)
    program(debian, "apt-get", f'[ "$*" = "download {PACKAGE}" ] && exec /bin/cp {package} .')
    program(debian, "mkdir", 'exec /bin/mkdir "$@"')
    subprocess.run(["/bin/sh", "-c", status.next_step], check=True)
    status = check()
    assert status.ready
    assert status.qemu == str(debian / "qemu-system-x86_64")
    assert status.kernel == f"{PACKAGE} 6.1.7-1"
    assert (status.missing, status.next_step) == ((), "")


def test_package_lists_come_first(cache: Path, debian: Path) -> None:
    program(debian, "apt-cache", "echo 'E: No packages found' >&2; exit 100")
    program(debian, "qemu-system-x86_64", "")
    assert check().next_step.startswith(f"{ROOT}apt-get update && mkdir -p {cache} && cd {cache} && ")


def test_another_distribution(cache: Path, programs: Path) -> None:
    status = check()
    assert "package manager" in status.next_step
    assert f"(.deb) into {cache}" in status.next_step


def test_running_says_the_same(cache: Path, debian: Path) -> None:
    program(debian, "true", "")
    with pytest.raises(LabError, match="qemu-system-x86_64 is not installed") as caught:
        run(["true"])
    assert caught.value.next_step == QEMU_LINE
    program(debian, "qemu-system-x86_64", "exit 1")
    with pytest.raises(LabError, match="no kernel") as caught:
        run(["true"])
    assert caught.value.next_step == f"mkdir -p {cache} && cd {cache} && apt-get download {PACKAGE}"


def test_a_qemu_that_fails(cache: Path, debian: Path) -> None:
    cache.mkdir(parents=True)
    debian_package(cache / PACKAGE_FILE, KERNEL_FILES)
    program(debian, "true", "")
    program(debian, "qemu-system-x86_64", "echo 'qemu: no such machine' >&2; exit 1")
    with pytest.raises(LabError, match="the lab died") as caught:
        run(["true"])
    assert caught.value.log == "qemu: no such machine\n"
    assert "qemu: no such machine" in str(caught.value)
