"""All the memory a VM can have, as one mapping.

VM-physical address 0 is the first byte of the mapping, so an address is an index and nothing else: the Host
area, the Guests' blocks with their shadow tables, and the Guests' RAM are all found by adding a number to one
base.  Nothing is reserved up front (the mapping is nearly 4 GiB; a page exists once somebody writes it), a
child process does not get a copy, and a core dump does not contain what Guests had in memory.
"""

import mmap
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from kvmhost._native import ffi, lib
from kvmhost.host.errors import AddressError, KvmhostError

# mmap(2); the mmap module of Python 3.11 does not name it.
MAP_NORESERVE: Final = 0x4000


class VmMemory:
    """VM-physical memory from 0 to `size` (bytes, a multiple of 4096; default GUEST_AREA_LIMIT).

    `address` is the host-virtual address of VM-physical 0, for KVM's memory slots.  `u8`, `u32` and `u64` are
    bounds-checked arrays over all of it: index with a VM-physical address divided by 1, 4 or 8.  They, and
    every pointer made from them, are dead after close().

    Raises KvmhostError if the address space cannot be had.

    >>> with VmMemory(0x10000) as memory:
    ...     memory.u32[0x2000 // 4] = 0x12345678
    ...     memory.write(0x2001, b"\\xab")
    ...     before = memory.read(0x2000, 4).hex()
    ...     memory.release(0x2000, 0x1000)
    ...     before, memory.read(0x2000, 4).hex()
    ('78ab3412', '00000000')
    """

    def __init__(self, size: int = lib.GUEST_AREA_LIMIT) -> None:
        try:
            self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
        except (OSError, ValueError) as error:
            raise KvmhostError(
                f"no room for {size:#x} bytes of address space",
                cause=str(error),
                next_step="raise `ulimit -v`, or set vm.overcommit_memory to 0 or 1",
            ) from error
        self.size = size
        self.closed = False
        self._map.madvise(mmap.MADV_DONTFORK)
        self._map.madvise(mmap.MADV_DONTDUMP)
        self.u8: Any = ffi.from_buffer("uint8_t[]", self._map, require_writable=True)
        self.u32: Any = ffi.from_buffer("uint32_t[]", self._map, require_writable=True)
        self.u64: Any = ffi.from_buffer("uint64_t[]", self._map, require_writable=True)
        self.address = int(ffi.cast("uintptr_t", self.u8))

    def read(self, physical: int, length: int) -> bytes:
        """Copy `length` bytes out from VM-physical `physical`. Raises AddressError outside of memory."""
        self._check(physical, length)
        return self._map[physical : physical + length]

    def write(self, physical: int, data: bytes | bytearray | memoryview) -> None:
        """Copy `data` to VM-physical `physical`. Raises AddressError outside of memory."""
        length = memoryview(data).nbytes
        self._check(physical, length)
        self._map[physical : physical + length] = bytes(data)

    def view(self, physical: int, length: int) -> memoryview:
        """The memory itself, for readv(2) and the like.  Raises AddressError outside of memory.

        To be let go before close(): while a view lives the mapping stays, and goes with the last of them.

        >>> with VmMemory(0x1000) as memory:
        ...     with memory.view(0x10, 2) as two:
        ...         two[0] = 0xAB
        ...     memory.read(0x10, 2).hex()
        'ab00'
        """
        self._check(physical, length)
        return memoryview(self._map)[physical : physical + length]

    def release(self, physical: int, length: int) -> None:
        """Give whole pages back to the system: they read as zero afterwards.

        Both are in bytes and multiples of 4096. Raises AddressError if not, or outside of memory.
        """
        self._check(physical, length)
        if (physical | length) % mmap.PAGESIZE:
            raise AddressError(f"{physical:#x} + {length:#x} is not made of whole pages")
        if length:
            self._map.madvise(mmap.MADV_DONTNEED, physical, length)

    def close(self) -> None:
        """Unmap. Twice is as good as once."""
        if not self.closed:
            self.closed = True
            for array in (self.u8, self.u32, self.u64):
                ffi.release(array)
            self.u8 = self.u32 = self.u64 = None
            with suppress(BufferError):
                self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, physical: int, length: int) -> None:
        if self.closed:
            raise AddressError("this VM's memory is closed")
        if physical < 0 or length < 0 or physical + length > self.size:
            raise AddressError(
                f"{length:#x} bytes at VM-physical {physical:#x} are outside of memory",
                cause=f"it ends at {self.size:#x}",
            )
