"""A virtqueue: buffers of a Guest's, handed over and given back.

A driver writes descriptors (address, length, who writes), chains them, and puts the number of a chain's
first one into the available ring; the device works and puts that number into the used ring.  All of it is the
Guest's memory, and it may write anything there at any moment, also while we read.  So each descriptor is
copied once, and only the copy is looked at: what it says is checked before anybody follows it, and a Guest
that broke a rule dies alone (RingBroken).

Neither side waits for the other by looking.  The Guest kicks unless the used ring's flags say that somebody
is awake; we raise an interrupt unless the available ring's flags say that nobody wants one.  Both sides first
say that they will sleep and then look once more, with a full fence between the two: on x86 a load may
otherwise pass an earlier store, and both would sleep (abi 10.2, "Queue rules").
"""

from __future__ import annotations

import os
import select
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvmhost._native import lib
from kvmhost.host.errors import GuestBroke

if TYPE_CHECKING:
    from kvmhost.host.guest import Guest

Part = tuple[int, int]

NEXT: Final[int] = lib.VIRTIO_NEXT
WRITE: Final[int] = lib.VIRTIO_WRITE
INDIRECT: Final[int] = lib.VIRTIO_INDIRECT
RING_BYTES: Final[int] = lib.VIRTIO_RING_BYTES
NO_INTERRUPT: Final[int] = lib.VIRTIO_NO_INTERRUPT
NO_NOTIFY: Final[int] = lib.VIRTIO_NO_NOTIFY
MOST_ENTRIES: Final = 256
MOST_TOLD: Final = 0xFFFFFFFF

# struct virtio_descriptor and struct virtio_used_entry; a test holds them against native/abi.
_DESCRIPTOR: Final = struct.Struct("<QIHH")
_USED: Final = struct.Struct("<II")
DESCRIPTOR_BYTES: Final = _DESCRIPTOR.size
USED_BYTES: Final = _USED.size


