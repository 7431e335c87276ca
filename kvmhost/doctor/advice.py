"""What an error means to a person, and what to do about it.

The rows are those of the catalogue's table of errors that users meet. The doctor has its own copy in
words because it must work when the rest of kvmhost does not.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from kvmhost.doctor import _constants as c


@dataclass(frozen=True, slots=True)
class Advice:
    """Why something does not work, and the next step."""

    reason: str
    next_step: str


OPEN = {
    errno.ENOENT: Advice(
        "there is no {path}: the KVM module is not loaded, or this is a container without the device",
        "load the module (sudo modprobe kvm_intel or kvm_amd), or give the container the device "
        "(--device /dev/kvm)",
    ),
    errno.EACCES: Advice(
        "you may not open {path}",
        "add yourself to its group and log in again, or run kvmhost with sudo",
    ),
    errno.EPERM: Advice(
        "{path} is denied by a device cgroup, seccomp or another sandbox",
        "start the container with --device /dev/kvm (and a seccomp profile that allows ioctl on it)",
    ),
    errno.ENODEV: Advice(
        "{path} is there but no driver stands behind it: virtualisation is off in the firmware, or "
        "this virtual machine is given none",
        "enable VT-x or SVM in the firmware setup, or nested virtualisation on the machine beneath",
    ),
    errno.EBUSY: Advice("{path} is busy: something has opened it exclusively", "close that program"),
    errno.EMFILE: Advice("this process has too many files open", "raise ulimit -n"),
    errno.ENFILE: Advice("the system has too many files open", "raise fs.file-max"),
}
OPEN[errno.ENXIO] = OPEN[errno.ENODEV]
OPEN[errno.ENOTDIR] = OPEN[errno.ENOENT]

CALLS = {
    errno.EBUSY: Advice(
        "another hypervisor owns the CPU's virtualisation (VMXE or SVME is taken)",
        "stop it, and unload its module",
    ),
    errno.ENOMEM: Advice("there is not enough memory for a VM", "free memory, or raise ulimit -l and -v"),
    errno.EMFILE: Advice("this process has too many files open", "raise ulimit -n"),
    errno.ENFILE: Advice("the system has too many files open", "raise fs.file-max"),
    errno.ENOTTY: Advice(
        "the kernel does not know this call: it is too old, or this is not KVM", "use Linux 5.10 or later"
    ),
    errno.EINVAL: Advice("KVM does not accept what a probe asked for", "use Linux 5.10 or later"),
    errno.EPERM: Advice("a sandbox denies this call", "allow ioctl on /dev/kvm"),
    errno.EIO: Advice("KVM marked the VM as dead", "read the kernel log (dmesg)"),
    errno.EFAULT: Advice("a page of the VM's memory is gone", "report this: it is a fault of kvmhost"),
    errno.EAGAIN: Advice("the vCPU waits for another to start it", "report this: it is a fault of kvmhost"),
    errno.ENOEXEC: Advice("this CPU is not an x86", "use an x86 machine"),
    errno.ENOSYS: Advice("this kernel has no KVM for x86", "use an x86 machine"),
}
CALLS[errno.ENODEV] = CALLS[errno.EOPNOTSUPP] = Advice(
    "KVM is loaded but cannot use this CPU's virtualisation", OPEN[errno.ENODEV].next_step
)

# Intel SDM vol. 3, "VM-Entry Failures During or After Loading Guest State": basic exit reasons.
ENTRY_FAILED = 1 << 31
ENTRY_REASONS = {
    33: "invalid Guest state",
    34: "an MSR could not be loaded",
    41: "a machine check",
}
# Intel SDM vol. 3, "VM-Instruction Error Numbers".
INSTRUCTION_ERRORS = {7: "an invalid control field", 8: "an invalid host field"}

SUBERRORS = {
    1: "it had to emulate an instruction it does not know",
    2: "two exceptions came at once",
    3: "a fault came while another was delivered: IDT, GDT, TSS or stack without memory",
    4: "an unknown hardware exit",
}


def opening(number: int, path: str) -> Advice:
    """Why `path` cannot be opened.

    >>> opening(errno.ENODEV, "/dev/kvm").reason.startswith("/dev/kvm is there but no driver")
    True
    """
    row = OPEN.get(number)
    if row is None:
        return Advice(f"{path} cannot be opened: {os.strerror(number)}", "read the kernel log (dmesg)")
    return Advice(row.reason.format(path=path), row.next_step)


def calling(name: str, number: int) -> Advice:
    """Why a KVM call failed.

    >>> calling("KVM_CREATE_VM", errno.EBUSY).next_step
    'stop it, and unload its module'
    """
    row = CALLS.get(number)
    code = errno.errorcode.get(number, str(number))
    if row is None:
        return Advice(f"{name} failed: {os.strerror(number)}", "read the kernel log (dmesg)")
    return Advice(f"{row.reason} ({name}: {code})", row.next_step)


def fail_entry(reason: int) -> str:
    """What hardware_entry_failure_reason says.

    >>> fail_entry(0x80000021)
    '0x80000021, invalid Guest state (VMX)'
    """
    if reason in (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF):
        return f"{reason:#x}, VMEXIT_INVALID (SVM)"
    if reason & ENTRY_FAILED:
        return f"{reason:#x}, {ENTRY_REASONS.get(reason & 0xFFFF, 'another reason')} (VMX)"
    return f"{reason:#x}, {INSTRUCTION_ERRORS.get(reason, 'a VM-instruction error')}"


def internal_error(suberror: int, instruction: str = "") -> str:
    """What an internal error's suberror says; `instruction` is hex.

    >>> internal_error(1, "cf")
    'it had to emulate an instruction it does not know (bytes cf: IRET)'
    """
    words = SUBERRORS.get(suberror, f"suberror {suberror}")
    if suberror == c.KVM_INTERNAL_ERROR_EMULATION and instruction:
        name = ": IRET" if instruction.startswith("cf") else ""
        return f"{words} (bytes {instruction}{name})"
    return words
