"""Where figures come from is told completely, and what a machine does not tell is unknown."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from bench.trees import CPU, plant, plant_files

from kvmhost.bench import provenance
from kvmhost.bench.sysfs import UNKNOWN, Sys, cpu_list


@pytest.fixture(autouse=True)
def no_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KVMHOST_IN_LAB", raising=False)


def test_everything_that_moves_a_figure(tmp_path: Path) -> None:
    found = provenance.gather(plant(tmp_path), cpu=1, tsc_hz=2_450_000_000, icount=True)
    assert (found.backend, found.cpu, found.microcode) == (
        "svm",
        "AMD EPYC 7B13 64-Core Processor",
        "0xa0011d5",
    )
    assert (found.kernel, found.tsc_hz, found.icount) == ("6.12.1-amd64 #1 SMP Debian", 2_450_000_000, True)
    assert datetime.fromisoformat(found.made).tzinfo is not None
    wanted = {
        "mitigation meltdown": "Not affected",
        "mitigation retbleed": "Mitigation: untrained",
        "kvm halt_poll_ns": "200000",
        "kvm_amd npt": "Y",
        "kvm_amd source": "ABCDEF",
        "kvm source": UNKNOWN,
        "governor": "performance",
        "turbo": "off",
        "smt": "1",
        "clocksource": "tsc",
        "cpus online": "0-3",
        "cpus isolated": UNKNOWN,
        "hypervisor beneath": "no",
        "load": "0.12 0.10 0.09",
        "frequency, most kHz": "3500000",
        "frequency, now MHz": "2450.000",
        "boot mitigations": "off",
        "boot nosmt": "set",
        "boot processor.max_cstate": "1",
        "boot kvm.nx": "1",
    }
    assert {name: found.facts.get(name) for name in wanted} == wanted
    assert "secret" not in str(found.facts)


def test_what_runs_at_ring_0_has_its_hash() -> None:
    found = provenance.gather(switcher=None).hashes
    assert {"seed", "hardened"} <= set(found)
    from kvmhost.switcher import load

    assert found["hardened"] == load("hardened").sha256


def test_a_foreign_switcher_has_one_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import kvmhost.switcher

    monkeypatch.setattr(kvmhost.switcher, "load", lambda path: type("Blob", (), {"sha256": f"of {path}"}))
    assert provenance.gather(switcher=tmp_path / "x.o").hashes["foreign"] == f"of {tmp_path / 'x.o'}"


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    found = provenance.gather(Sys(tmp_path / "none"))
    assert (found.backend, found.cpu, found.microcode, found.kernel) == ("kvm", *(UNKNOWN,) * 3)
    assert set(found.facts.values()) - {found.facts["python"]} == {UNKNOWN}


def test_files_full_of_rubbish(tmp_path: Path) -> None:
    rubbish = {"proc/cpuinfo": "\x00\xff:::\n:\nflags", "proc/cmdline": "== = .", f"{CPU}/cpufreq/boost": "-"}
    (tmp_path / CPU / "vulnerabilities" / "folder").mkdir(parents=True)
    found = provenance.gather(plant_files(tmp_path, dict(rubbish)))
    assert found.cpu == UNKNOWN and found.facts["turbo"] == UNKNOWN
    assert found.facts["mitigation folder"] == UNKNOWN


@pytest.mark.parametrize(("module", "name"), [("kvm_intel", "vmx"), ("kvm_amd", "svm"), ("kvm", "kvm")])
def test_what_is_beneath(tmp_path: Path, module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = plant_files(tmp_path, {f"sys/module/{module}/parameters/a": "1"})
    assert provenance.backend(machine) == name
    monkeypatch.setenv("KVMHOST_IN_LAB", "1")
    assert provenance.backend(machine) == "lab"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({f"{CPU}/intel_pstate/no_turbo": "0"}, "on"),
        ({f"{CPU}/intel_pstate/no_turbo": "1"}, "off"),
        ({f"{CPU}/cpufreq/boost": "1"}, "on"),
        ({f"{CPU}/cpufreq/boost": "0"}, "off"),
        ({f"{CPU}/cpufreq/boost": "maybe"}, UNKNOWN),
    ],
)
def test_turbo(tmp_path: Path, files: dict[str, str | None], said: str) -> None:
    assert provenance.turbo(plant_files(tmp_path, files)) == said


def test_a_kvm_that_is_not_there_has_no_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    import kvmhost.kvm

    def broken() -> None:
        raise kvmhost.kvm.KvmError("no /dev/kvm")

    monkeypatch.setattr(kvmhost.kvm, "Kvm", broken)
    assert provenance.tsc_hz() == 0


@pytest.mark.lab
def test_kvm_says_how_fast_the_counter_goes() -> None:
    assert provenance.tsc_hz() > 10**6


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0", [0]), ("0-1\n", [0, 1]), ("1,3-4", [1, 3, 4]), ("", []), ("-,x-1", []), ("2-1", [])],
)
def test_lists_of_cpus(text: str, cpus: list[int]) -> None:
    assert cpu_list(text) == cpus