class RingBroken(GuestBroke):
    """A Guest broke a rule of a ring: it alone dies.  `reason` names the device and the queue."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a ring lies: Guest-physical addresses of its three parts, and its number of entries."""

    entries: int
    descriptors: int
    available: int
    used: int

    @classmethod
    def contiguous(cls, address: int, entries: int) -> Place:
        """The one piece that lguest's page names: descriptors, available ring, and on a new page the used.

        >>> place = Place.contiguous(0x100000, 256)
        >>> hex(place.available), hex(place.used), place.pages
        ('0x101000', '0x102000', 3)
        """
        available = address + DESCRIPTOR_BYTES * entries
        end = available + RING_BYTES + 2 * entries + 2
        align = int(lib.DEVICE_RING_ALIGN)
        return cls(entries, address, available, -(-end // align) * align)

    @property
    def pages(self) -> int:
        """Pages from the descriptors to the end of the used ring."""
        page = int(lib.PAGE_BYTES)
        end = self.used + RING_BYTES + USED_BYTES * self.entries + 2
        return -(-end // page) - self.descriptors // page


@dataclass(frozen=True, slots=True)
class Chain:
    """One request: what the device may read, then what it may write.

    head: its name in both rings.  Each part is (Guest-physical address, length in bytes), and was checked
    to lie in the Guest's memory.
    """

    head: int
    readable: tuple[Part, ...]
    writable: tuple[Part, ...]

    @property
    def readable_bytes(self) -> int:
        return sum(length for _, length in self.readable)

    @property
    def writable_bytes(self) -> int:
        """How much room the device has.

        >>> Chain(3, ((0x1000, 16),), ((0x2000, 512), (0x3000, 1))).writable_bytes
        513
        """
        return sum(length for _, length in self.writable)


class StopSign:
    """Tells every thread of a device that it is over; one descriptor that all of them can poll."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._set = False

    def is_set(self) -> bool:
        """Whether the device is to stop."""
        return self._set

    def set(self) -> None:
        """From any thread; twice is as good as once."""
        self._set = True
        os.eventfd_write(self.fd, 1)

    def close(self) -> None:
        """When no thread looks at it any more."""
        os.close(self.fd)


class Virtqueue:
    """One queue of a device that runs.

    name: for people ("console queue 0").  num: its entries.  raise_interrupt: tells the Guest.  indirect:
    whether the driver accepted VIRTIO_F_INDIRECT.  One thread pops and waits; push() and interrupt() may
    come from several.  After close() every use is a ValueError.

    Raises RingBroken if the ring does not lie in the Guest's memory.
    """

    def __init__(
        self,
        guest: Guest,
        name: str,
        place: Place,
        raise_interrupt: Callable[[], None],
        stop: StopSign,
        indirect: bool = False,
    ) -> None:
        self.name = name
        self.num = place.entries
        self.indirect = indirect
        self.stop = stop
        self._watch = guest.watch
        self._limit = int(guest.state.limit_bytes)
        self._raise_interrupt = raise_interrupt
        self._check_place(place)
        # All of the Guest's memory, once in bytes and once in words of each size: index = address / size.
        self._bytes = guest.memory.view(guest.state.mem_base, self._limit)
        self._u16 = self._bytes.cast("H")
        self._descriptors = place.descriptors
        self._available = place.available // 2
        self._used = place.used
        self._seen = 0
        self._done = 0
        self._pushing = threading.Lock()
        self._kick = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._kick, select.POLLIN)
        self._poll.register(stop.fd, select.POLLIN)
        self._u16[self._used // 2] = NO_NOTIFY

    # ---- taking and giving back ----------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many requests the driver says that there are; it may say anything."""
        return int((self._u16[self._available + 1] - self._seen) & 0xFFFF)

    # [D10]
    def pop(self) -> Chain | None:
        """The next request, or None if there is none.  Raises RingBroken."""
        waiting = self.waiting
        if not waiting:
            return None
        if waiting > self.num:
            raise self._broken(f"offers {waiting} chains at once, and has {self.num} entries")
        head = self._u16[self._available + 2 + self._seen % self.num]
        self._seen = (self._seen + 1) & 0xFFFF
        if self._watch is not None:
            self._watch.event(f"{self.name} takes", head=head)
        return self._walk(head)

    def push(self, chain: Chain, written: int = 0) -> None:
        """Give a request back; `written`: how many bytes of its room are filled, as far as 32 bits go."""
        with self._pushing:
            at = self._used + RING_BYTES + USED_BYTES * (self._done % self.num)
            _USED.pack_into(self._bytes, at, chain.head, min(written, MOST_TOLD))
            self._done = (self._done + 1) & 0xFFFF
            self._u16[self._used // 2 + 1] = self._done
        if self._watch is not None:
            self._watch.event(f"{self.name} gives back", head=chain.head, written=written)

    def interrupt(self) -> None:
        """Tell the Guest what was pushed, unless it does not want to hear."""
        lib.kvmhost_fence()
        if not self._u16[self._available] & NO_INTERRUPT:
            if self._watch is not None:
                self._watch.event(f"{self.name} interrupts")
            self._raise_interrupt()

    # ---- what is in a request -------------------------------------------------------

    def read(self, chain: Chain) -> bytes:
        """Everything the device may read, copied: look at the copy only, the Guest can change the rest."""
        return b"".join([self._bytes[at : at + length] for at, length in chain.readable])

    def write(self, chain: Chain, data: bytes | memoryview, offset: int = 0) -> int:
        """Copy `data` into the writable part from byte `offset` on; returns how much of it had room."""
        view = memoryview(data)
        written = 0
        for at, length in chain.writable:
            if offset >= length:
                offset -= length
                continue
            piece = view[written : written + length - offset]
            if not piece:
                break
            self._bytes[at + offset : at + offset + len(piece)] = piece
            written += len(piece)
            offset = 0
        return written

    def iov(self, parts: tuple[Part, ...], offset: int = 0, most: int | None = None) -> list[memoryview]:
        """The Guest's memory itself, for os.readv, os.preadv and their like.

        parts: chain.readable or chain.writable.  offset, most: skip so many bytes, and take at most so many.
        Forget the list before stop() ends: it keeps the memory.
        """
        left = self._limit * len(parts) if most is None else most
        found = []
        for at, length in parts:
            if offset >= length:
                offset -= length
                continue
            size = min(length - offset, left)
            if size <= 0:
                break
            found.append(self._bytes[at + offset : at + offset + size])
            left -= size
            offset = 0
        return found

    # ---- sleeping and waking ----------------------------------------------------------

    def kick(self) -> None:
        """The Guest says that there is something.  From the vCPU's thread."""
        if self._watch is not None:
            self._watch.event(f"{self.name} is kicked")
        os.eventfd_write(self._kick, 1)

    # [D20]
    def wait(self, timeout: float | None = None, also: int | None = None) -> bool:
        """Sleep until there may be a request: True.  False: the device stops, or `timeout` seconds are over.

        also: a descriptor that wakes us as well when it is readable or broken.

        The loop of a device's thread is

            while queue.wait():
                while (chain := queue.pop()) is not None:
                    ...
                    queue.push(chain)
                queue.interrupt()
        """
        if self.stop.is_set():
            return False
        flags = self._used // 2
        self._u16[flags] = 0
        lib.kvmhost_fence()
        if self._u16[self._available + 1] == self._seen:
            if also is not None:
                self._poll.register(also, select.POLLIN)
            ready = {fd for fd, _ in self._poll.poll(None if timeout is None else timeout * 1000)}
            if also is not None:
                self._poll.unregister(also)
            if self._kick in ready:
                os.eventfd_read(self._kick)
            if self.stop.is_set():
                return False
            if not ready:
                self._u16[flags] = NO_NOTIFY
                return False
        self._u16[flags] = NO_NOTIFY
        return True

    def wait_for(self, fd: int, events: int = select.POLLIN, timeout: float | None = None) -> bool:
        """Sleep until `fd` is ready for `events` (or broken): True.  False: to stop, or time is over."""
        poll = select.poll()
        poll.register(fd, events)
        poll.register(self.stop.fd, select.POLLIN)
        ready = {ready for ready, _ in poll.poll(None if timeout is None else timeout * 1000)}
        return fd in ready and not self.stop.is_set()

    def close(self) -> None:
        """When no thread uses it any more."""
        os.close(self._kick)
        self._u16.release()
        self._bytes.release()

    # ---- rules ---------------------------------------------------------------------------

    def _walk(self, head: int) -> Chain:
        """Follow a chain, checking each step.  Direct descriptors, then perhaps a table of further ones."""
        readable: list[Part] = []
        writable: list[Part] = []
        index = head
        for _ in range(self.num):
            if index >= self.num:
                raise self._broken(f"names descriptor {index}, and has {self.num}")
            address, length, flags, following = _DESCRIPTOR.unpack_from(
                self._bytes, self._descriptors + DESCRIPTOR_BYTES * index
            )
            if flags & INDIRECT:
                self._table(address, length, flags, readable, writable)
                return Chain(head, tuple(readable), tuple(writable))
            self._part(address, length, flags, readable, writable)
            if not flags & NEXT:
                return Chain(head, tuple(readable), tuple(writable))
            index = following
        raise self._broken(f"has a chain of more than {self.num} descriptors")

    def _table(
        self, address: int, length: int, flags: int, readable: list[Part], writable: list[Part]
    ) -> None:
        """An indirect table, copied as a whole and then walked."""
        if not self.indirect:
            raise self._broken("has an indirect descriptor, which was not agreed upon")
        if flags & NEXT:
            raise self._broken("has an indirect descriptor that leads on")
        count = length // DESCRIPTOR_BYTES
        if length % DESCRIPTOR_BYTES or not 0 < count <= self.num:
            raise self._broken(f"has an indirect table of {length} bytes")
        self._check(address, length)
        table = bytes(self._bytes[address : address + length])
        index = 0
        for _ in range(count):
            if index >= count:
                raise self._broken(f"names entry {index} of an indirect table of {count}")
            address, length, flags, following = _DESCRIPTOR.unpack_from(table, DESCRIPTOR_BYTES * index)
            if flags & INDIRECT:
                raise self._broken("has an indirect table inside an indirect table")
            self._part(address, length, flags, readable, writable)
            if not flags & NEXT:
                break
            index = following
        else:
            raise self._broken(f"has a loop in an indirect table of {count}")
        if len(readable) + len(writable) > self.num:
            raise self._broken(f"has a chain of more than {self.num} descriptors")

    def _part(
        self, address: int, length: int, flags: int, readable: list[Part], writable: list[Part]
    ) -> None:
        self._check(address, length)
        if flags & WRITE:
            writable.append((address, length))
        elif writable:
            raise self._broken("has a chain with something to read behind something to write")
        else:
            readable.append((address, length))

    def _check(self, address: int, length: int) -> None:
        if address + length > self._limit:
            raise self._broken(
                f"names {length:#x} bytes at {address:#x}, and memory ends at {self._limit:#x}"
            )

    def _check_place(self, place: Place) -> None:
        if place.entries & (place.entries - 1) or not 0 < place.entries <= MOST_ENTRIES:
            raise self._broken(f"has {place.entries} entries, which is no power of two up to {MOST_ENTRIES}")
        for what, address, align, length in (
            ("descriptors", place.descriptors, 16, DESCRIPTOR_BYTES * place.entries),
            ("available ring", place.available, 2, RING_BYTES + 2 * place.entries),
            ("used ring", place.used, 4, RING_BYTES + USED_BYTES * place.entries),
        ):
            if address % align:
                raise self._broken(f"has its {what} at {address:#x}, which is no multiple of {align}")
            self._check(address, length)

    def _broken(self, what: str) -> RingBroken:
        return RingBroken(f"its {self.name} {what}", "this is a defect of the Guest's virtio driver")
