"""Memory slots: which of this process's memory the VM sees, and where.

KVM borrows host memory by address and trusts the owner to keep it there.  A slot therefore either owns an
anonymous mapping of its own or holds a reference to what it was given, until it is removed.  Memory a slot
owns is not copied by fork (the child's copy-on-write would move pages away from under the VM).
"""

import mmap
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Protocol

from kvmhost._native import ffi, lib
from kvmhost.kvm.base import PAGE, ioctl, new
from kvmhost.kvm.errors import ClosedError, KvmError, MemoryLayoutError, explain


class SlotHolder(Protocol):
    """What a slot needs of its Vm."""

    @property
    def fd(self) -> int: ...

    def _forget_slot(self, slot: "MemorySlot") -> None: ...


def check_layout(gpa: int, size: int, address: int, others: Iterable["MemorySlot"]) -> None:
    """Raise MemoryLayoutError unless a slot of `size` bytes at guest-physical `gpa` and host `address` can
    be.

    >>> check_layout(0x1000, 0x800, 0x7F0000000000, [])
    Traceback (most recent call last):
    ...
    kvmhost.kvm.errors.MemoryLayoutError: ... size 0x800 is no multiple of the page (0x1000). Next: round it
    """
    name = "KVM_SET_USER_MEMORY_REGION"
    for what, value in (("guest-physical address", gpa), ("size", size), ("host address", address)):
        if value % PAGE:
            raise MemoryLayoutError(
                name, cause=f"{what} {value:#x} is no multiple of the page ({PAGE:#x})", next_step="round it"
            )
    if size <= 0:
        raise MemoryLayoutError(name, cause="a slot of no bytes", next_step="give it a page at least")
    if gpa < 0 or gpa + size > 1 << 52:
        raise MemoryLayoutError(
            name,
            cause=f"{gpa:#x} and {size:#x} bytes on leave the guest-physical space",
            next_step="place it lower, or make it smaller",
        )
    for other in others:
        if gpa < other.gpa + other.size and other.gpa < gpa + size:
            raise MemoryLayoutError(
                name,
                cause=f"{gpa:#x} to {gpa + size:#x} overlaps slot {other.number}, "
                f"{other.gpa:#x} to {other.gpa + other.size:#x}",
                next_step="move it, or remove the other",
            )


