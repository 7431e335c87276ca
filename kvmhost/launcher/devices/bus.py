"""What both device buses have in common: which one a Guest gets, and how a device on it starts and stops.

Whatever a driver does, in whatever order, comes down to a device that runs or does not.  A Slot knows
which, and lets nobody in between: drivers start and reset devices from the vCPU's thread while the Machine
may be closing from another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvmhost._native import lib
from kvmhost.host.abi import Abi, BusKind
from kvmhost.host.errors import GuestBroke, KvmhostError
from kvmhost.launcher.devices.device import Device, Wiring
from kvmhost.launcher.devices.ring import Place, StopSign, Virtqueue
from kvmhost.launcher.errors import DeviceError

if TYPE_CHECKING:
    from kvmhost.host.bus import Bus
    from kvmhost.host.guest import Guest

# Interrupt 0 is the clock's; above 15 a kernel of these years had no vectors prepared.
IRQS: Final = range(1, 16)
ALL_ONES: Final = 0xFFFFFFFF
_KEYBOARD_STATUS: Final = 0x64
# "Something is there to be read, and commands are taken": a driver that reads and reads gives up soon, and a
# kernel that restarts by the keyboard controller (2.6.24) need not wait until it is listened to.
_KEYBOARD_READY: Final = 1


def nobodys_port(port: int) -> int:
    """What is read from a port that no device has: all ones, but for the keyboard controller's status.

    >>> nobodys_port(0x64), hex(nobodys_port(0x60))
    (1, '0xffffffff')
    """
    return _KEYBOARD_READY if port == _KEYBOARD_STATUS else ALL_ONES


def device_bytes(abi: Abi) -> int:
    """How much memory above RAM the devices of a Guest need: what Machine.add_guest must be told.

    >>> from kvmhost.host.abi import abi_of
    >>> device_bytes(abi_of("3.12")), device_bytes(abi_of("4.1"))
    (1048576, 0)
    """
    return 0 if abi.bus is BusKind.PCI else int(lib.DEVICE_PAGES) * int(lib.PAGE_BYTES)


def attach(guest: Guest, devices: Iterable[Device]) -> Bus:
    """Give a Guest its devices, in this order, on the bus of its ABI; before its first instruction.

    The console goes where each kernel looks for it: last on the page, first on PCI.  `guest.bus` is set; its
    close() comes with the Machine's.  Raises DeviceError if there are too many, with nothing attached; the
    devices are then still the caller's to close.
    """
    if guest.bus is not None:
        raise DeviceError(f"{guest.name} has a device bus already", next_step="attach all devices at once")
    if guest.abi.bus is BusKind.PCI:
        from kvmhost.launcher.devices.bus_pci import PciBus

        guest.bus = PciBus(guest, console_at(0, devices))
    else:
        from kvmhost.launcher.devices.bus_page import PageBus

        guest.bus = PageBus(guest, console_at(-1, devices))
    return guest.bus


def console_at(end: int, devices: Iterable[Device]) -> list[Device]:
    """The devices with the consoles at one end (0: the front, -1: the back), the others in their order."""
    return sorted(devices, key=lambda device: (device.virtio_id == lib.VIRTIO_CONSOLE) is (end == -1))


def too_many(what: str, limit: int | str) -> DeviceError:
    """More devices than a bus has room for."""
    return DeviceError(
        "the Guest has too many devices", cause=f"its bus has {limit} {what}", next_step="leave some out"
    )


@dataclass(frozen=True, slots=True)
class Line:
    """One queue as its driver set it up: where it lies, and how its interrupt is raised."""

    place: Place
    raise_interrupt: Callable[[], None]


class Slot:
    """One device of a Guest's, running or not.  From any thread."""

    def __init__(self, guest: Guest, device: Device) -> None:
        self.guest = guest
        self.device = device
        self._lock = threading.Lock()
        self._queues: tuple[Virtqueue, ...] = ()
        self._closed = False

    @property
    def running(self) -> bool:
        return bool(self._queues)

    # [D30]
    def start(self, accepted: int, lines: Sequence[Line]) -> None:
        """The driver is ready, with these features.  Nothing happens if the device runs already.

        Raises RingBroken if a queue lies where none can, GuestBroke if the device cannot start.
        """
        with self._lock:
            if self._queues or self._closed:
                return
            try:
                self._queues = self._wire(accepted, lines)
            except GuestBroke:
                raise
            except (OSError, KvmhostError) as error:
                cause = error.cause if isinstance(error, KvmhostError) else error
                raise GuestBroke(
                    f"its {self.device.label} cannot start: {cause}",
                    "look for what this process has too many of: threads, open files",
                ) from error

    def _wire(self, accepted: int, lines: Sequence[Line]) -> tuple[Virtqueue, ...]:
        """Make the queues and start the device on them; if one of it fails nothing is left behind."""
        stop = StopSign()
        queues: list[Virtqueue] = []
        indirect = bool(accepted >> lib.VIRTIO_F_INDIRECT & 1)
        try:
            for index, line in enumerate(lines):
                name = f"{self.device.label} queue {index}"
                queues.append(Virtqueue(self.guest, name, line.place, line.raise_interrupt, stop, indirect))
            self.device.start(Wiring(self.guest, self.guest.abi, accepted, tuple(queues), stop))
        except BaseException:
            for queue in queues:
                queue.close()
            stop.close()
            raise
        return tuple(queues)

    def kick(self, index: int) -> None:
        """The Guest put something into queue `index`.  Nothing happens if the device does not run."""
        with self._lock:
            if self._queues:
                self._queues[index].kick()

    def stop(self) -> None:
        """When this returns no thread of the device's touches the Guest's memory."""
        with self._lock:
            self._queues = ()
            self.device.stop()

    def close(self) -> None:
        """For ever."""
        with self._lock:
            self._queues, self._closed = (), True
            self.device.on_config_change = None
            self.device.close()


def close_all(slots: Iterable[Slot]) -> None:
    """Close every device, also if one of them fails; then raise the first failure."""
    failure: BaseException | None = None
    for slot in slots:
        try:
            slot.close()
        except BaseException as error:
            failure = failure or error
    if failure is not None:
        raise failure
