"""Every error a user meets says its cause and a next step; no KVM is needed to know the words."""

import errno
import os
import re
from pathlib import Path

import pytest

from kvmhost._native import lib
from kvmhost.kvm import Cap, ClosedError, ExitFailEntry, ExitInternalError, Kvm, KvmError, base
from kvmhost.kvm.base import ioctl
from kvmhost.kvm.errors import explain

# (call, errno): what the cause and the next step must mention.
ROWS: list[tuple[str, int, str, str]] = [
    ("open", errno.ENOENT, "not loaded", "kvm_intel or kvm_amd"),
    ("open", errno.EACCES, "permission", "group kvm"),
    ("open", errno.EPERM, "device cgroup, seccomp", "container"),
    ("open", errno.ENODEV, "firmware", "VT-x or SVM"),
    ("open", errno.ENXIO, "firmware", "VT-x or SVM"),
    ("KVM_GET_XCRS", errno.ENOTTY, "kernel is too old", "capability"),
    ("KVM_CREATE_VM", errno.EBUSY, "another hypervisor", "stop it"),
    ("KVM_CREATE_VM", errno.ENOMEM, "memory", "ulimit"),
    ("KVM_CREATE_VM", errno.EMFILE, "descriptor", "ulimit"),
    ("KVM_RUN", errno.EFAULT, "unmapped", "keep every slot's memory mapped"),
    ("KVM_RUN", errno.EIO, "marked the VM", "kernel log"),
    ("KVM_RUN", errno.EAGAIN, "INIT and SIPI", "RUNNABLE"),
    ("KVM_RUN", errno.EINTR, "signal", "run it again"),
    ("KVM_RUN", errno.ENOEXEC, "cannot run", "x86 host"),
    ("KVM_RUN", errno.ENOSYS, "cannot run", "x86 host"),
]


@pytest.mark.parametrize(("operation", "number", "cause", "next_step"), ROWS)
def test_each_errno_is_explained(operation: str, number: int, cause: str, next_step: str) -> None:
    error = explain(operation, number)
    assert cause in error.cause and next_step in error.next_step
    assert (error.operation, error.errno) == (operation, number)
    assert errno.errorcode[number] in str(error)


@pytest.mark.parametrize("number", [errno.EXDEV, 12345])
def test_an_errno_no_row_knows_still_gets_the_systems_words(number: int) -> None:
    error = explain("KVM_GET_REGS", number)
    assert os.strerror(number) in error.cause and error.next_step


FAILURES: list[tuple[ExitFailEntry | ExitInternalError, str, str]] = [
    (ExitFailEntry(0x80000021, 0), "invalid guest state (0x80000021)", "entry_check"),
    (ExitFailEntry(0x80000022, 0), "MSR", "MSRs"),
    (ExitFailEntry(0x80000029, 0), "machine check", "kernel log"),
    (ExitFailEntry(0x80000055, 0), "unknown here (0x80000055)", "entry_check"),
    (ExitFailEntry(7, 0), "invalid control field", "KVM"),
    (ExitFailEntry(8, 0), "invalid host-state field", "KVM"),
    (ExitFailEntry(99, 0), "itself failed (0x63)", "KVM"),
    (ExitFailEntry(0xFFFFFFFF, 0), "CR0.NW without CD", "entry_check"),
    (ExitFailEntry(0xFFFFFFFFFFFFFFFF, 0), "VMEXIT_INVALID", "entry_check"),
    (ExitInternalError(1, (), b"\xcf"), "IRET in protected mode", "the lab"),
    (ExitInternalError(1, (), b"\x0f\x01"), "begins 0f 01", "entry_check"),
    (ExitInternalError(1, ()), "cannot execute the instruction", "entry_check"),
    (ExitInternalError(2, ()), "two exceptions at once", "fault handling"),
    (ExitInternalError(3, (0x80000B0E, 0x30)), "event 14", "IDT, GDT, TSS"),
    (ExitInternalError(3, ()), "an event", "IDT, GDT, TSS"),
    (ExitInternalError(4, (0x77,)), "0x77", "newer kernel"),
    (ExitInternalError(9, ()), "suberror 9", "kernel log"),
]


@pytest.mark.parametrize(("stop", "cause", "next_step"), FAILURES)
def test_failures_to_run_are_explained(
    stop: ExitFailEntry | ExitInternalError, cause: str, next_step: str
) -> None:
    assert cause in stop.explanation.cause
    assert next_step in stop.explanation.next_step


def test_a_missing_device_is_explained(tmp_path: Path) -> None:
    with pytest.raises(KvmError, match="the kvm module is not loaded"):
        Kvm(str(tmp_path / "kvm"))


def test_the_wrong_kind_of_descriptor_is_explained() -> None:
    with Path(os.devnull).open() as null, pytest.raises(KvmError) as caught:
        ioctl(null.fileno(), "KVM_GET_REGS", 0)
    assert caught.value.errno == errno.ENOTTY


class Signalled:
    """A kernel that a signal disturbs twice: each ioctl fails with EINTR first."""

    def __init__(self) -> None:
        self.calls = 0

    def __getattr__(self, name: str) -> int:
        return int(getattr(lib, name))

    def kvmhost_ioctl_number(self, fd: int, request: int, argument: int) -> int:
        self.calls += 1
        return -errno.EINTR if self.calls < 3 else 77


def test_only_what_is_documented_is_tried_again_after_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "lib", kernel := Signalled())
    assert ioctl(0, "KVM_CREATE_VM", 0, retry=True) == 77
    assert kernel.calls == 3
    monkeypatch.setattr(base, "lib", kernel := Signalled())
    with pytest.raises(KvmError, match="EINTR"):
        ioctl(0, "KVM_NMI", 0)
    assert kernel.calls == 1


def test_a_closed_object_names_itself() -> None:
    assert "Vcpu: it is closed" in str(ClosedError("Vcpu"))


def test_capabilities_have_the_kernels_numbers() -> None:
    """Against the kernel's own header, which the compiled part was built from, where it is installed."""
    header = Path("/usr/include/linux/kvm.h").read_text()
    numbers = {name: int(value) for name, value in re.findall(r"#define KVM_CAP_(\w+)\s+(\d+)\b", header)}
    assert {cap.name: cap.value for cap in Cap} == {cap.name: numbers[cap.name] for cap in Cap}
    assert len(Cap) > 90


def test_the_most_used_ioctls_have_the_abis_numbers() -> None:
    """KVM's ABI cannot change: its oldest numbers, computed by hand from _IO(0xAE, n) and friends."""
    assert (lib.KVM_GET_API_VERSION, lib.KVM_CREATE_VM, lib.KVM_RUN) == (0xAE00, 0xAE01, 0xAE80)
    assert (lib.KVM_GET_REGS, lib.KVM_SET_REGS) == (0x8090AE81, 0x4090AE82)
    assert (lib.KVM_GET_SREGS, lib.KVM_SET_SREGS) == (0x8138AE83, 0x4138AE84)
