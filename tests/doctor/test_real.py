"""Real files and real processes: no device, no permission, no KVM behind the file, no compiled part."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kvmhost.doctor
from kvmhost.doctor import examine, native_verdict, render_text
from kvmhost.doctor.device import LinuxKvm

PACKAGE = Path(kvmhost.doctor.__file__).parent.parent
NOBODY = 65534


def as_nobody(ask: Callable[[], str]) -> str:
    """What `ask` says in a child that is nobody, if we are root; in one that is us, if we are not."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(writer, ask().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        words = answer.read()
    assert os.waitpid(child, 0)[1] == 0
    return words


@pytest.fixture
def forbidden() -> Iterator[Path]:
    """A file that nobody may open, in a folder that everybody may search."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        node = folder / "kvm"
        node.touch()
        node.chmod(0)
        yield node


def test_no_permission(forbidden: Path) -> None:
    words = as_nobody(lambda: render_text(examine(str(forbidden))))
    assert words.startswith("Guests cannot run on this machine.")
    assert f"may not open {forbidden} (----------" in words
    assert "next: " in words


def test_no_permission_on_this_machine_s_own_device() -> None:
    """Whatever /dev/kvm is here, nobody gets a verdict and never an exception."""
    words = as_nobody(lambda: repr(native_verdict()))
    assert words.startswith("Verdict(ok=")
    assert "Traceback" not in words


def test_this_machine_as_it_is() -> None:
    """Nothing is known about /dev/kvm here; a report holds together all the same, and nothing stays open."""
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are all that is wanted
    report = examine()
    assert report.exit_code == (0 if report.native.ok else 3)
    assert report.native.ok == native_verdict().ok
    assert report.native.ok == (
        bool(report.probes)
        and not any(probe.fatal for probe in report.probes)
        and not any(capability.missing for capability in report.capabilities)
    )
    assert report.native.reason
    assert bool(report.native.next_step) != report.native.ok
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_no_device(tmp_path: Path) -> None:
    verdict = native_verdict(str(tmp_path / "kvm"))
    assert not verdict.ok
    assert verdict.reason.startswith(f"there is no {tmp_path / 'kvm'}")
    assert verdict.next_step


def test_a_path_through_a_file_is_no_device(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "there is no" in native_verdict(str(tmp_path / "file" / "kvm")).reason


def test_no_kvm_behind_the_file(tmp_path: Path) -> None:
    (tmp_path / "kvm").touch()
    report = examine(str(tmp_path / "kvm"))
    assert report.exit_code == 3
    assert "KVM_GET_API_VERSION: ENOTTY" in report.native.reason


def test_a_folder_is_no_kvm(tmp_path: Path) -> None:
    assert "Is a directory" in native_verdict(str(tmp_path)).reason


def test_an_open_descriptor_stays_open_and_the_path_is_not_looked_at(tmp_path: Path) -> None:
    with (tmp_path / "kvm").open("w+b") as file:
        verdict = native_verdict("/nowhere/kvm", fd=file.fileno())
        assert "ENOTTY" in verdict.reason
        assert examine("/nowhere/kvm", fd=file.fileno()).native.reason == verdict.reason
        assert file.write(b"still open") == 10


def test_close_closes_once(tmp_path: Path) -> None:
    (tmp_path / "kvm").touch()
    kvm = LinuxKvm(str(tmp_path / "kvm"))
    kvm.open()
    number = kvm.fd
    kvm.close()
    kvm.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


ALONE = """
import sys
sys.path.insert(0, sys.argv[1])
import kvmhost.doctor
own = {name for name in sys.modules if name.split(".")[0] == "kvmhost"}
assert all(name == "kvmhost" or name.startswith("kvmhost.doctor") for name in own), own
others = {name.split(".")[0] for name in sys.modules} - sys.stdlib_module_names - {"kvmhost", "__main__"}
assert not others, others
assert kvmhost.__file__.startswith(sys.argv[1]), kvmhost.__file__
report = kvmhost.doctor.examine("/nowhere/kvm")
print(kvmhost.doctor.render_text(report))
sys.exit(report.exit_code)
"""


def alone(folder: Path) -> subprocess.CompletedProcess[str]:
    """The doctor from `folder`, in a Python without site-packages."""
    command = [sys.executable, "-I", "-S", "-c", ALONE, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("broken", [False, True])
def test_the_compiled_part_is_missing_or_broken(tmp_path: Path, broken: bool) -> None:
    shutil.copytree(PACKAGE, tmp_path / "kvmhost", ignore=shutil.ignore_patterns("_native*", "__pycache__"))
    if broken:
        (tmp_path / "kvmhost" / "_native.abi3.so").write_bytes(b"no ELF file")
    outcome = alone(tmp_path)
    assert outcome.returncode == 3, outcome.stderr
    assert "there is no /nowhere/kvm" in outcome.stdout
    assert outcome.stderr == ""
    load = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r});"]
    load[-1] += "import kvmhost._native"
    assert subprocess.run(load, capture_output=True, check=False).returncode != 0


def test_the_doctor_imports_nothing_else_where_it_is_installed() -> None:
    outcome = alone(PACKAGE.parent)
    assert outcome.returncode == 3, outcome.stderr
