"""The third object: one virtual CPU.  It runs, and comes back with the reason why it stopped.

All calls to one vCPU come from one thread.  The run page is memory shared with KVM: what a run reports and
a few requests to the next one stand in it, and a loop in C may use vcpu.fd and vcpu.run_page directly.
"""

import errno
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kvmhost._native import ffi, lib
from kvmhost.kvm.base import ioctl, new
from kvmhost.kvm.capabilities import Cap
from kvmhost.kvm.errors import ClosedError, KvmError, explain
from kvmhost.kvm.vcpu_events import VcpuEvents

if TYPE_CHECKING:
    from kvmhost.kvm.exits import Exit
    from kvmhost.kvm.statistics import Statistic
    from kvmhost.kvm.sync import SyncedRegisters
    from kvmhost.kvm.vm import Vm


class Vcpu(VcpuEvents):
    """A virtual CPU, made by Vm.create_vcpu.

    >>> with vm.create_vcpu(1) as other:
    ...     hex(other.regs().rip)
    '0xfff0'
    """

    def __init__(self, vm: "Vm", vcpu_id: int, fd: int, run_size: int) -> None:
        super().__init__(vm, fd)
        self.id = vcpu_id
        self._run: Any = None
        try:
            self._run = _map_run_page(fd, run_size)
        except KvmError:
            self.close()
            raise

    def _release(self) -> None:
        self._run = None
        self._vm._forget_vcpu(self.id)

    @property
    def run_page(self) -> Any:
        """The struct kvm_run that KVM shares with us, mapped as long as the vCPU is open or the pointer is
        held.

        >>> vcpu.run_page.exit_reason
        0
        """
        if self._run is None:
            raise ClosedError("Vcpu")
        return self._run

    def run(self) -> "Exit":
        """Run the guest until something needs attention (KVM_RUN), and say what.

        A signal or immediate_exit is no error: it returns ExitInterrupted.  Raises KvmError for all else.

        >>> slot = vm.add_memory(0xF000, 0x1000)
        >>> slot.view[0xFF0] = 0xF4                             # hlt
        >>> from dataclasses import replace
        >>> sregs = vcpu.sregs()
        >>> vcpu.set_sregs(replace(sregs, cs=replace(sregs.cs, base=0, selector=0)))
        >>> vcpu.run()
        ExitHlt()
        """
        result: int = lib.kvmhost_ioctl_number(self.fd, lib.KVM_RUN, 0)
        if result == -errno.EINTR:
            from kvmhost.kvm.exits import ExitInterrupted

            return ExitInterrupted()
        if result < 0:
            raise explain("KVM_RUN", -result)
        return self.exit()

    def exit(self) -> "Exit":
        """What the run page says now, decoded: for a loop that calls KVM_RUN itself.

        >>> vcpu.exit()
        ExitUnknown(hardware_exit_reason=0)
        """
        from kvmhost.kvm.decode import decode

        return decode(self.run_page)

    def complete(self) -> None:
        """Finish the instruction of the last ExitIo or ExitMmio without running on: only now does RIP point
        behind it, and registers, snapshots and a debugger see a state between two instructions.

        >>> vcpu.complete()
        """
        before, self.immediate_exit = self.immediate_exit, True
        try:
            self.run()
        finally:
            self.immediate_exit = before

    @property
    def immediate_exit(self) -> bool:
        """While set, a run ends with ExitInterrupted before the guest's first instruction
        (KVM_CAP_IMMEDIATE_EXIT).

        >>> vcpu.immediate_exit = True
        >>> vcpu.run()
        ExitInterrupted()
        """
        return bool(self.run_page.immediate_exit)

    @immediate_exit.setter
    def immediate_exit(self, on: bool) -> None:
        self.run_page.immediate_exit = on

    def answer(self, data: bytes) -> None:
        """Give the guest what its IN or its MMIO read gets.  Raises ValueError unless the last exit asked
        for exactly that many bytes.

        >>> vcpu.answer(b"x")
        Traceback (most recent call last):
        ...
        ValueError: the last exit asked for no bytes
        """
        run = self.run_page
        if run.exit_reason == lib.KVM_EXIT_IO and run.io.direction == lib.KVM_EXIT_IO_IN:
            target, wanted = ffi.cast("char *", run) + run.io.data_offset, run.io.size * run.io.count
        elif run.exit_reason == lib.KVM_EXIT_MMIO and not run.mmio.is_write:
            target, wanted = run.mmio.data, run.mmio.len
        else:
            raise ValueError("the last exit asked for no bytes")
        if len(data) != wanted:
            raise ValueError(f"the last exit asked for {wanted} bytes, not {len(data)}")
        ffi.memmove(target, data, wanted)

    def answer_msr(self, value: int = 0, *, fault: bool = False) -> None:
        """Answer an ExitRdmsr with a value, or let it or an ExitWrmsr end in #GP.

        >>> vcpu.answer_msr(0)
        Traceback (most recent call last):
        ...
        ValueError: the last exit was about no MSR
        """
        run = self.run_page
        if run.exit_reason not in (lib.KVM_EXIT_X86_RDMSR, lib.KVM_EXIT_X86_WRMSR):
            raise ValueError("the last exit was about no MSR")
        run.msr.error = fault
        if run.exit_reason == lib.KVM_EXIT_X86_RDMSR:
            run.msr.data = value

    def set_signal_mask(self, blocked: Iterable[int] | None) -> None:
        """Which signals are blocked while the guest runs (KVM_SET_SIGNAL_MASK); None: those of the thread.

        Block a signal in the thread and not here, and it ends the run without a race and without a handler.

        >>> import signal
        >>> vcpu.set_signal_mask({signal.SIGUSR1})
        >>> vcpu.set_signal_mask(None)
        """
        if blocked is None:
            ioctl(self.fd, "KVM_SET_SIGNAL_MASK")
            return
        bits = 0
        for number in blocked:
            bits |= 1 << number - 1
        # The kernel's own sigset_t on x86-64: 64 signals, one bit each.
        mask = struct.pack("<Q", bits)
        ioctl(
            self.fd,
            "KVM_SET_SIGNAL_MASK",
            new("struct kvm_signal_mask *", {"len": len(mask), "sigset": mask}),
        )

    def sync(self, *, regs: bool = False, sregs: bool = False, events: bool = False) -> "SyncedRegisters":
        """Have KVM copy register classes into the run page at each exit (KVM_CAP_SYNC_REGS).

        Returns the view through which they are read, and written for the next run, without an ioctl.

        >>> synced = vcpu.sync(regs=True)
        >>> synced.regs().rflags
        0
        """
        from kvmhost.kvm.sync import SyncedRegisters

        wanted = {"KVM_SYNC_X86_REGS": regs, "KVM_SYNC_X86_SREGS": sregs, "KVM_SYNC_X86_EVENTS": events}
        mask = sum(getattr(lib, name) for name, on in wanted.items() if on)
        known = self._vm.require(Cap.SYNC_REGS, "KVM_RUN")
        if mask & ~known:
            raise KvmError(
                "KVM_RUN",
                cause=f"this KVM cannot synchronise the classes {mask & ~known:#x}",
                next_step="read those by their ioctls",
            )
        self.run_page.kvm_valid_regs = mask
        return SyncedRegisters(self)

    def statistics(self) -> dict[str, "Statistic"]:
        """KVM's own counters of this vCPU, by name (KVM_GET_STATS_FD).

        >>> vcpu.statistics()["exits"].value
        0
        """
        from kvmhost.kvm.statistics import read_statistics

        self._vm.require(Cap.BINARY_STATS_FD, "KVM_GET_STATS_FD")
        return read_statistics(self.fd)


def _map_run_page(fd: int, size: int) -> Any:
    failed = ffi.cast("void *", -1)
    address = lib.mmap(ffi.NULL, size, lib.PROT_READ | lib.PROT_WRITE, lib.MAP_SHARED, fd, 0)
    if address == failed:
        raise explain("mmap", ffi.errno)
    return ffi.gc(ffi.cast("struct kvm_run *", address), lambda page: lib.munmap(page, size), size)