class MemorySlot:
    """One range of guest-physical memory.  Made by Vm.add_memory, ended by remove() or with the Vm.

    number, gpa and size (bytes) tell where it is; readonly: a guest's write becomes an ExitMmio.

    >>> with vm.add_memory(0x10_0000, 0x2000) as slot:
    ...     slot.view[0:4] = b"lgue"
    ...     bytes(slot.view[0:6])
    b'lgue\\x00\\x00'
    """

    def __init__(
        self,
        holder: SlotHolder,
        number: int,
        gpa: int,
        size: int,
        memory: Any,
        *,
        readonly: bool,
        log_dirty: bool,
    ) -> None:
        self.number, self.gpa, self.size = number, gpa, size
        self.readonly, self.log_dirty = readonly, log_dirty
        self._holder: SlotHolder | None = holder
        self._owned: mmap.mmap | None = None
        self._kept: Any = memory
        if memory is None:
            self._owned = _anonymous(size)
            self._address = _address_of_buffer(self._owned)
        else:
            self._address = address_of(memory, size)

    @property
    def address(self) -> int:
        """Host virtual address of its first byte; raises ClosedError once removed.

        >>> vm.add_memory(0, 0x1000).address % 4096
        0
        """
        self._alive()
        return self._address

    @property
    def view(self) -> memoryview:
        """Its bytes, for reading and writing.  Only for memory the slot owns; else use what you gave it.

        A view that outlives the slot stays valid (and keeps the mapping) until it is dropped.

        >>> len(vm.add_memory(0, 0x1000).view)
        4096
        """
        self._alive()
        if self._owned is None:
            raise KvmError(
                "MemorySlot.view",
                cause="the slot was given its memory",
                next_step="use the memory you gave it",
            )
        return memoryview(self._owned)

    def _register(self) -> None:
        """Tell KVM about the slot as it now is (KVM_SET_USER_MEMORY_REGION)."""
        self._set_region(self.size)

    def set_log_dirty(self, on: bool) -> None:
        """Start or stop recording which pages the guest writes.

        >>> slot = vm.add_memory(0, 0x1000)
        >>> slot.set_log_dirty(True)
        >>> slot.dirty()
        ()
        """
        self._alive()
        self.log_dirty = on
        self._register()

    def dirty(self) -> tuple[int, ...]:
        """Numbers of the slot's pages that the guest wrote since the last call (KVM_GET_DIRTY_LOG).

        >>> vm.add_memory(0, 0x4000, log_dirty=True).dirty()
        ()
        """
        holder = self._alive()
        pages = self.size // PAGE
        bitmap = new("unsigned long long[]", (pages + 63) // 64)
        log = new("struct kvm_dirty_log *", {"slot": self.number, "dirty_bitmap": bitmap})
        ioctl(holder.fd, "KVM_GET_DIRTY_LOG", log)
        return tuple(
            64 * place + bit
            for place, word in enumerate(bitmap)
            if word
            for bit in range(64)
            if word >> bit & 1
        )

    def remove(self) -> None:
        """Take the range away from the VM and let its memory go.  Removing twice is harmless.

        >>> slot = vm.add_memory(0, 0x1000)
        >>> slot.remove()
        >>> slot.address
        Traceback (most recent call last):
        ...
        kvmhost.kvm.errors.ClosedError: MemorySlot: it is closed. Next: ...
        """
        if self._holder is not None:
            holder = self._holder
            self._set_region(0)
            holder._forget_slot(self)
            self._release()

    def _release(self) -> None:
        """Let the memory go without telling KVM: for a Vm that is already closed."""
        self._holder = self._kept = None
        owned, self._owned = self._owned, None
        if owned is not None:
            # While a view still lives the mapping stays, and goes with the last of them.
            with suppress(BufferError):
                owned.close()

    def _alive(self) -> SlotHolder:
        if self._holder is None:
            raise ClosedError("MemorySlot")
        return self._holder

    def _set_region(self, size: int) -> None:
        flags = lib.KVM_MEM_READONLY * self.readonly | lib.KVM_MEM_LOG_DIRTY_PAGES * self.log_dirty
        region = new("struct kvm_userspace_memory_region *")
        region.slot, region.flags = self.number, flags
        region.guest_phys_addr, region.memory_size = self.gpa, size
        region.userspace_addr = self._address
        ioctl(self._alive().fd, "KVM_SET_USER_MEMORY_REGION", region)

    def __enter__(self) -> "MemorySlot":
        self._alive()
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def address_of(memory: Any, size: int) -> int:
    """Host address of `memory`: an int, a cffi pointer, or anything with a writable buffer of at least
    `size` bytes.

    >>> address_of(0x7F0000000000, 4096) == 0x7F0000000000
    True
    """
    if isinstance(memory, int):
        return memory
    if isinstance(memory, ffi.CData):
        return int(ffi.cast("uintptr_t", memory))
    if memoryview(memory).nbytes < size:
        raise MemoryLayoutError(
            "KVM_SET_USER_MEMORY_REGION",
            cause=f"the buffer has {memoryview(memory).nbytes:#x} bytes, the slot {size:#x}",
            next_step="make the buffer as large as the slot",
        )
    return _address_of_buffer(memory)


def _address_of_buffer(memory: Any) -> int:
    return int(ffi.cast("uintptr_t", ffi.from_buffer(memory)))


def _anonymous(size: int) -> mmap.mmap:
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | lib.MAP_NORESERVE)
    except OSError as error:
        raise explain("mmap", error.errno or 0) from error
    memory.madvise(mmap.MADV_DONTFORK)
    return memory
