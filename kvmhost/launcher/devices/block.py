"""A disk, as the driver in a Guest sees it: requests in one queue, each with an answer of one byte.

A request is a header (what, where), data to write or room for data to read, and at the very end of the room
one byte for the answer.  Only the sum of the parts counts, not how they are cut (abi 10.2, "Block driver").

What an answer promises depends on what the driver can ask for.  One that knows flushes is answered when the
kernel has its data, and asks for a flush when it must be on the disk.  One that knows barriers gets what it
wrote before, and the barrier's own data, on the disk around it.  One that knows neither (2.6.24, 2.6.25)
cannot ask, so to it nothing is done before it is on the disk.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from pathlib import PurePath
from typing import TYPE_CHECKING, ClassVar, Final

from kvmhost._native import lib
from kvmhost.host.abi import BusKind
from kvmhost.launcher.devices.claim import SECTOR
from kvmhost.launcher.devices.device import Device, Wiring
from kvmhost.launcher.devices.disk import PIECE, Areas, OpenDisk
from kvmhost.launcher.devices.ring import Chain, Part, RingBroken, StopSign, Virtqueue

if TYPE_CHECKING:
    from kvmhost.host.abi import Abi

OK: Final = int(lib.BLOCK_OK)
IO_ERROR: Final = int(lib.BLOCK_IO_ERROR)
UNSUPPORTED: Final = int(lib.BLOCK_UNSUPPORTED)

IN: Final = int(lib.BLOCK_IN)
OUT: Final = int(lib.BLOCK_OUT)
FLUSH: Final = int(lib.BLOCK_FLUSH)
FLUSH_OUT: Final = int(lib.BLOCK_FLUSH_OUT)
GET_ID: Final = int(lib.BLOCK_GET_ID)
BARRIER: Final = int(lib.BLOCK_BARRIER)

F_BARRIER: Final[int] = 1 << lib.BLOCK_F_BARRIER
F_SEG_MAX: Final[int] = 1 << lib.BLOCK_F_SEG_MAX
F_READ_ONLY: Final[int] = 1 << lib.BLOCK_F_READ_ONLY
F_FLUSH: Final[int] = 1 << lib.BLOCK_F_FLUSH

# struct block_request and the first half of struct block_config; a test holds them against native/abi.
HEADER: Final = struct.Struct("<IIQ")
CONFIG: Final = struct.Struct("<QII")


class BlockDevice(Device):
    """One disk of one Guest.

    disk: open, and the caller's, who closes it after this device.  Raises DiskError if another Guest has it.
    """

    virtio_id: ClassVar[int] = int(lib.VIRTIO_BLOCK)
    queues: ClassVar[int] = 1

    def __init__(self, disk: OpenDisk) -> None:
        super().__init__()
        disk.take()
        self.disk = disk
        self.label = f"disk {disk.name}"
        self._given_back = False

    def features(self, abi: Abi) -> int:
        """Flushes wherever a driver may know them, which the original did not do before 3.0 nor on PCI."""
        offered = F_SEG_MAX | F_FLUSH | (F_READ_ONLY if self.disk.readonly else 0)
        return offered if abi.bus is BusKind.PCI else offered | F_BARRIER

    def config(self, abi: Abi) -> bytes:
        """Its size and how many pieces a request may have: what the ring holds, less header and answer."""
        size = lib.BLOCK_PCI_CONFIG_BYTES if abi.bus is BusKind.PCI else lib.BLOCK_PAGE_CONFIG_BYTES
        return CONFIG.pack(self.disk.size // SECTOR, 0, abi.ring_entries - 2).ljust(size, b"\0")

    def tlv(self, abi: Abi) -> tuple[tuple[int, bytes], ...]:
        """The same for 2.6.24."""
        return (
            (int(lib.TLV_BLOCK_CAPACITY), struct.pack("<Q", self.disk.size // SECTOR)),
            (int(lib.TLV_BLOCK_SEGMENTS), struct.pack("<I", abi.ring_entries - 2)),
        )

    def serve(self, wiring: Wiring, index: int) -> None:
        """Answer requests in the order they come, until the device stops."""
        queue = wiring.queues[index]
        requests = Requests(self.disk, queue, wiring.abi.block_header)
        durable = not wiring.accepted & (F_FLUSH | F_BARRIER)
        # [D80] To a driver that cannot ask for a flush, an answer to a write is one.  All writes that wait
        # share one call for it, and are answered together.
        unanswered: list[Chain] = []
        while queue.wait():
            while len(unanswered) < queue.num and (chain := queue.pop()) is not None:
                status, wrote, filled = requests.answer(chain)
                if wiring.stop.is_set():
                    return
                if durable and wrote and status == OK:
                    unanswered.append(chain)
                else:
                    requests.give_back(chain, status, filled)
            if unanswered:
                status = requests.flush()
                for chain in unanswered:
                    requests.give_back(chain, status, 0)
                unanswered.clear()
            queue.interrupt()

    def close(self) -> None:
        """Stop, and flush what the Guest wrote."""
        try:
            super().close()
        finally:
            if not self._given_back:
                self._given_back = True
                self.disk.give_back()


class Requests:
    """What one queue asks of one disk.  header_bytes: in front of the data, 16 or 24."""

    def __init__(self, disk: OpenDisk, queue: Virtqueue, header_bytes: int) -> None:
        self.disk = disk
        self.queue = queue
        self.stop: StopSign = queue.stop
        self.header_bytes = header_bytes
        self.serial = os.fsencode(PurePath(disk.name).name)[: lib.BLOCK_ID_BYTES]

    def answer(self, chain: Chain) -> tuple[int, bool, int]:
        """Do what a request asks for: (the answer, whether it wrote, how many bytes of the room are filled).

        Raises RingBroken if there is no room for an answer.
        """
        if not chain.writable_bytes:
            raise RingBroken(
                f"its {self.queue.name} has a request without room for the answer",
                "this is a defect of the Guest's virtio driver",
            )
        header = b"".join(self.queue.iov(chain.readable, 0, self.header_bytes))
        if len(header) < self.header_bytes:
            return IO_ERROR, False, 0
        kind, _, sector = HEADER.unpack_from(header)
        try:
            return self._do(chain, kind & ~BARRIER, sector, bool(kind & BARRIER))
        except OSError as error:
            if error.errno != errno.ECANCELED:
                self.disk.trouble(f"{_NAMES.get(kind & ~BARRIER, 'access')} failed: {error.strerror}")
            return IO_ERROR, kind & ~BARRIER == OUT, 0

    def give_back(self, chain: Chain, status: int, filled: int) -> None:
        """Write the answer into the last byte of the room, and hand the request back."""
        self.queue.write(chain, bytes((status,)), chain.writable_bytes - 1)
        self.queue.push(chain, filled + 1)

    def flush(self) -> int:
        """The answer to a flush."""
        try:
            self.disk.flush()
        except OSError as error:
            self.disk.trouble(f"flush failed: {error.strerror}")
            return IO_ERROR
        return OK

    def _do(self, chain: Chain, kind: int, sector: int, barrier: bool) -> tuple[int, bool, int]:
        room = chain.writable_bytes - 1
        if kind == IN:
            if barrier:
                self.disk.flush()
            return self._move(self.disk.read, merged(chain.writable), 0, room, sector)
        if kind == OUT:
            if self.disk.readonly:
                return IO_ERROR, False, 0
            if barrier:
                self.disk.flush()
            count = chain.readable_bytes - self.header_bytes
            done = self._move(self.disk.write, merged(chain.readable), self.header_bytes, count, sector)
            if barrier:
                self.disk.flush()
            return done[0], True, 0
        if kind in (FLUSH, FLUSH_OUT):
            self.disk.flush()
            return OK, False, 0
        if kind == GET_ID:
            size = min(room, lib.BLOCK_ID_BYTES)
            self.queue.write(chain, self.serial.ljust(lib.BLOCK_ID_BYTES, b"\0")[:size])
            return OK, False, size
        return UNSUPPORTED, False, 0

    def _move(
        self, move: Callable[[Areas, int], None], parts: tuple[Part, ...], start: int, count: int, sector: int
    ) -> tuple[int, bool, int]:
        """Data between the disk and the Guest's memory itself, if it is whole sectors of that disk.

        A request may name all of that memory again and again.  So it is done in pieces, and a device that is
        to stop does not begin another one.
        """
        at = sector * SECTOR
        if count % SECTOR or at + count > self.disk.size:
            return IO_ERROR, False, 0
        for offset in range(0, count, PIECE):
            if self.stop.is_set():
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            most = min(PIECE, count - offset)
            move(self.queue.iov(parts, start + offset, most), at + offset)
        return OK, False, count


_NAMES: Final = {IN: "reading", OUT: "writing", FLUSH: "flush"}


def merged(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Parts that lie side by side in memory made one: fewer for Python and the kernel to go through.

    >>> merged(((0x1000, 512), (0x1200, 512), (0x3000, 1)))
    ((4096, 1024), (12288, 1))
    """
    whole: list[Part] = []
    end = -1
    for address, length in parts:
        if address == end:
            start, before = whole[-1]
            whole[-1] = (start, before + length)
        else:
            whole.append((address, length))
        end = address + length
    return tuple(whole)
