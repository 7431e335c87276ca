"""The Guest's side of a ring, written independently of ours: a driver that can also misbehave on purpose."""

import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from kvmhost.host.abi import Abi, abi_of
from kvmhost.host.guest import Ram
from kvmhost.host.memory import VmMemory
from kvmhost.launcher.devices.ring import Place

MIB = 1 << 20
BASE = 0x400000
PATIENCE = 30.0

NEXT, WRITE, INDIRECT = 1, 2, 4


class FakeGuest:
    """As much of a Guest as a bus or a device needs: RAM in VM memory, interrupts that are counted."""

    def __init__(
        self, memory: VmMemory, release: str = "3.1", ram: int = MIB, device_pages: int | None = None
    ) -> None:
        abi = abi_of(release)
        assert abi is not None
        if device_pages is None:
            device_pages = 0 if abi.first >= (4, 0, 0) else 256
        self.abi: Abi = abi
        self.memory = memory
        self.name = "fake"
        self.state = SimpleNamespace(
            mem_base=BASE, mem_bytes=ram, limit_bytes=ram + 4096 * device_pages, mmio_end=0
        )
        self.ram = Ram(memory, BASE, self.state.limit_bytes)
        self.bus: Any = None
        self.watch = None
        self.outcome = None
        self.irqs: list[int] = []
        self.said: list[bytes] = []
        self.ended: list[tuple[str, str]] = []
        self._changed = threading.Condition()

    def post(self, irq: int) -> None:
        with self._changed:
            self.irqs.append(irq)
            self._changed.notify_all()

    def end_from_outside(self, reason: str, advice: str = "") -> None:
        with self._changed:
            self.ended.append((reason, advice))
            self._changed.notify_all()

    def write_console(self, text: bytes) -> None:
        self.said.append(text)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something a device's thread does, and fail if it never comes."""
        deadline = time.monotonic() + PATIENCE
        with self._changed:
            while not condition():
                assert time.monotonic() < deadline, "it never happened"
                self._changed.wait(0.01)

    def read(self, address: int, length: int) -> bytes:
        return self.memory.read(BASE + address, length)

    def write(self, address: int, data: bytes) -> None:
        self.memory.write(BASE + address, data)

    def u16(self, address: int) -> int:
        return int(struct.unpack("<H", self.read(address, 2))[0])

    def put16(self, address: int, value: int) -> None:
        self.write(address, struct.pack("<H", value & 0xFFFF))


@dataclass
class Buffer:
    """One element of a request: where, how long, and whether the device writes it."""

    address: int
    length: int
    write: bool = False


class Driver:
    """The driver's half of one ring.  It trusts nobody either: what comes back must be outstanding."""

    def __init__(self, guest: FakeGuest, place: Place) -> None:
        self.guest, self.place = guest, place
        self.free = list(range(place.entries))
        self.outstanding: dict[int, list[int]] = {}
        self.offered = 0
        self.collected = 0

    def descriptor(self, index: int, address: int, length: int, flags: int, following: int = 0) -> None:
        self.guest.write(
            self.place.descriptors + 16 * index, struct.pack("<QIHH", address, length, flags, following)
        )

    def add(self, buffers: Iterable[Buffer], table: int | None = None) -> int:
        """Offer a request; with `table`, through an indirect table at that address."""
        items = list(buffers)
        if table is None:
            numbers = [self.free.pop(0) for _ in items]
            for at, (number, item) in enumerate(zip(numbers, items, strict=True)):
                last = at == len(items) - 1
                flags = WRITE * item.write | NEXT * (not last)
                self.descriptor(number, item.address, item.length, flags, 0 if last else numbers[at + 1])
        else:
            numbers = [self.free.pop(0)]
            for at, item in enumerate(items):
                flags = WRITE * item.write | NEXT * (at < len(items) - 1)
                entry = struct.pack("<QIHH", item.address, item.length, flags, at + 1)
                self.guest.write(table + 16 * at, entry)
            self.descriptor(numbers[0], table, 16 * len(items), INDIRECT)
        self.outstanding[numbers[0]] = numbers
        self.offer(numbers[0])
        return numbers[0]

    def offer(self, head: int) -> None:
        self.guest.put16(self.place.available + 4 + 2 * (self.offered % self.place.entries), head)
        self.offered += 1
        self.guest.put16(self.place.available + 2, self.offered)

    @property
    def wants_kick(self) -> bool:
        return not self.guest.u16(self.place.used) & 1

    def no_interrupts(self, on: bool = True) -> None:
        self.guest.put16(self.place.available, int(on))

    def done(self) -> bool:
        return self.guest.u16(self.place.used + 2) != self.collected & 0xFFFF

    def take(self) -> tuple[int, int]:
        """What came back: (head, bytes written)."""
        self.guest.until(self.done)
        at = self.place.used + 4 + 8 * (self.collected % self.place.entries)
        head, length = struct.unpack("<II", self.guest.read(at, 8))
        self.collected += 1
        self.free += self.outstanding.pop(head)
        return head, length
