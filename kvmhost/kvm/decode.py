"""The run page becomes an exit: one decoder a reason.

The run page's union is overwritten by the next run, so everything is copied out at once, and no count the
kernel left is believed beyond the array it counts.
"""

from collections.abc import Callable
from typing import Any

from kvmhost._native import ffi, lib
from kvmhost.kvm.exits import (
    Exit,
    ExitApResetHold,
    ExitBusLock,
    ExitDebug,
    ExitDirtyRingFull,
    ExitException,
    ExitFailEntry,
    ExitHlt,
    ExitHypercall,
    ExitHyperv,
    ExitInternalError,
    ExitInterrupted,
    ExitIo,
    ExitIoapicEoi,
    ExitIrqWindowOpen,
    ExitMmio,
    ExitNmi,
    ExitNotify,
    ExitRdmsr,
    ExitSetTpr,
    ExitShutdown,
    ExitSystemEvent,
    ExitTprAccess,
    ExitUnknown,
    ExitUnrecognised,
    ExitWatchdog,
    ExitWrmsr,
    ExitXen,
)


def _io(run: Any) -> Exit:
    io = run.io
    start = ffi.cast("char *", run) + io.data_offset
    data = bytes(ffi.buffer(start, io.size * io.count))
    return ExitIo(io.port, io.direction == lib.KVM_EXIT_IO_OUT, io.size, io.count, data)


def _mmio(run: Any) -> Exit:
    mmio = run.mmio
    return ExitMmio(mmio.phys_addr, bool(mmio.is_write), mmio.len, bytes(mmio.data[0 : min(mmio.len, 8)]))


def _internal_error(run: Any) -> Exit:
    internal, failure = run.internal, run.emulation_failure
    instruction = b""
    if (
        internal.suberror == lib.KVM_INTERNAL_ERROR_EMULATION
        and internal.ndata >= 1
        and failure.flags & lib.KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES
    ):
        instruction = bytes(failure.insn_bytes)[: failure.insn_size]
    return ExitInternalError(
        internal.suberror, tuple(internal.data[0 : min(internal.ndata, 16)]), instruction
    )


def _debug(run: Any) -> Exit:
    arch = run.debug.arch
    return ExitDebug(arch.exception, arch.pc, arch.dr6, arch.dr7)


def _hypercall(run: Any) -> Exit:
    return ExitHypercall(run.hypercall.nr, tuple(run.hypercall.args), bool(run.hypercall.longmode))


def _system_event(run: Any) -> Exit:
    event = run.system_event
    return ExitSystemEvent(event.type, tuple(event.data[0 : min(event.ndata, 16)]))


_DECODERS: dict[int, Callable[[Any], Exit]] = {
    lib.KVM_EXIT_UNKNOWN: lambda run: ExitUnknown(run.hw.hardware_exit_reason),
    lib.KVM_EXIT_EXCEPTION: lambda run: ExitException(run.ex.exception, run.ex.error_code),
    lib.KVM_EXIT_IO: _io,
    lib.KVM_EXIT_HYPERCALL: _hypercall,
    lib.KVM_EXIT_DEBUG: _debug,
    lib.KVM_EXIT_HLT: lambda run: ExitHlt(),
    lib.KVM_EXIT_MMIO: _mmio,
    lib.KVM_EXIT_IRQ_WINDOW_OPEN: lambda run: ExitIrqWindowOpen(),
    lib.KVM_EXIT_SHUTDOWN: lambda run: ExitShutdown(),
    lib.KVM_EXIT_FAIL_ENTRY: lambda run: ExitFailEntry(
        run.fail_entry.hardware_entry_failure_reason, run.fail_entry.cpu
    ),
    lib.KVM_EXIT_INTR: lambda run: ExitInterrupted(),
    lib.KVM_EXIT_SET_TPR: lambda run: ExitSetTpr(run.cr8),
    lib.KVM_EXIT_TPR_ACCESS: lambda run: ExitTprAccess(run.tpr_access.rip, bool(run.tpr_access.is_write)),
    lib.KVM_EXIT_NMI: lambda run: ExitNmi(),
    lib.KVM_EXIT_INTERNAL_ERROR: _internal_error,
    lib.KVM_EXIT_WATCHDOG: lambda run: ExitWatchdog(),
    lib.KVM_EXIT_SYSTEM_EVENT: _system_event,
    lib.KVM_EXIT_IOAPIC_EOI: lambda run: ExitIoapicEoi(run.eoi.vector),
    lib.KVM_EXIT_HYPERV: lambda run: ExitHyperv(lib.kvmhost_hyperv_exit(run).type),
    lib.KVM_EXIT_X86_RDMSR: lambda run: ExitRdmsr(run.msr.index, run.msr.reason),
    lib.KVM_EXIT_X86_WRMSR: lambda run: ExitWrmsr(run.msr.index, run.msr.data, run.msr.reason),
    lib.KVM_EXIT_DIRTY_RING_FULL: lambda run: ExitDirtyRingFull(),
    lib.KVM_EXIT_AP_RESET_HOLD: lambda run: ExitApResetHold(),
    lib.KVM_EXIT_X86_BUS_LOCK: lambda run: ExitBusLock(),
    lib.KVM_EXIT_XEN: lambda run: ExitXen(lib.kvmhost_xen_exit(run).type),
    lib.KVM_EXIT_NOTIFY: lambda run: ExitNotify(bool(run.notify.flags & lib.KVM_NOTIFY_CONTEXT_INVALID)),
}


def decode(run: Any) -> Exit:
    """The exit a struct kvm_run tells of.

    >>> run = ffi.new("struct kvm_run *", {"exit_reason": 5})
    >>> decode(run)
    ExitHlt()
    """
    decoder = _DECODERS.get(run.exit_reason)
    if decoder is not None:
        return decoder(run)
    start = ffi.offsetof("struct kvm_run", "hw")
    payload = bytes(ffi.buffer(run))[start : ffi.offsetof("struct kvm_run", "kvm_valid_regs")]
    return ExitUnrecognised(run.exit_reason, payload)
