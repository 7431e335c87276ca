"""The bus of 2.6.24 to 3.19: one page of descriptors directly above RAM, and the rings in the pages behind
it.

The Guest finds the page by the size of its memory, maps it and the rings once, and keeps them.  Everything
else is said by NOTIFY with an address: a ring's page means that something was put into that ring, a
descriptor's address that the driver changed the status in it.  Any other address is a text of the early
console, and none of ours.

Drivers differ over the years in what they announce, and all of them kick before they say that they are
ready: a device is therefore served from its first kick or from DRIVER_OK, whichever comes first.  Status 0
is a reset: the device stops, its rings and accepted features become zero, as a driver expects them (abi
10.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from kvmhost._native import lib
from kvmhost.host.abi import BusKind
from kvmhost.launcher.devices.bus import IRQS, Line, Slot, close_all, nobodys_port, too_many
from kvmhost.launcher.devices.device import Device
from kvmhost.launcher.devices.page_forms import Descriptor, describe
from kvmhost.launcher.devices.ring import Place
from kvmhost.launcher.errors import DeviceError

if TYPE_CHECKING:
    from kvmhost.host.guest import Guest

PAGE: Final[int] = lib.PAGE_BYTES
DRIVER_OK: Final[int] = lib.VIRTIO_DRIVER_OK
FAILED: Final[int] = lib.VIRTIO_FAILED


@dataclass(frozen=True, slots=True)
class Entry:
    """One device on the page: where its descriptor is (Guest-physical), and its queues' places and irqs."""

    slot: Slot
    address: int
    form: Descriptor
    lines: tuple[Line, ...]


class PageBus:
    """The devices of one Guest, in the order given; each queue has an irq of its own, from 1 on.

    Writes the page.  Raises DeviceError if the Guest has no memory above RAM, or too little for them.
    """

    def __init__(self, guest: Guest, devices: Sequence[Device]) -> None:
        self.guest = guest
        state = guest.state
        self.page = int(state.mem_bytes)
        self._limit = int(state.limit_bytes)
        if self._limit < self.page + PAGE:
            raise DeviceError(
                f"{guest.name} has no memory for devices",
                cause="nothing is left above its RAM",
                next_step="make it with Machine.add_guest(device_bytes=...)",
            )
        self._next_ring = self.page + PAGE
        self._next_irq = IRQS.start
        self.entries: list[Entry] = []
        address = self.page
        for device in devices:
            entry = self._place(device, address)
            address += len(entry.form.data)
            # One byte of type 0 ends the list.
            if address >= self.page + PAGE:
                raise too_many("bytes for descriptors", PAGE)
            self.entries.append(entry)
        page = b"".join(entry.form.data for entry in self.entries)
        guest.ram.write(self.page, page.ljust(PAGE, b"\0"))
        # Page of a ring to whom to wake; address of a descriptor to whose status to read.
        self._rings = {
            line.place.descriptors // PAGE + page: (entry, index)
            for entry in self.entries
            for index, line in enumerate(entry.lines)
            for page in range(line.place.pages)
        }
        self._descriptors = {entry.address: entry for entry in self.entries}
        for entry in self.entries:
            entry.slot.device.on_config_change = partial(self._write_config, entry)

    def _place(self, device: Device, address: int) -> Entry:
        lines, told = [], []
        for _ in range(device.queues):
            place = Place.contiguous(self._next_ring, self.guest.abi.ring_entries)
            irq = self._next_irq
            self._next_ring += place.pages * PAGE
            self._next_irq += 1
            if irq not in IRQS:
                raise too_many("interrupts, one for each queue", len(IRQS))
            if self._next_ring > self._limit:
                raise too_many("pages for rings", (self._limit - self.page) // PAGE - 1)
            lines.append(Line(place, partial(self.guest.post, irq)))
            told.append((irq, place.descriptors // PAGE))
        form = describe(device, self.guest.abi, told)
        return Entry(Slot(self.guest, device), address, form, tuple(lines))

    # ---- what the host room asks -----------------------------------------------------

    # [D40]
    def notify(self, address: int) -> bool:
        """A kick, or a change of status; anything else is none of ours."""
        ring = self._rings.get(address // PAGE)
        if ring is not None:
            entry, index = ring
            if not entry.slot.running:
                self._start(entry)
            entry.slot.kick(index)
            return True
        described = self._descriptors.get(address)
        if described is None or self.guest.abi.bus is BusKind.TLV:
            return False
        self._status_changed(described)
        return True

    def read_port(self, port: int, width: int) -> int:
        """No device of this bus has ports."""
        return nobodys_port(port)

    def write_port(self, port: int, width: int, value: int) -> None:
        """Nobody listens."""

    def read_mmio(self, physical: int, width: int) -> int | None:
        """No device of this bus has registers."""
        return None

    def write_mmio(self, physical: int, width: int, value: int) -> bool:
        return False

    def close(self) -> None:
        """Stop every device and flush what they hold.  From any thread; twice is as good as once."""
        close_all(entry.slot for entry in self.entries)

    # ---- what a driver does -----------------------------------------------------------

    def _status_changed(self, entry: Entry) -> None:
        status = self.guest.ram.read(entry.address + entry.form.status, 1)[0]
        if status == 0:
            self._reset(entry)
        elif status & FAILED:
            entry.slot.stop()
        elif status & DRIVER_OK and not entry.slot.running:
            self._start(entry)

    def _start(self, entry: Entry) -> None:
        form = entry.form
        taken = self.guest.ram.read(entry.address + form.accepted, form.accepted_bytes)
        entry.slot.start(int.from_bytes(taken, "little") & form.offered, entry.lines)

    def _reset(self, entry: Entry) -> None:
        entry.slot.stop()
        form, write = entry.form, self.guest.ram.write
        write(entry.address + form.accepted, bytes(form.accepted_bytes))
        for line in entry.lines:
            write(line.place.descriptors, bytes(line.place.pages * PAGE))

    def _write_config(self, entry: Entry) -> None:
        """The device says something new.  This bus has no way to tell; who reads next reads it (abi 10.2)."""
        form = entry.form
        data = entry.slot.device.config(self.guest.abi)[: form.config_bytes]
        self.guest.ram.write(entry.address + form.config, data)
