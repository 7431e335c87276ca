"""Made-up /sys and /proc: machines that a test cannot have at hand."""

from __future__ import annotations

from pathlib import Path

from kvmhost.bench.sysfs import Sys

CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 7B13 64-Core Processor
microcode\t: 0xa0011d5
cpu MHz\t\t: 2450.000
flags\t\t: fpu tsc msr constant_tsc nonstop_tsc svm

processor\t: 1
model name\t: another one
"""
CPU = "sys/devices/system/cpu"
CLOCK = "sys/devices/system/clocksource/clocksource0/current_clocksource"
#: A machine on which figures are good.
QUIET = {
    "proc/cpuinfo": CPUINFO,
    "proc/loadavg": "0.12 0.10 0.09 1/184 4711\n",
    "proc/cmdline": "root=UUID=secret mitigations=off nosmt processor.max_cstate=1 kvm.nx=1\n",
    "proc/sys/kernel/osrelease": "6.12.1-amd64\n",
    "proc/sys/kernel/version": "#1 SMP Debian\n",
    CLOCK: "tsc\n",
    f"{CPU}/online": "0-3\n",
    f"{CPU}/isolated": "\n",
    f"{CPU}/smt/active": "1\n",
    f"{CPU}/cpufreq/boost": "0\n",
    f"{CPU}/vulnerabilities/meltdown": "Not affected\n",
    f"{CPU}/vulnerabilities/retbleed": "Mitigation: untrained\n",
    **{
        f"{CPU}/cpu{cpu}/{name}": text
        for cpu in range(4)
        for name, text in {
            "cpufreq/scaling_governor": "performance\n",
            "cpufreq/cpuinfo_max_freq": "3500000\n",
            "thermal_throttle/core_throttle_count": "3\n",
            "thermal_throttle/package_throttle_count": "0\n",
            "topology/thread_siblings_list": f"{cpu % 2},{cpu % 2 + 2}\n",
        }.items()
    },
    "sys/module/kvm/parameters/halt_poll_ns": "200000\n",
    "sys/module/kvm_amd/parameters/npt": "Y\n",
    "sys/module/kvm_amd/srcversion": "ABCDEF\n",
}


def plant(root: Path, **changes: str | None) -> Sys:
    """A quiet machine below `root`, with these files changed, or gone (None)."""
    return plant_files(root, {**QUIET, **changes})


def plant_files(root: Path, files: dict[str, str | None]) -> Sys:
    """Exactly these files."""
    for name, text in files.items():
        if text is not None:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return Sys(root)
