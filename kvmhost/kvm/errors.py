"""Every way KVM can say no, and what a person can do about it.

KVM answers with a number from errno.  The same number means different things from different calls, so one
table here is keyed by both, and `explain` is the only place that turns a number into words.  The rows
follow the errors that users really meet; what no row knows still gets the system's own text and the general
advice for its errno.
"""

import errno
import os


class KvmError(Exception):
    """Something KVM, or this room on its behalf, refused.

    operation: the call, by the kernel's name.  errno: the number it failed with, None where the refusal is
    ours. cause: why.  next_step: what to try.

    >>> error = KvmError("KVM_RUN", errno=None, cause="the vCPU is gone", next_step="create another")
    >>> print(error)
    KVM_RUN: the vCPU is gone. Next: create another
    """

    def __init__(
        self, operation: str, *, errno: int | None = None, cause: str = "", next_step: str = ""
    ) -> None:
        super().__init__(operation, errno, cause, next_step)
        self.operation = operation
        self.errno = errno
        self.cause = cause
        self.next_step = next_step

    def __str__(self) -> str:
        text = f"{self.operation}: {self.cause}" if self.cause else self.operation
        return f"{text}. Next: {self.next_step}" if self.next_step else text


class ClosedError(KvmError):
    """The Kvm, Vm, Vcpu or slot was used after it was closed.

    >>> raise ClosedError("Vm")
    Traceback (most recent call last):
    ...
    kvmhost.kvm.errors.ClosedError: Vm: it is closed. Next: use it inside its with block, or create another
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            what, cause="it is closed", next_step="use it inside its with block, or create another"
        )


class MemoryLayoutError(KvmError):
    """A memory slot whose addresses or size break KVM's rules: alignment, wrap-around, overlap.

    >>> MemoryLayoutError("add_memory", cause="it overlaps", next_step="move it").next_step
    'move it'
    """


class MsrError(KvmError):
    """KVM stopped at one MSR of a list; msr is its index, done how many before it were carried out.

    >>> MsrError("KVM_SET_MSRS", msr=0xDEAD, done=1).done
    1
    """

    def __init__(self, operation: str, msr: int, done: int) -> None:
        super().__init__(
            operation,
            cause=f"KVM refused MSR {msr:#x}, entry {done} of the list; the {done} before were carried out",
            next_step="leave it out if KVM does not know it (Kvm.msr_indices), or correct its value",
        )
        self.msr = msr
        self.done = done


class NotReadyError(KvmError):
    """An interrupt offered while the vCPU cannot take one (IF clear, a shadow, or one already on its way).

    >>> isinstance(NotReadyError("KVM_INTERRUPT"), KvmError)
    True
    """


class CapabilityError(KvmError):
    """This KVM does not have a capability that the call needs.

    >>> print(CapabilityError("KVM_GET_XCRS", "XCRS").cause)
    this KVM does not have KVM_CAP_XCRS
    """

    def __init__(self, operation: str, capability: str) -> None:
        super().__init__(
            operation,
            cause=f"this KVM does not have KVM_CAP_{capability}",
            next_step="use a newer kernel, or do without (Kvm.check_extension tells beforehand)",
        )
        self.capability = capability


_KERNEL_LOG = "look at the kernel log (dmesg) and report it"

# (operation, errno): (cause, next step).
_ROWS: dict[tuple[str, int], tuple[str, str]] = {
    ("open", errno.ENOENT): (
        "there is no such device: the kvm module is not loaded, or this container was not given the device",
        "load kvm_intel or kvm_amd (modprobe), or pass /dev/kvm into the container",
    ),
    ("open", errno.EACCES): (
        "no permission: this user is neither root nor in the device's group",
        "add the user to group kvm and log in again, or run under sudo",
    ),
    ("open", errno.EPERM): (
        "a device cgroup, seccomp filter or sandbox denies it",
        "allow the device in the container's or sandbox's options",
    ),
    ("open", errno.ENODEV): (
        "the node exists but no driver answers: VT-x or SVM is off in the firmware, or hidden from this VM",
        "enable VT-x or SVM in the firmware, or nesting on the machine below, then load the module",
    ),
    ("KVM_CREATE_VM", errno.EBUSY): (
        "another hypervisor (VirtualBox, VMware, another module) holds VT-x or SVM",
        "stop it; unload its modules",
    ),
    ("KVM_CREATE_VM", errno.ENOMEM): (
        "the kernel has not enough memory for another VM",
        "free memory, or raise the limits (ulimit, cgroup)",
    ),
    ("KVM_CREATE_VM", errno.EMFILE): (
        "this process has no file descriptor left",
        "raise ulimit -n, or close VMs that are done",
    ),
    ("KVM_CREATE_VM", errno.EINVAL): ("this KVM does not know that type of VM", "use type 0"),
    ("KVM_RUN", errno.EFAULT): (
        "the host page behind a guest frame is gone: unmapped, protected, or its file was truncated",
        "a fault of the program that owns the memory: keep every slot's memory mapped while the VM lives",
    ),
    ("KVM_RUN", errno.EIO): ("KVM has marked the VM as broken and will not run it again", _KERNEL_LOG),
    ("KVM_RUN", errno.EAGAIN): (
        "the vCPU waits to be started (INIT and SIPI)",
        "set_mp_state(MpState.RUNNABLE), or let another vCPU start it",
    ),
    ("KVM_RUN", errno.EINTR): ("a signal came, or immediate_exit was set", "nothing is wrong: run it again"),
    ("KVM_RUN", errno.EINVAL): (
        "KVM found the vCPU's state or the run page's request impossible",
        "check the registers with entry_check, and valid_regs and dirty_regs of the run page",
    ),
    ("KVM_RUN", errno.ENOEXEC): ("this host's KVM cannot run such a vCPU", "use an x86 host"),
    ("KVM_RUN", errno.ENOSYS): ("this host's KVM cannot run such a vCPU", "use an x86 host"),
    ("KVM_CREATE_IRQCHIP", errno.EINVAL): (
        "a vCPU exists already",
        "create the interrupt controllers before the first vCPU",
    ),
    ("KVM_CREATE_IRQCHIP", errno.EEXIST): ("the VM already has interrupt controllers", "create them once"),
    ("KVM_CREATE_PIT2", errno.EEXIST): ("the VM already has a PIT", "create it once"),
    ("KVM_CREATE_PIT2", errno.ENOENT): (
        "there is no interrupt controller to wire it to",
        "create_irqchip first",
    ),
    ("KVM_CREATE_PIT2", errno.ENXIO): (
        "there is no interrupt controller to wire it to",
        "create_irqchip first",
    ),
    ("KVM_SET_IDENTITY_MAP_ADDR", errno.EINVAL): (
        "a vCPU exists already, or the page is not below 4 GiB",
        "set it before the first vCPU",
    ),
    ("KVM_SET_TSS_ADDR", errno.EINVAL): (
        "its three pages do not fit below 4 GiB",
        "choose an address of at most 0xFFFFD000",
    ),
    ("KVM_SET_TSS_ADDR", errno.EEXIST): (
        "a memory slot lies there",
        "choose three free pages, or move the slot",
    ),
    ("KVM_SET_USER_MEMORY_REGION", errno.EINVAL): (
        "size and both addresses must be multiples of the page, must not wrap, and need flags this KVM knows",
        "correct the slot",
    ),
    ("KVM_SET_USER_MEMORY_REGION", errno.EEXIST): ("it overlaps another slot", "move it or remove the other"),
    ("KVM_CREATE_VCPU", errno.EEXIST): ("there is a vCPU of this id already", "give each its own id"),
    ("KVM_CREATE_VCPU", errno.EINVAL): (
        "the id is too large, or the VM has as many vCPUs as KVM allows",
        "stay below check_extension(Cap.MAX_VCPU_ID) and check_extension(Cap.MAX_VCPUS)",
    ),
    ("KVM_SET_SREGS", errno.EINVAL): (
        "reserved bits of CR0, CR4 or EFER, a CR4 bit the CPUID lacks, CS.L without long mode, or apic_base",
        "set_cpuid before set_sregs; start from sregs() and change only what must change",
    ),
    ("KVM_SET_CPUID2", errno.EINVAL): (
        "the vCPU has run already, or an entry contradicts the host",
        "set CPUID once, before the first run, from supported_cpuid()",
    ),
    ("KVM_INTERRUPT", errno.ENXIO): (
        "the VM has an in-kernel interrupt controller, and that alone injects",
        "use irqfd, signal_msi or irq_line",
    ),
    ("KVM_INTERRUPT", errno.EINVAL): ("there are only 256 vectors", "use a vector of 0 to 255"),
    ("KVM_INTERRUPT", errno.EEXIST): (
        "an interrupt is queued already",
        "run the vCPU until it has been taken",
    ),
    ("KVM_IRQ_LINE", errno.ENXIO): ("there is no in-kernel interrupt controller", "create_irqchip first"),
    ("KVM_SIGNAL_MSI", errno.EINVAL): (
        "there is no in-kernel LAPIC, or the message has flags set",
        "create_irqchip first",
    ),
    ("KVM_IRQFD", errno.EBADF): ("that is no open eventfd", "pass the fd of os.eventfd()"),
    ("KVM_IRQFD", errno.EINVAL): (
        "that is no eventfd, or there is no in-kernel interrupt controller",
        "pass the fd of os.eventfd(), after create_irqchip",
    ),
    ("KVM_IRQFD", errno.EBUSY): ("this eventfd is wired already", "deassign it first"),
    ("KVM_IOEVENTFD", errno.EEXIST): ("this address has an eventfd already", "deassign it first"),
    ("KVM_IOEVENTFD", errno.ENOENT): (
        "no such eventfd was assigned",
        "deassign with what it was assigned with",
    ),
    ("KVM_SET_VCPU_EVENTS", errno.EINVAL): (
        "an exception above 31 or the NMI as exception, or flags without their capability",
        "start from events() and change only what must change",
    ),
    ("KVM_SET_GUEST_DEBUG", errno.EBUSY): (
        "an exception is pending already, so none can be injected",
        "run the vCPU first",
    ),
    ("KVM_SET_MP_STATE", errno.EINVAL): (
        "without an in-kernel LAPIC a vCPU can only be RUNNABLE",
        "create_irqchip before the vCPU, or leave the state alone",
    ),
}

# errno alone, for the calls that no row above names.
_GENERAL: dict[int, tuple[str, str]] = {
    errno.ENOTTY: (
        "this kind of fd does not know the call, or the kernel is too old for it",
        "check the capability first (check_extension)",
    ),
    errno.EINVAL: (
        "KVM found an argument impossible",
        "compare the arguments with KVM's documentation of the call",
    ),
    errno.ENOMEM: ("the kernel is out of memory", "free memory, or raise the limits (ulimit, cgroup)"),
    errno.EMFILE: ("this process has no file descriptor left", "raise ulimit -n, or close what is done"),
    errno.ENFILE: ("the system has no file descriptor left", "close programs, or raise fs.file-max"),
    errno.EBADF: ("the file descriptor is not open", "use the object inside its with block"),
    errno.EFAULT: ("memory passed to KVM is not mapped", "a fault of this program: report it"),
    errno.EIO: ("KVM has marked the VM as broken", _KERNEL_LOG),
    errno.EPERM: ("not permitted", "look for a seccomp filter or sandbox that denies it"),
    errno.ENXIO: ("what the call works on does not exist in this VM", "create it first (irqchip, PIT)"),
    errno.ENOSYS: ("this kernel does not have the call", "use a newer kernel"),
}
_ROWS["open", errno.ENXIO] = _ROWS["open", errno.ENODEV]


def explain(operation: str, number: int) -> KvmError:
    """The exception for errno `number` from `operation` (the ioctl's name, or "open", "mmap").

    >>> import errno
    >>> error = explain("KVM_CREATE_VM", errno.EBUSY)
    >>> print(error.cause)
    another hypervisor (VirtualBox, VMware, another module) holds VT-x or SVM (EBUSY)
    >>> error.next_step
    'stop it; unload its modules'
    """
    known = _ROWS.get((operation, number)) or _GENERAL.get(number)
    cause, next_step = known or (os.strerror(number), "see what the kernel's documentation of the call says")
    name = errno.errorcode.get(number, str(number))
    return KvmError(operation, errno=number, cause=f"{cause} ({name})", next_step=next_step)
