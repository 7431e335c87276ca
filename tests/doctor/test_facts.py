"""What is read about a machine, from a tree of files that is planted."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

import pytest

from kvmhost.doctor.facts import Facts, gather

CPUINFO = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) CPU @ 2.20GHz
flags\t\t: fpu vme {flags} nx

processor\t: 1
vendor_id\t: GenuineIntel
flags\t\t: svm vmx hypervisor
"""


def plant(root: Path, files: dict[str, str]) -> Facts:
    for name, text in files.items():
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return gather(root=root)


def test_an_empty_tree_is_no_error(tmp_path: Path) -> None:
    facts = plant(tmp_path, {})
    assert (facts.cpu.vendor, facts.modules, facts.holders, facts.container) == ("", (), (), False)
    assert facts.module is None
    assert facts.kernel == os.uname().release


def test_the_first_cpu_counts(tmp_path: Path) -> None:
    cpu = plant(tmp_path, {"proc/cpuinfo": CPUINFO.format(flags="vmx")}).cpu
    assert cpu.vendor == "GenuineIntel"
    assert cpu.model == "Intel(R) Xeon(R) CPU @ 2.20GHz"
    assert (cpu.vmx, cpu.svm, cpu.hypervisor) == (True, False, False)
    assert plant(tmp_path, {"proc/cpuinfo": CPUINFO.format(flags="hypervisor")}).cpu.hypervisor


def test_the_module_and_its_parameters(tmp_path: Path) -> None:
    facts = plant(
        tmp_path,
        {
            "sys/module/kvm/parameters/force_emulation_prefix": "0\n",
            "sys/module/kvm_intel/parameters/ept": "Y\n",
            "sys/module/kvm_intel/parameters/unrestricted_guest": "N\n",
            "sys/module/kvm_intel/parameters/ple_gap": "128\n",
        },
    )
    assert facts.module is not None
    assert facts.module.name == "kvm_intel"
    assert facts.module.enabled("ept") is True
    assert facts.module.enabled("unrestricted_guest") is False
    assert facts.module.enabled("npt") is None
    assert "ple_gap" not in dict(facts.module.parameters)


@pytest.mark.parametrize(
    ("names", "module"),
    [
        (["kvm"], None),
        (["kvm", "kvm_pvm"], "kvm_pvm"),
        (["kvm", "kvm_pvm", "kvm_amd"], "kvm_amd"),
        (["kvm", "kvm_amd", "kvm_intel"], "kvm_intel"),
    ],
)
def test_which_module_does_the_work(tmp_path: Path, names: list[str], module: str | None) -> None:
    facts = plant(tmp_path, {f"sys/module/{name}/refcnt": "0" for name in names})
    assert (facts.module.name if facts.module else None) == module


def test_who_holds_the_cpu(tmp_path: Path) -> None:
    facts = plant(
        tmp_path,
        {
            "proc/modules": "vmmon 159744 0 - Live 0x0\nnothing 1 0 - Live 0x0\n",
            "sys/module/vboxdrv/initstate": "live\n",
        },
    )
    assert facts.holders == ("vboxdrv (VirtualBox)", "vmmon (VMware)")


@pytest.mark.parametrize("mark", [".dockerenv", "run/.containerenv", "run/systemd/container"])
def test_containers(tmp_path: Path, mark: str) -> None:
    assert plant(tmp_path, {mark: ""}).container


def test_the_node_and_the_user(tmp_path: Path) -> None:
    node = tmp_path / "kvm"
    node.touch(mode=0o640)
    facts = gather(str(node), tmp_path)
    owner = node.stat()
    assert facts.node.exists
    assert facts.node.mode == "-rw-r-----"
    assert facts.node.owner == pwd.getpwuid(owner.st_uid).pw_name
    assert facts.node.group == grp.getgrgid(owner.st_gid).gr_name
    assert facts.user.name == pwd.getpwuid(os.geteuid()).pw_name
    assert grp.getgrgid(os.getegid()).gr_name in facts.user.groups


def test_ids_without_a_name_are_shown_as_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(grp, "getgrgid", unknown)
    facts = gather(str(tmp_path), tmp_path)
    assert facts.user.name == str(os.geteuid())
    assert facts.user.entitled == ()
    assert facts.node.group == str(tmp_path.stat().st_gid)


def test_the_user_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`--net user` needs a program that not everybody has; a file that cannot be run is none."""
    program = tmp_path / "passt"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gather().passt == ""
    program.write_text("#!/bin/sh")
    assert gather().passt == ""
    program.chmod(0o755)
    assert gather().passt == str(program)
