"""A Machine: one VM, its vCPUs, and the Guests that share them.

`kvmhost run` makes one Machine a Guest.  A Machine with several Guests shares
CPUs between them, which nothing here protects against speculative side channels;
it is made on purpose or not at all.
"""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from kvmhost._native import lib
from kvmhost.host.abi import Abi
from kvmhost.host.clock import Clock
from kvmhost.host.cpu import FIRST_KICK_GSI, MSI_ADDRESS, Cpu
from kvmhost.host.cpuid import guest_table
from kvmhost.host.errors import KvmhostError, MachineBroken
from kvmhost.host.guest import PAGE_OFFSET, Guest
from kvmhost.host.host_area import HostArea
from kvmhost.host.memory import VmMemory
from kvmhost.host.outcome import Outcome, OutcomeKind
from kvmhost.host.scheduler import Scheduler
from kvmhost.host.statistics import Statistics, collect
from kvmhost.host.watch import Watch
from kvmhost.kvm import CpuidEntry, Kvm, MsiRoute
from kvmhost.switcher import load as load_switcher
from kvmhost.switcher.blobs import Blob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kvmhost.host.trace import TraceFile

DEFAULT_SLICE_SECONDS = 0.01
SMALLEST_GUEST = 0x100000
HYPERVISOR_LEAVES = range(0x40000000, 0x40010000)
X2APIC_BIT = 1 << 21
APIC_ID_SHIFT = 24
# Advanced Power Management Information: whether the TSC runs at one rate in every state.
TSC_LEAF = 0x80000007
INVARIANT_TSC = 1 << 8


def _vcpu_cpuid(entries: Iterable[CpuidEntry], index: int) -> list[CpuidEntry]:
    """What ring 0 sees: KVM's best offer, without hypervisor leaves, with this vCPU's APIC id."""
    result = []
    for entry in entries:
        if entry.function in HYPERVISOR_LEAVES:
            continue
        if entry.function == 1:
            ebx = entry.ebx & 0x00FFFFFF | index << APIC_ID_SHIFT
            entry = CpuidEntry(1, 0, entry.flags, entry.eax, ebx, entry.ecx | X2APIC_BIT, entry.edx)
        result.append(entry)
    return result


