"""The bus of 4.0 and later: virtio 1.0 devices on an emulated PCI bus.

A kernel finds it as it finds any PCI bus, by two ports: an address written to CF8 chooses device and
register, and CFC is that register.  The devices' own registers lie in memory behind the Guest's RAM, where
each access is a fault that the host room decodes.  There is one bus, with a host bridge that exists only
to be recognised, and one function a device; whatever else is asked for is not there, which on PCI means all
ones (abi 10.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kvmhost._native import lib
from kvmhost.launcher.devices.bus import ALL_ONES, IRQS, close_all, nobodys_port, too_many
from kvmhost.launcher.devices.device import Device
from kvmhost.launcher.devices.pci_config import BYTES as CONFIG_BYTES
from kvmhost.launcher.devices.pci_config import bar_size, host_bridge
from kvmhost.launcher.devices.pci_device import PciDevice

if TYPE_CHECKING:
    from kvmhost.host.guest import Guest

PAGE: Final[int] = lib.PAGE_BYTES
ADDRESS: Final[int] = lib.PCI_CONFIG_ADDRESS
DATA: Final[int] = lib.PCI_CONFIG_DATA
ENABLE: Final[int] = lib.PCI_CONFIG_ENABLE
TOP: Final = 1 << 32


class PciBus:
    """The devices of one Guest, in the order given, as devices 1, 2, ... of bus 0, with interrupts from 1.

    Opens the window for their registers.  Raises DeviceError if there are too many.
    """

    def __init__(self, guest: Guest, devices: Sequence[Device]) -> None:
        self.guest = guest
        if len(devices) > len(IRQS):
            raise too_many("interrupts, one for each device", len(IRQS))
        bases, guest.state.mmio_end = self._window(devices)
        self.devices = [
            PciDevice(guest, device, irq, base)
            for irq, device, base in zip(IRQS, devices, bases, strict=False)
        ]
        self._address = 0
        self._bridge = host_bridge()

    def _window(self, devices: Sequence[Device]) -> tuple[list[int], int]:
        """Where each device's registers begin, a multiple of their size, and where the window ends."""
        limit = int(self.guest.state.limit_bytes)
        place = limit + int(lib.DEVICE_PAGES) * PAGE
        bases = []
        for device in devices:
            size = bar_size(len(device.config(self.guest.abi)))
            bases.append(-(-place // size) * size)
            place = bases[-1] + size
        end = -(-place // PAGE) * PAGE
        if end >= TOP:
            raise too_many("bytes of address space above its memory", TOP - limit)
        return bases, end

    # ---- memory --------------------------------------------------------------------------

    def read_mmio(self, physical: int, width: int) -> int | None:
        """A register behind some device's BAR 0, or None."""
        for device in self.devices:
            offset = physical - device.config.base
            if 0 <= offset <= device.config.size - width:
                return device.read(offset, width)
        return None

    def write_mmio(self, physical: int, width: int, value: int) -> bool:
        """Raises GuestBroke for what no driver may do."""
        for device in self.devices:
            offset = physical - device.config.base
            if 0 <= offset <= device.config.size - width:
                device.write(offset, width, value)
                return True
        return False

    def notify(self, address: int) -> bool:
        """No kernel with this bus has that hypercall."""
        return False

    # ---- ports ------------------------------------------------------------------------------

    # [D50]
    def read_port(self, port: int, width: int) -> int:
        """Configuration address and data, each in any part; all ones from elsewhere."""
        if ADDRESS <= port < DATA:
            return self._address >> 8 * (port & 3)
        if DATA <= port < DATA + 4:
            found = self._target(port, width)
            if found is None:
                return ALL_ONES
            device, offset = found
            if device:
                return self.devices[device - 1].config.read(offset, width)
            return int.from_bytes(self._bridge[offset : offset + width], "little")
        return nobodys_port(port)

    def write_port(self, port: int, width: int, value: int) -> None:
        """Raises GuestBroke where a register behind the window does."""
        if ADDRESS <= port < DATA:
            shift = 8 * (port & 3)
            mask = (1 << 8 * width) - 1 << shift
            self._address = (self._address & ~mask | value << shift & mask) & ALL_ONES
        elif DATA <= port < DATA + 4:
            found = self._target(port, width)
            if found is not None and found[0]:
                self.devices[found[0] - 1].config.write(found[1], width, value)

    def _target(self, port: int, width: int) -> tuple[int, int] | None:
        """(device, offset in its configuration space) of an access to CFC; None if there is no such thing."""
        address, part = self._address, port & 3
        # Bus and function must be 0; bits 0, 1 and 24 to 30 say nothing.
        if not address & ENABLE or address & 0x00FF0700 or part + width > 4:
            return None
        device, offset = address >> 11 & 0x1F, (address & 0xFC) + part
        if device > len(self.devices) or offset + width > CONFIG_BYTES:
            return None
        return device, offset

    def close(self) -> None:
        """Stop every device and flush what they hold.  From any thread; twice is as good as once."""
        close_all(device.slot for device in self.devices)
