"""Why KVM_RUN came back: one frozen class a reason.

Reasons that have no class here, from other architectures or newer kernels, become ExitUnrecognised with the
bytes KVM left.  decode.py makes these from the run page.
"""

from dataclasses import dataclass

from kvmhost.kvm.failures import Explanation, entry_failure, internal_error


@dataclass(frozen=True, slots=True)
class Exit:
    """Why a vCPU left the guest.

    >>> isinstance(ExitHlt(), Exit)
    True
    """


@dataclass(frozen=True, slots=True)
class ExitUnknown(Exit):
    """KVM_EXIT_UNKNOWN: the hardware gave a reason that KVM does not know.

    >>> hex(ExitUnknown(hardware_exit_reason=0x7F).hardware_exit_reason)
    '0x7f'
    """

    hardware_exit_reason: int


@dataclass(frozen=True, slots=True)
class ExitException(Exit):
    """KVM_EXIT_EXCEPTION: vector and error code of an exception KVM did not deliver.

    >>> ExitException(exception=14, error_code=2).exception
    14
    """

    exception: int
    error_code: int


@dataclass(frozen=True, slots=True)
class ExitIo(Exit):
    """KVM_EXIT_IO: the guest used `port`, `count` times `size` bytes.

    is_write: OUT, and data is what it wrote.  For IN, give the bytes with Vcpu.answer before the next run.
    RIP still points at the instruction until then.

    >>> ExitIo(port=0xE9, is_write=True, size=1, count=1, data=b"h").data
    b'h'
    """

    port: int
    is_write: bool
    size: int
    count: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ExitHypercall(Exit):
    """KVM_EXIT_HYPERCALL: a hypercall KVM was asked to pass on; its result goes into the run page.

    >>> ExitHypercall(number=12, args=(1, 2, 3, 4, 5, 6), longmode=False).args[0]
    1
    """

    number: int
    args: tuple[int, ...]
    longmode: bool


@dataclass(frozen=True, slots=True)
class ExitDebug(Exit):
    """KVM_EXIT_DEBUG: guest debugging stopped before the instruction at linear address pc.

    exception: 1 for #DB, 3 for #BP; dr6 tells which condition (bit 14: single step; bits 0 to 3:
    breakpoints).

    >>> hex(ExitDebug(exception=1, pc=0x1000, dr6=0xFFFF4FF0, dr7=0x400).pc)
    '0x1000'
    """

    exception: int
    pc: int
    dr6: int
    dr7: int

    @property
    def single_step(self) -> bool:
        """DR6.BS: the stop is the end of a single step.

        >>> ExitDebug(exception=1, pc=0x1000, dr6=0xFFFF4FF0, dr7=0x400).single_step
        True
        """
        return bool(self.dr6 >> 14 & 1)


@dataclass(frozen=True, slots=True)
class ExitHlt(Exit):
    """KVM_EXIT_HLT: the guest executed HLT.  With an in-kernel irqchip it sleeps in the kernel instead.

    >>> ExitHlt() == ExitHlt()
    True
    """


@dataclass(frozen=True, slots=True)
class ExitMmio(Exit):
    """KVM_EXIT_MMIO: the guest touched guest-physical memory that no slot backs, or wrote to a read-only
    slot.

    For a read, give the bytes with Vcpu.answer before the next run.

    >>> ExitMmio(address=0xFEE00000, is_write=True, length=4, data=bytes(4)).length
    4
    """

    address: int
    is_write: bool
    length: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ExitIrqWindowOpen(Exit):
    """KVM_EXIT_IRQ_WINDOW_OPEN: the guest can take an interrupt now, as request_interrupt_window asked.

    >>> ExitIrqWindowOpen()
    ExitIrqWindowOpen()
    """


@dataclass(frozen=True, slots=True)
class ExitShutdown(Exit):
    """KVM_EXIT_SHUTDOWN: a triple fault.  On AMD the registers are those after a reset by now.

    >>> ExitShutdown()
    ExitShutdown()
    """


@dataclass(frozen=True, slots=True)
class ExitFailEntry(Exit):
    """KVM_EXIT_FAIL_ENTRY: the CPU refused to enter the guest.

    >>> print(ExitFailEntry(reason=0x80000021, cpu=0).explanation.cause)
    VM entry failed: invalid guest state (0x80000021)
    """

    reason: int
    cpu: int

    @property
    def explanation(self) -> Explanation:
        """Cause and next step in words.

        >>> ExitFailEntry(reason=7, cpu=0).explanation.next_step
        'a defect of KVM or of the hypervisor below it'
        """
        return entry_failure(self.reason)


@dataclass(frozen=True, slots=True)
class ExitInterrupted(Exit):
    """KVM_EXIT_INTR: a signal, or immediate_exit, ended the run; nothing is lost, run again.

    >>> ExitInterrupted()
    ExitInterrupted()
    """


