"""The machine that QEMU plays: an AMD CPU with SVM, emulated instruction by instruction, and
no devices but those that carry the host's files and the command's streams."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kvmhost.lab.apt import install_line
from kvmhost.lab.errors import LabError
from kvmhost.lab.tsc import tsc_khz

QEMU = "qemu-system-x86_64"
QEMU_PACKAGE = "qemu-system-x86"

# How those inside know where they are: a variable of the environment could be anybody's.
LAB_MARK = "kvmhost.lab=1"
# Saves a second of start: no timer calibration, no self-tests, no read-only text. panic=-1
# restarts at once, which -no-reboot turns into QEMU's end.
KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet mitigations=off panic=-1 tsc=reliable no_timer_check"
    f" cryptomgr.notests rodata=off audit=0 {LAB_MARK}"
)


# QEMU's user network: it needs no rights, and its addresses are fixed (native/lab/network.c has
# them too).  romfile: the card's boot ROM comes in a package of its own, and nobody boots from it.
_NETWORK = (
    *("-netdev", "user,id=net,ipv6=off"),
    *("-device", "virtio-net-pci,netdev=net,romfile="),
)

# One instruction is one nanosecond of every clock of the lab, the time-stamp counter included.  A CPU that
# sleeps does so by the host's clock: without sleep=on it would go straight to its next timer, and whoever
# waits for the host with a limit would have waited in vain.
_ICOUNT = ("-icount", "shift=0,sleep=on")
ICOUNT_KHZ = 1_000_000
# How those inside know that cycles are instructions here.
ICOUNT_MARK = "kvmhost.icount=1"


def find_qemu() -> str | None:
    """The path of QEMU for x86-64, or None when it is not installed.

    >>> find_qemu() == shutil.which("qemu-system-x86_64")
    True
    """
    return shutil.which(QEMU)


def qemu_missing() -> LabError:
    """The error that says that QEMU is missing, and the line that installs it."""
    if shutil.which("apt-get") is None:
        return LabError(f"{QEMU} is not installed", next_step=f"install {QEMU} with your package manager")
    return LabError(f"{QEMU} is not installed", next_step=install_line(QEMU_PACKAGE))


def kernel_arguments(icount: bool = False) -> str:
    """The lab kernel's command line, with the clock's frequency where it can be measured here."""
    if icount:
        return f"{KERNEL_ARGUMENTS} {ICOUNT_MARK} tsc_early_khz={ICOUNT_KHZ}"
    khz = tsc_khz()
    return KERNEL_ARGUMENTS if khz is None else f"{KERNEL_ARGUMENTS} tsc_early_khz={khz}"


def command_line(
    qemu: str,
    *,
    vmlinux: Path,
    initramfs: int,
    kernel_log: int,
    ports: Mapping[int, int],
    writable: Sequence[Path],
    memory: str,
    cpus: int,
    network: bool = False,
    icount: bool = False,
) -> list[str]:
    """The line that starts the lab.

    `initramfs` and `kernel_log` are descriptors that QEMU inherits, `ports` maps the number
    of a virtio-serial port to one; the log and the ports are sockets. `memory` is in QEMU's
    notation ("1G"). With `network` the lab has a network card behind QEMU's own gateway. With
    `icount` its clocks count instructions.
    """
    # [L20] The CPU is an AMD one because QEMU emulates AMD's SVM and not Intel's VMX.  It need
    # not exist: kvm_amd finds the feature bit, sets EFER.SVME, runs VMRUN, and every rule of
    # it is obeyed by a program.  No disk, and no network that nobody asked for: the host's /
    # comes in as files.
    return [
        qemu,
        *("-machine", "q35", "-accel", "tcg", "-cpu", "qemu64,+svm,+npt"),
        *("-smp", str(cpus), "-m", memory),
        *(_ICOUNT if icount else ()),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *(
            "-kernel",
            str(vmlinux),
            "-initrd",
            f"/proc/self/fd/{initramfs}",
            "-append",
            kernel_arguments(icount),
        ),
        *("-chardev", f"socket,id=log,fd={kernel_log}", "-serial", "chardev:log"),
        *_folder("host", Path("/"), ",readonly=on"),
        *(part for i, path in enumerate(writable) for part in _folder(f"w{i}", path, "")),
        *("-device", "virtio-serial-pci"),
        *_ports(ports.items()),
        *(_NETWORK if network else ()),
    ]


def _folder(tag: str, path: Path, options: str) -> list[str]:
    escaped = str(path).replace(",", ",,")
    return [
        "-fsdev",
        f"local,id={tag},path={escaped},security_model=none,multidevs=remap{options}",
        "-device",
        f"virtio-9p-pci,fsdev={tag},mount_tag={tag}",
    ]


def _ports(ports: Iterable[tuple[int, int]]) -> list[str]:
    parts: list[str] = []
    for number, fd in ports:
        parts += ["-chardev", f"socket,id=p{number},fd={fd}"]
        parts += ["-device", f"virtserialport,chardev=p{number},nr={number},name=kvmhost.{number}"]
    return parts
