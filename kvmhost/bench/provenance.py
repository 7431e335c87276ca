"""Where figures come from: the machine, its kernel and what of it moves a figure, and what ran at ring 0.

Read in the process that measures, because the lab's machine is another one than that around it.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import kvmhost
from kvmhost.bench.results import Provenance
from kvmhost.bench.sysfs import CLOCKSOURCE, CPUS, MODULES, UNKNOWN, Sys

KVM_MODULES = ("kvm", "kvm_intel", "kvm_amd")
#: What on the kernel's command line moves figures; other words may be nobody's business.
BOOT_WORDS = (
    "mitigations", "nopti", "pti", "spectre_v2", "nosmt", "isolcpus", "nohz_full", "rcu_nocbs", "nohz",
    "idle", "tsc", "clocksource", "intel_pstate", "amd_pstate", "intel_idle.max_cstate",
    "processor.max_cstate", "cpufreq.default_governor", "kvm", "kvm-intel", "kvm-amd", "kvm_intel", "kvm_amd",
    "transparent_hugepage", "preempt", "nokaslr",
)  # fmt: skip
SWITCHERS = Path(kvmhost.__file__).parent / "data" / "switcher"


def gather(
    machine: Sys | None = None,
    *,
    switcher: Path | None = None,
    cpu: int | None = None,
    tsc_hz: int = 0,
    icount: bool = False,
) -> Provenance:
    """Everything about this machine and this kvmhost.  Raises SwitcherError for a foreign one that is none.

    switcher: a foreign Switcher that is measured, too.  cpu: the one that is measured on, 0 if any may be.
    tsc_hz: of the vCPUs, where that is known.
    """
    seen = machine or Sys()
    info = seen.cpuinfo()
    return Provenance(
        backend=backend(seen),
        cpu=info.get("model name", UNKNOWN),
        microcode=info.get("microcode", UNKNOWN),
        kernel=kernel(seen),
        kvmhost=version("kvmhost"),
        tsc_hz=tsc_hz,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        icount=icount,
        hashes={**shipped(), **foreign(switcher)},
        facts=dict(facts(seen, cpu or 0)),
    )


def backend(machine: Sys) -> str:
    """What executes ring 0 to 3: "lab", "vmx", "svm"; "kvm" where that is not to be seen."""
    if os.environ.get("KVMHOST_IN_LAB"):
        return "lab"
    loaded = machine.names(MODULES)
    return next(
        (name for module, name in (("kvm_intel", "vmx"), ("kvm_amd", "svm")) if module in loaded), "kvm"
    )


def kernel(machine: Sys) -> str:
    """The release, and of the version what tells builds apart."""
    release = machine.read("proc/sys/kernel/osrelease")
    build = machine.read("proc/sys/kernel/version")
    return f"{release} {build}" if UNKNOWN not in (release, build) else release


def tsc_hz() -> int:
    """How fast a vCPU's time-stamp counter goes, as KVM says; 0 if it does not.  Makes a small VM."""
    from kvmhost.kvm import Kvm, KvmError

    try:
        with Kvm() as kvm, kvm.create_vm() as vm:
            return vm.create_vcpu(0).tsc_khz() * 1000
    except KvmError:
        return 0


def shipped(folder: Path = SWITCHERS) -> dict[str, str]:
    """The hash of each piece of ring-0 text that came with kvmhost, by its name."""
    found = sorted(folder.glob("*.bin"))
    return {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def foreign(switcher: Path | None) -> dict[str, str]:
    """The hash of a foreign Switcher's text."""
    if switcher is None:
        return {}
    from kvmhost.switcher import load

    return {"foreign": load(str(switcher)).sha256}


def facts(machine: Sys, cpu: int) -> Iterator[tuple[str, str]]:
    """Everything else that moves a figure, by name."""
    info = machine.cpuinfo()
    yield "cpus online", machine.read(CPUS / "online")
    yield "cpus isolated", machine.read(CPUS / "isolated")
    yield (
        "hypervisor beneath",
        ("yes" if "hypervisor" in info["flags"].split() else "no") if "flags" in info else UNKNOWN,
    )
    yield "smt", machine.read(CPUS / "smt/active")
    yield "governor", machine.of_cpu(cpu, "cpufreq/scaling_governor")
    yield "frequency driver", machine.of_cpu(cpu, "cpufreq/scaling_driver")
    yield "frequency, most kHz", machine.of_cpu(cpu, "cpufreq/cpuinfo_max_freq")
    yield "frequency, now MHz", info.get("cpu MHz", UNKNOWN)
    yield "turbo", turbo(machine)
    yield "clocksource", machine.read(CLOCKSOURCE)
    yield "load", " ".join(machine.read("proc/loadavg").split()[:3])
    yield "python", platform.python_version()
    yield "huge pages", machine.read("sys/kernel/mm/transparent_hugepage/enabled")
    for name in machine.names(CPUS / "vulnerabilities"):
        yield f"mitigation {name}", machine.read(CPUS / "vulnerabilities" / name)
    for word in machine.read("proc/cmdline").split():
        if word.partition("=")[0].partition(".")[0] in BOOT_WORDS or word.partition("=")[0] in BOOT_WORDS:
            yield f"boot {word.partition('=')[0]}", word.partition("=")[2] or "set"
    loaded = machine.names(MODULES)
    for module in KVM_MODULES:
        if module in loaded:
            yield f"{module} source", machine.read(MODULES / module / "srcversion")
            for name, value in machine.parameters(module):
                yield f"{module} {name}", value


def turbo(machine: Sys) -> str:
    """Whether a CPU may go faster than it can for long: "on", "off" or "unknown".

    >>> turbo(Sys(Path("/nowhere")))
    'unknown'
    """
    off = machine.number(CPUS / "intel_pstate/no_turbo")
    if off is not None:
        return "off" if off else "on"
    boost = machine.number(CPUS / "cpufreq/boost")
    return UNKNOWN if boost is None else "on" if boost else "off"