@dataclass(frozen=True, slots=True)
class ExitSetTpr(Exit):
    """KVM_EXIT_SET_TPR: the guest lowered CR8 below what user space waits for.

    >>> ExitSetTpr(cr8=5).cr8
    5
    """

    cr8: int


@dataclass(frozen=True, slots=True)
class ExitTprAccess(Exit):
    """KVM_EXIT_TPR_ACCESS: the guest at rip touched the task-priority register.

    >>> ExitTprAccess(rip=0x1000, is_write=True).is_write
    True
    """

    rip: int
    is_write: bool


@dataclass(frozen=True, slots=True)
class ExitNmi(Exit):
    """KVM_EXIT_NMI: an NMI of the host's came while the guest ran.

    >>> ExitNmi()
    ExitNmi()
    """


@dataclass(frozen=True, slots=True)
class ExitInternalError(Exit):
    """KVM_EXIT_INTERNAL_ERROR: KVM itself cannot go on.

    suberror: 1 emulation, 2 simultaneous exceptions, 3 exit during delivery of an event, 4 unexpected exit.
    data: what KVM left to say; instruction: the bytes it could not emulate, if it says.

    >>> print(ExitInternalError(1, (), instruction=bytes.fromhex("0f0b")).explanation.cause)
    KVM's emulator cannot execute the instruction that begins 0f 0b
    """

    suberror: int
    data: tuple[int, ...]
    instruction: bytes = b""

    @property
    def explanation(self) -> Explanation:
        """Cause and next step in words.

        >>> ExitInternalError(2, ()).explanation.cause
        'KVM met two exceptions at once'
        """
        return internal_error(self.suberror, self.data, self.instruction)


@dataclass(frozen=True, slots=True)
class ExitWatchdog(Exit):
    """KVM_EXIT_WATCHDOG: a watchdog ran out.

    >>> ExitWatchdog()
    ExitWatchdog()
    """


@dataclass(frozen=True, slots=True)
class ExitSystemEvent(Exit):
    """KVM_EXIT_SYSTEM_EVENT: the VM asks to be shut down (1), reset (2), or reports a crash (3), and
    others.

    >>> ExitSystemEvent(type=2, data=()).type          # a reset
    2
    """

    type: int
    data: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ExitIoapicEoi(Exit):
    """KVM_EXIT_IOAPIC_EOI: the guest ended a level interrupt of an I/O APIC that user space emulates.

    >>> hex(ExitIoapicEoi(vector=0x41).vector)
    '0x41'
    """

    vector: int


@dataclass(frozen=True, slots=True)
class ExitHyperv(Exit):
    """KVM_EXIT_HYPERV: a Hyper-V request for user space.

    >>> ExitHyperv(type=1).type
    1
    """

    type: int


@dataclass(frozen=True, slots=True)
class ExitRdmsr(Exit):
    """KVM_EXIT_X86_RDMSR: RDMSR of index, which KVM leaves to user space (why: reason); see
    Vcpu.answer_msr.

    >>> hex(ExitRdmsr(index=0x174, reason=2).index)
    '0x174'
    """

    index: int
    reason: int


@dataclass(frozen=True, slots=True)
class ExitWrmsr(Exit):
    """KVM_EXIT_X86_WRMSR: WRMSR of data to index, which KVM leaves to user space; see Vcpu.answer_msr.

    >>> ExitWrmsr(index=0x174, data=8, reason=2).data
    8
    """

    index: int
    data: int
    reason: int


@dataclass(frozen=True, slots=True)
class ExitDirtyRingFull(Exit):
    """KVM_EXIT_DIRTY_RING_FULL: the ring of dirty pages must be collected first.

    >>> ExitDirtyRingFull()
    ExitDirtyRingFull()
    """


@dataclass(frozen=True, slots=True)
class ExitApResetHold(Exit):
    """KVM_EXIT_AP_RESET_HOLD: the vCPU waits to be started, as a guest with encrypted state asks.

    >>> ExitApResetHold()
    ExitApResetHold()
    """


@dataclass(frozen=True, slots=True)
class ExitBusLock(Exit):
    """KVM_EXIT_X86_BUS_LOCK: the guest took the bus lock, and KVM was asked to tell.

    >>> ExitBusLock()
    ExitBusLock()
    """


@dataclass(frozen=True, slots=True)
class ExitXen(Exit):
    """KVM_EXIT_XEN: a Xen hypercall for user space.

    >>> ExitXen(type=1).type
    1
    """

    type: int


@dataclass(frozen=True, slots=True)
class ExitNotify(Exit):
    """KVM_EXIT_NOTIFY: no event window opened in the guest for too long.  context_invalid: it cannot go
    on.

    >>> ExitNotify(context_invalid=True).context_invalid
    True
    """

    context_invalid: bool


@dataclass(frozen=True, slots=True)
class ExitUnrecognised(Exit):
    """A reason this program has no class for: its number, and the bytes of the run page's union.

    >>> ExitUnrecognised(reason=4711, payload=b"").reason
    4711
    """

    reason: int
    payload: bytes
