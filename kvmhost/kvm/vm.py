"""The second object: one virtual machine.  It has memory and wires; its vCPUs do the work.

The order that works on every host: identity map and TSS addresses, irqchip and PIT, memory, then the vCPUs.
"""

from typing import TYPE_CHECKING, Any

from kvmhost.kvm.base import enable_cap, ioctl, new
from kvmhost.kvm.capabilities import Cap
from kvmhost.kvm.errors import CapabilityError, KvmError
from kvmhost.kvm.interrupts import VmInterrupts
from kvmhost.kvm.memory import MemorySlot, check_layout
from kvmhost.kvm.vcpu import Vcpu

if TYPE_CHECKING:
    from kvmhost.kvm.statistics import Statistic


class Vm(VmInterrupts):
    """A virtual machine, made by Kvm.create_vm.

    It owns its slots and its vCPUs: closing it closes them first, so the VM is really gone.  None of its
    vCPUs may be running in another thread then.

    >>> with kvm.create_vm() as vm:
    ...     slot = vm.add_memory(0, 0x1000)
    ...     vcpu = vm.create_vcpu(0)
    >>> vcpu.closed
    True
    """

    def __init__(self, fd: int, run_size: int) -> None:
        super().__init__(fd)
        self._run_size = run_size
        self._slots: dict[int, MemorySlot] = {}
        self._vcpus: dict[int, Vcpu] = {}

    def _release(self) -> None:
        for vcpu in list(self._vcpus.values()):
            vcpu.close()
        for slot in self._slots.values():
            slot._release()
        self._slots.clear()

    def check_extension(self, cap: Cap | int) -> int:
        """What KVM says about a capability for this VM; it can differ from what the host's fd says.

        >>> vm.check_extension(Cap.NR_MEMSLOTS) >= 32
        True
        """
        return ioctl(self.fd, "KVM_CHECK_EXTENSION", int(cap))

    def require(self, cap: Cap, operation: str) -> int:
        """The capability's value, or CapabilityError naming the operation that needs it.

        >>> vm.require(Cap.USER_MEMORY, "KVM_SET_USER_MEMORY_REGION")
        1
        """
        value = self.check_extension(cap)
        if not value:
            raise CapabilityError(operation, cap.name)
        return value

    def enable_cap(self, cap: Cap | int, *args: int, flags: int = 0) -> None:
        """Switch a capability on for the VM (KVM_ENABLE_CAP); up to four 64-bit arguments.

        >>> vm.enable_cap(Cap.EXIT_ON_EMULATION_FAILURE, 1)
        """
        enable_cap(self.fd, cap, args, flags)

    def set_identity_map_addr(self, address: int) -> None:
        """Where KVM may put the one page it needs to run unpaged code on old Intel CPUs; before the first
        vCPU.

        >>> vm.set_identity_map_addr(0xFFFB_C000)
        """
        ioctl(self.fd, "KVM_SET_IDENTITY_MAP_ADDR", new("unsigned long long *", address))

    def set_tss_addr(self, address: int) -> None:
        """Where KVM may put the three pages it needs for real mode on old Intel CPUs: guest-physical, below
        4 GiB.

        No slot may lie there and no guest may touch them.  Harmless everywhere else: always call it.

        >>> vm.set_tss_addr(0xFFFB_D000)
        """
        ioctl(self.fd, "KVM_SET_TSS_ADDR", address)

    def set_boot_cpu_id(self, vcpu_id: int) -> None:
        """Which vCPU boots; all others wait for INIT and SIPI (KVM_SET_BOOT_CPU_ID).  Before the first vCPU.

        >>> vm.set_boot_cpu_id(1)
        """
        ioctl(self.fd, "KVM_SET_BOOT_CPU_ID", vcpu_id)

    def add_memory(
        self, gpa: int, size: int, address: Any = None, *, readonly: bool = False, log_dirty: bool = False
    ) -> MemorySlot:
        """Give the VM `size` bytes at guest-physical `gpa` (KVM_SET_USER_MEMORY_REGION); both in whole pages.

        address: None for fresh zeroed memory that the slot owns; or a host address (int), a cffi pointer or
        an object with a writable buffer, page-aligned.  The object is kept alive by the slot; an int is the
        caller's promise. readonly: the guest's writes become ExitMmio.  log_dirty: see MemorySlot.dirty.

        Raises MemoryLayoutError for a slot that cannot be, KvmError for what KVM refuses.

        >>> slot = vm.add_memory(0xF_0000, 0x1000)
        >>> vm.add_memory(0xE_0000, 0x2_0000)
        Traceback (most recent call last):
        ...
        kvmhost.kvm.errors.MemoryLayoutError: ... 0xe0000 to 0x100000 overlaps slot 0, ...
        """
        _ = self.fd
        if readonly:
            self.require(Cap.READONLY_MEM, "KVM_SET_USER_MEMORY_REGION")
        check_layout(gpa, size, 0, self._slots.values())
        number = next(free for free in range(len(self._slots) + 1) if free not in self._slots)
        slot = MemorySlot(self, number, gpa, size, address, readonly=readonly, log_dirty=log_dirty)
        try:
            check_layout(gpa, size, slot.address, ())
            slot._register()
        except KvmError:
            slot._release()
            raise
        self._slots[number] = slot
        return slot

    @property
    def slots(self) -> tuple[MemorySlot, ...]:
        """The memory the VM has now.

        >>> vm.slots
        ()
        """
        return tuple(self._slots.values())

    def _forget_slot(self, slot: MemorySlot) -> None:
        """A slot was removed."""
        self._slots.pop(slot.number, None)

    def create_vcpu(self, vcpu_id: int = 0) -> Vcpu:
        """A new vCPU (KVM_CREATE_VCPU).  Its id is its LAPIC's too.  Use it from one thread only.

        >>> with vm.create_vcpu(0) as vcpu:
        ...     vcpu.id
        0
        """
        fd = ioctl(self.fd, "KVM_CREATE_VCPU", vcpu_id)
        vcpu = Vcpu(self, vcpu_id, fd, self._run_size)
        self._vcpus[vcpu_id] = vcpu
        return vcpu

    def _forget_vcpu(self, vcpu_id: int) -> None:
        """A vCPU was closed."""
        self._vcpus.pop(vcpu_id, None)

    def clock(self) -> int:
        """Nanoseconds of the VM's paravirtual clock (KVM_GET_CLOCK).

        >>> vm.clock() <= vm.clock()
        True
        """
        data = new("struct kvm_clock_data *")
        ioctl(self.fd, "KVM_GET_CLOCK", data)
        nanoseconds: int = data.clock
        return nanoseconds

    def set_clock(self, nanoseconds: int) -> None:
        """Set the VM's paravirtual clock (KVM_SET_CLOCK).

        >>> vm.set_clock(10**12)
        >>> vm.clock() >= 10**12
        True
        """
        ioctl(self.fd, "KVM_SET_CLOCK", new("struct kvm_clock_data *", {"clock": nanoseconds}))

    def statistics(self) -> dict[str, "Statistic"]:
        """KVM's own counters of this VM, by name (KVM_GET_STATS_FD).

        >>> vm.statistics()["remote_tlb_flush"].value
        0
        """
        from kvmhost.kvm.statistics import read_statistics

        self.require(Cap.BINARY_STATS_FD, "KVM_GET_STATS_FD")
        return read_statistics(self.fd)
