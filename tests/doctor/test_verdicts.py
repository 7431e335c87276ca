"""The verdict on every kind of machine: what it says, what it tells to change, and the exit code."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace

import pytest
from doctor.machines import (
    AMD,
    BY_THE_MANUAL,
    IN_TCG,
    INTEL,
    LAB,
    NO_MODULE,
    SOFTWARE,
    FakeKvm,
    behaving,
    said,
    software_kvm,
)

from kvmhost.doctor import Answer, Report, Verdict, examine, native_verdict, render_text, report_to_dict
from kvmhost.doctor.ending import End, Ending
from kvmhost.doctor.facts import Cpu, Facts, Module, Node, User
from kvmhost.launcher.devices.net_user import INSTALL_LINE


def both(kvm: FakeKvm, facts: Facts) -> tuple[Report, Verdict]:
    """The whole examination and the quick one, which must agree; neither may leave the KVM open."""
    report, quick = examine(device=kvm, facts=facts), native_verdict(device=kvm, facts=facts)
    assert report.native.ok == quick.ok
    assert kvm.opened == 0
    return report, quick


def refusing(number: int) -> FakeKvm:
    return FakeKvm(opening=OSError(number, os.strerror(number)))


def failing_calls(name: str, number: int) -> FakeKvm:
    return FakeKvm(lambda guest: Ending(End.REFUSED, code=number, where=name))


# ---- it works ------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "endings", "classes", "backend"),
    [
        (AMD, BY_THE_MANUAL, ("AN",), "svm"),
        (replace(AMD, modules=(Module("kvm_amd", (("npt", "0"),)),)), BY_THE_MANUAL, ("AS",), "svm"),
        (INTEL, BY_THE_MANUAL, ("IU",), "vmx"),
        (
            replace(INTEL, modules=(Module("kvm_intel", (("ept", "Y"), ("unrestricted_guest", "N"))),)),
            BY_THE_MANUAL,
            ("IN",),
            "vmx",
        ),
        (
            replace(INTEL, modules=(Module("kvm_intel", (("ept", "N"), ("unrestricted_guest", "N"))),)),
            BY_THE_MANUAL,
            ("IS",),
            "vmx",
        ),
        (replace(INTEL, cpu=replace(INTEL.cpu, hypervisor=True)), BY_THE_MANUAL, ("IU", "NST"), "vmx"),
        (LAB, IN_TCG, ("AN", "TCG"), "svm"),
        (replace(AMD, modules=(Module("kvm_new"),)), BY_THE_MANUAL, (), "kvm_new"),
    ],
)
def test_a_kvm_that_works(
    facts: Facts, endings: dict[str, Ending], classes: tuple[str, ...], backend: str
) -> None:
    report, quick = both(FakeKvm(behaving(endings)), facts)
    assert report.native.ok
    assert report.exit_code == 0
    assert report.classes == classes
    assert report.native.backend == quick.backend == backend
    assert report.native.next_step == ""


def test_deviations_of_the_lab_and_of_real_silicon() -> None:
    lab = examine(device=FakeKvm(behaving(IN_TCG)), facts=LAB)
    masked = ("DV-01", "DV-02", "DV-03", "DV-04", "DV-05", "DV-06", "DV-10", "DV-12")
    assert lab.deviations == masked
    assert examine(device=FakeKvm(), facts=INTEL).deviations == ("DV-12",)


def test_one_odd_answer_does_not_make_silicon_tcg() -> None:
    odd = {**BY_THE_MANUAL, "PROBE-7": IN_TCG["PROBE-7"]}
    report = examine(device=FakeKvm(behaving(odd)), facts=AMD)
    assert report.classes == ("AN",)
    assert report.deviations == ("DV-02", "DV-12")


# ---- a KVM that lies -------------------------------------------------------


def test_a_software_kvm() -> None:
    report, quick = both(software_kvm(), SOFTWARE)
    assert report.exit_code == 3
    assert report.classes == ("EMU",)
    assert report.deviations == ("DV-08", "DV-09", "DV-12")
    for verdict in (report.native, quick):
        assert "kvm_pvm" in verdict.reason
        assert "32-bit paging" in verdict.reason
        assert "kvm_intel or kvm_amd" in verdict.next_step
        assert "nested" in verdict.next_step
        assert verdict.backend == ""


def test_a_software_kvm_with_a_lab() -> None:
    report = examine(device=software_kvm(), facts=SOFTWARE, lab_check=lambda: (True, "all there", ""))
    assert not report.native.ok
    assert report.exit_code == 0
    assert render_text(report).splitlines()[0].endswith("in the lab, but not natively.")


def test_a_software_kvm_without_a_lab() -> None:
    report = examine(
        device=software_kvm(), facts=SOFTWARE, lab_check=lambda: (False, "no QEMU", "apt install QEMU")
    )
    assert report.exit_code == 3
    text = render_text(report)
    assert text.splitlines()[0] == "Guests cannot run on this machine."
    assert "no QEMU" in text
    assert "apt install QEMU" in text


NEEDED = ("PROBE-2b", "PROBE-4", "PROBE-5", "PROBE-9", "CPUID", "KICK", "WP", "XD")


@pytest.mark.parametrize("number", NEEDED)
def test_each_needed_answer_decides_alone(number: str) -> None:
    report = examine(device=FakeKvm(behaving({**BY_THE_MANUAL, number: said()})), facts=AMD)
    assert not report.native.ok
    assert f"({number})" in report.native.reason
    assert report.native.next_step


@pytest.mark.parametrize("number", sorted(set(BY_THE_MANUAL) - set(NEEDED)))
def test_no_other_answer_decides(number: str) -> None:
    report = examine(device=FakeKvm(behaving({**BY_THE_MANUAL, number: said()})), facts=AMD)
    assert report.native.ok
    asked = next(probe for probe in report.probes if probe.number == number)
    assert asked.answer is not Answer.YES


def test_a_needed_capability_decides() -> None:
    report = examine(device=FakeKvm(lacking=("KVM_CAP_IRQFD",)), facts=AMD)
    assert not report.native.ok
    assert report.native.reason == "this KVM lacks KVM_CAP_IRQFD"
    assert "KVM_CAP_IRQFD" in render_text(report)


def test_another_capability_does_not() -> None:
    assert examine(device=FakeKvm(lacking=("KVM_CAP_BINARY_STATS_FD",)), facts=AMD).native.ok


@pytest.mark.parametrize("version", [11, 13, -1])
def test_another_api_version(version: int) -> None:
    report, quick = both(FakeKvm(version=version), AMD)
    assert str(version) in report.native.reason
    assert report.native == quick
    assert report.exit_code == 3
    assert report.probes == ()


# ---- it does not open ------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "reason", "step"),
    [
        (replace(NO_MODULE, cpu=Cpu(vmx=True)), "kvm_intel is not loaded", "sudo modprobe kvm_intel"),
        (replace(NO_MODULE, cpu=Cpu(svm=True)), "kvm_amd is not loaded", "sudo modprobe kvm_amd"),
        (NO_MODULE, "neither VMX nor SVM", "firmware"),
        (replace(NO_MODULE, cpu=Cpu(hypervisor=True)), "virtual machine's CPU", "nested"),
        (replace(NO_MODULE, container=True), "container", "--device /dev/kvm"),
        (replace(AMD, node=Node()), "although kvm_amd is loaded", "mknod /dev/kvm c 10 232"),
        (
            replace(NO_MODULE, holders=("vboxdrv (VirtualBox)",)),
            "vboxdrv (VirtualBox) is here",
            "stop vboxdrv",
        ),
    ],
)
def test_no_device(facts: Facts, reason: str, step: str) -> None:
    report, quick = both(refusing(errno.ENOENT), facts)
    assert report.native == quick
    assert "there is no /dev/kvm" in quick.reason
    assert reason in quick.reason
    assert step in quick.next_step
    assert report.exit_code == 3


STRANGER = User("eve", 1001, ("eve",), ("eve",))


@pytest.mark.parametrize(
    ("facts", "reason", "step"),
    [
        (replace(AMD, user=STRANGER), "eve is not in group kvm", "sudo usermod -aG kvm eve"),
        (
            replace(AMD, user=User("eve", 1001, ("eve",), ("eve", "kvm"))),
            "counts from the next log-in",
            "newgrp kvm",
        ),
        (
            replace(AMD, user=STRANGER, node=Node(mode="crw-------", owner="root", group="root")),
            "only root may",
            "with sudo",
        ),
        (
            replace(AMD, node=Node(mode="crw-r-----", owner="root", group="kvm")),
            "though in group kvm",
            "chmod g+rw /dev/kvm",
        ),
        (replace(AMD, user=STRANGER, node=Node()), "eve may not open /dev/kvm", "with sudo"),
    ],
)
def test_no_permission(facts: Facts, reason: str, step: str) -> None:
    report, quick = both(refusing(errno.EACCES), facts)
    assert report.native == quick
    assert reason in quick.reason
    assert step in quick.next_step
    assert report.exit_code == 3


@pytest.mark.parametrize(
    ("number", "reason", "step"),
    [
        (errno.EPERM, "sandbox", "container"),
        (errno.ENODEV, "no driver", "firmware"),
        (errno.ENXIO, "no driver", "firmware"),
        (errno.EBUSY, "busy", "close"),
        (errno.EMFILE, "too many files", "ulimit -n"),
        (errno.ENFILE, "too many files", "fs.file-max"),
        (errno.EINTR, "cannot be opened", "dmesg"),
    ],
)
def test_other_reasons_not_to_open(number: int, reason: str, step: str) -> None:
    verdict = native_verdict(device=refusing(number), facts=AMD)
    assert reason in verdict.reason
    assert step in verdict.next_step


def test_no_driver_in_a_virtual_machine_means_nesting() -> None:
    facts = replace(AMD, cpu=Cpu(hypervisor=True))
    assert "nested" in native_verdict(device=refusing(errno.ENODEV), facts=facts).next_step


# ---- it opens, but no VM comes of it ------------------------------------------


def test_busy_with_nobody_to_name() -> None:
    report, quick = both(failing_calls("KVM_CREATE_VM", errno.EBUSY), AMD)
    assert "another hypervisor owns" in quick.reason
    assert report.exit_code == 3
    assert report.classes == report.deviations == ()


def test_busy_names_who_holds_it() -> None:
    facts = replace(AMD, holders=("vboxdrv (VirtualBox)", "vmmon (VMware)"))
    verdict = native_verdict(device=failing_calls("KVM_CREATE_VM", errno.EBUSY), facts=facts)
    assert "vboxdrv (VirtualBox) and vmmon (VMware)" in verdict.reason
    assert "stop vboxdrv (VirtualBox) and vmmon (VMware)" in verdict.next_step


@pytest.mark.parametrize(
    ("number", "reason", "step"),
    [
        (errno.ENOMEM, "not enough memory", "ulimit"),
        (errno.EMFILE, "too many files", "ulimit -n"),
        (errno.ENFILE, "too many files", "fs.file-max"),
        (errno.ENOTTY, "too old", "Linux"),
        (errno.EINVAL, "does not accept", "Linux"),
        (errno.EPERM, "sandbox", "ioctl"),
        (errno.EIO, "dead", "dmesg"),
        (errno.EFAULT, "memory is gone", "report"),
        (errno.EAGAIN, "waits", "report"),
        (errno.ENOEXEC, "not an x86", "x86"),
        (errno.ENOSYS, "no KVM for x86", "x86"),
        (errno.EOPNOTSUPP, "cannot use", "firmware"),
        (errno.ENODEV, "cannot use", "firmware"),
        (errno.ENOSPC, "KVM_CREATE_VM failed", "dmesg"),
    ],
)
def test_a_call_that_fails(number: int, reason: str, step: str) -> None:
    verdict = native_verdict(device=failing_calls("KVM_CREATE_VM", number), facts=AMD)
    assert not verdict.ok
    assert reason in verdict.reason
    assert "KVM_CREATE_VM" in verdict.reason
    assert step in verdict.next_step


def test_another_architecture() -> None:
    report, quick = both(FakeKvm(), replace(AMD, machine="aarch64"))
    assert quick.reason == report.native.reason == "aarch64 is not an x86"


# ---- written down --------------------------------------------------------------


@pytest.mark.parametrize(
    ("kvm", "facts"),
    [(FakeKvm(), AMD), (software_kvm(), SOFTWARE), (refusing(errno.ENOENT), NO_MODULE)],
)
def test_json_carries_everything(kvm: FakeKvm, facts: Facts) -> None:
    report = examine(device=kvm, facts=facts, lab_check=lambda: (True, "all there", ""))
    back = json.loads(json.dumps(report_to_dict(report)))
    assert back["native"]["ok"] is report.native.ok
    assert back["lab"] == {"ok": True, "reason": "all there", "next_step": "", "backend": ""}
    assert back["exit_code"] == report.exit_code
    assert back["facts"]["cpu"]["vendor"] == "AuthenticAMD"
    assert [row["answer"] for row in back["probes"]] == [str(probe.answer) for probe in report.probes]
    assert all(set(row) >= {"number", "question", "detail"} for row in back["probes"])


def test_text_names_what_a_person_must_know() -> None:
    text = render_text(examine(device=software_kvm(), facts=SOFTWARE))
    for word in ("kvm_pvm", "AuthenticAMD", "a virtual machine", "Linux 6.1.0", "crw-rw---- root:kvm"):
        assert word in text
    for word in ("ada is in group kvm", "EMU", "DV-08", "PROBE-2b", "[DV-09]", "bytes cf: IRET", "NX"):
        assert word in text
    assert text == text.rstrip()


def test_text_when_nothing_is_there() -> None:
    text = render_text(examine(device=refusing(errno.ENOENT), facts=NO_MODULE))
    assert "neither kvm_intel nor kvm_amd is loaded" in text
    assert "not there" in text
    assert "PROBE" not in text


def test_the_report_tells_of_the_user_network() -> None:
    there = replace(AMD, passt="/usr/bin/passt")
    assert "user net    /usr/bin/passt\n" in render_text(examine(device=FakeKvm(), facts=there))
    missing = render_text(examine(device=FakeKvm(), facts=AMD))
    assert f"user net    no passt, which --net user needs: {INSTALL_LINE}\n" in missing