class Machine:
    """A VM with `cpus` vCPUs (1 to 16) and a Switcher, ready for Guests.

    memory: RAM of a Guest in bytes where add_guest is not told.  switcher: a shipped name, a path,
    or a Blob.  kvm: an open Kvm to use (left open); None opens /dev/kvm.  slice_seconds: how long a
    Guest keeps a vCPU that others wait for.

    Raises KvmError where KVM refuses, SwitcherError for a Switcher of no use, KvmhostError for
    numbers out of range.
    """

    def __init__(
        self,
        memory: int = 64 << 20,
        cpus: int = 1,
        switcher: str | Blob = "hardened",
        kvm: Kvm | None = None,
        slice_seconds: float = DEFAULT_SLICE_SECONDS,
    ) -> None:
        if not isinstance(cpus, int) or not 1 <= cpus <= lib.MAX_CPUS:
            raise KvmhostError(
                f"{cpus!r} vCPUs are not possible",
                cause=f"a Machine has 1 to {lib.MAX_CPUS}",
                next_step="choose a number in that range",
            )
        self.blob = switcher if isinstance(switcher, Blob) else load_switcher(str(switcher))
        self.default_memory = memory
        self.guests: list[Guest] = []
        self.cpus: list[Cpu] = []
        self.clock = Clock()
        self.scheduler = Scheduler(self.clock, slice_seconds)
        self.closed = False
        self.broken: MachineBroken | None = None
        self._last_statistics: Statistics | None = None
        self._next_block: int = lib.GUEST_AREA_BASE
        self._own_kvm = kvm is None
        self.memory = VmMemory()
        self.kvm: Kvm | None = None
        try:
            self.kvm = kvm or Kvm()
            self._create(cpus)
        except BaseException:
            self.close()
            raise

    def _create(self, cpus: int) -> None:
        assert self.kvm is not None
        vm = self.vm = self.kvm.create_vm()
        vm.set_identity_map_addr(lib.KVM_IDENTITY_MAP_BASE)
        vm.set_tss_addr(lib.KVM_TSS_BASE)
        vm.create_irqchip()
        vm.add_memory(
            lib.HOST_AREA_BASE, lib.HOST_AREA_SIZE, address=self.memory.address + lib.HOST_AREA_BASE
        )
        vm.set_routes(
            MsiRoute(FIRST_KICK_GSI + index, MSI_ADDRESS | index << 12, lib.KICK_VECTOR)
            for index in range(cpus)
        )
        self.host = HostArea(self.memory, self.blob)
        self.host.check_gates()
        offered = self.kvm.supported_cpuid()
        self._guest_cpuid = guest_table(
            {entry.function: (entry.eax, entry.ebx, entry.ecx, entry.edx) for entry in offered}
        )
        self._tsc_khz = 0
        for index in range(cpus):
            self.cpus.append(Cpu(vm, self.host, index, _vcpu_cpuid(offered, index)))
            self.cpus[index].start()
        if any(entry.function == TSC_LEAF and entry.edx & INVARIANT_TSC for entry in offered):
            self._tsc_khz = self.cpus[0].vcpu.tsc_khz()

    def add_guest(
        self,
        memory_bytes: int | None = None,
        name: str = "guest",
        *,
        abi: Abi | None = None,
        page_offset: int = PAGE_OFFSET,
        pae: bool = False,
        device_bytes: int = 0,
    ) -> Guest:
        """A Guest with RAM full of zeros and registers as at power-on (abi 9.2).

        memory_bytes: a multiple of 4096 from 1 MiB on.  abi: the generation it speaks; None where nobody
        knows: then the usual one is assumed and LGUEST_INIT may correct it.  page_offset, pae: where its
        kernel lives and the format of its page tables, which only Guests of 2.6.30 to 3.0 need to be known
        before they run.  device_bytes: memory directly above RAM in which devices and their drivers meet,
        in whole pages (abi 7.5).  Raises KvmhostError if it does not fit below 0xFE000000 together with
        what is there already.
        """
        size = self.default_memory if memory_bytes is None else memory_bytes
        block = self._next_block
        base = block + lib.GUEST_BLOCK_SIZE
        align = lib.GUEST_AREA_ALIGN
        end = base + -(-(size + device_bytes) // align) * align
        if size < SMALLEST_GUEST or size % lib.PAGE_BYTES:
            raise KvmhostError(
                f"{size} bytes of memory are not possible",
                cause="a Guest has at least 1 MiB, in whole pages of 4096 bytes",
                next_step="ask for 1M or more",
            )
        if end > lib.GUEST_AREA_LIMIT:
            raise KvmhostError(
                f"{size >> 20} MiB of memory do not fit",
                cause=f"all Guests of a Machine live below {lib.GUEST_AREA_LIMIT:#x}",
                next_step=f"ask for {(lib.GUEST_AREA_LIMIT - base - device_bytes) >> 20} MiB or less",
            )
        self.vm.add_memory(block, base + size + device_bytes - block, address=self.memory.address + block)
        self.host.map_guest(block, end)
        self._next_block = end
        cpuid = dict(self._guest_cpuid)
        guest = Guest(
            self, name, block, base, size, self.blob.layout, cpuid, abi, page_offset, pae, device_bytes
        )
        guest.tsc_khz = self._tsc_khz
        self.guests.append(guest)
        return guest

    def take_back(self, guest: Guest) -> None:
        """Undo add_guest() for a Guest that has not run and whose devices are closed: it was not to be.

        Its memory can be had again if it was the last one.
        """
        self.guests.remove(guest)
        for slot in self.vm.slots:
            if slot.gpa == guest.block:
                slot.remove()
        end = guest.state.mem_base + guest.ram.size
        guest.forget_memory()
        self.memory.release(guest.block, end - guest.block)
        if all(other.block < guest.block for other in self.guests):
            self._next_block = guest.block

    def wake(self, guest: Guest) -> None:
        """An interrupt was posted for a Guest.  From any thread."""
        self.scheduler.wake(guest)

    def run(
        self, timeout: float | None = None, until: Guest | Callable[[], bool] | None = None
    ) -> dict[Guest, Outcome]:
        """Run all Guests until each is over, and return what became of them.

        timeout in seconds.  until: a Guest whose end, or a function whose truth (asked between
        slices), ends the run early; the others can be run again later.  Ctrl-C ends it too.

        Raises HookError if a handler raised, MachineBroken if the VM was lost: then all its Guests are
        over, and nothing is left to do but close it.
        """
        if self.closed:
            raise KvmhostError("this Machine is closed", next_step="make another")
        awaited = until if isinstance(until, Guest) else None
        asked = None if isinstance(until, Guest) else until

        def goal() -> bool:
            if awaited is not None:
                return awaited.outcome is not None
            return asked is not None and asked()

        if self.broken is not None:
            raise self.broken
        try:
            return self.scheduler.run(self.cpus, self.guests, goal, timeout, asked is not None)
        except MachineBroken as broken:
            self.broken = broken
            for guest in self.guests:
                guest.end(OutcomeKind.KILLED, f"its machine was lost: {broken.message}")
            raise

    def watch(self, trace: TraceFile | None = None) -> None:
        """From now on, time what the Guests do (statistics().times); with `trace`, write it all down there.

        Guests that are added later are not watched.  The trace must be closed after the machine.
        """
        for guest in self.guests:
            guest.watch = Watch(guest, trace)

    def stop(self) -> None:
        """End a run from another thread; the Guests can be run again."""
        self.scheduler.stop(OutcomeKind.INTERRUPTED)

    def fail(self, error: BaseException) -> None:
        """End a run from another thread, which has failed with this: run() raises it."""
        self.scheduler.fail(error)

    def statistics(self) -> Statistics:
        """Counters since the Machine was made; after close(), as they were then."""
        return self._last_statistics or collect(self)

    def close(self) -> None:
        """Give everything back: threads, vCPUs, VM, memory.  Twice is as good as once.

        A run in another thread is ended first.  Raises KvmhostError from inside a run: a handler's; and
        what a device raises that cannot be closed, when all the rest is.
        """
        if self.closed:
            return
        self.scheduler.rest()
        self.closed = True
        # From the last to the first: whatever one of them raises, the others are done all the same.
        with ExitStack() as then:
            then.callback(self.memory.close)
            for cpu in self.cpus:
                then.callback(cpu.forget_memory)
            for guest in self.guests:
                then.callback(guest.forget_memory)
            if self._own_kvm and self.kvm is not None:
                then.callback(self.kvm.close)
            if hasattr(self, "vm"):
                then.callback(self.vm.close)
            for cpu in self.cpus:
                then.callback(cpu.close)
            if self.kvm is not None:
                then.callback(self._count)
            for guest in reversed(self.guests):
                if guest.bus is not None:
                    then.callback(guest.bus.close)
            then.callback(self.clock.close)

    def _count(self) -> None:
        """What statistics() says from now on."""
        self._last_statistics = collect(self)

    def __repr__(self) -> str:
        life = "closed" if self.closed else "broken" if self.broken else "open"
        return f"<Machine {life}: {len(self.cpus)} vCPUs, {len(self.guests)} Guests>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
