"""One virtio device on PCI: its configuration space, and the registers behind BAR 0.

Three small things stand beside the common configuration: a register that a driver kicks a queue by, a byte
that tells its interrupt handler why it was called (and is empty afterwards), and the device's own
configuration.  A kick before DRIVER_OK is ignored: the device looks at its rings when it starts (abi
10.3).
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Final

from kvmhost._native import lib
from kvmhost.launcher.devices.bus import Line, Slot
from kvmhost.launcher.devices.device import Device
from kvmhost.launcher.devices.pci_common import BYTES as COMMON_BYTES
from kvmhost.launcher.devices.pci_common import CommonRegisters
from kvmhost.launcher.devices.pci_config import ConfigSpace

if TYPE_CHECKING:
    from kvmhost.host.guest import Guest

NOTIFY: Final[int] = lib.PCI_BAR_NOTIFY
ISR: Final[int] = lib.PCI_BAR_ISR
DEVICE: Final[int] = lib.PCI_BAR_DEVICE
ISR_QUEUE: Final[int] = lib.VIRTIO_ISR_QUEUE
ISR_CONFIG: Final[int] = lib.VIRTIO_ISR_CONFIG


class PciDevice:
    """`device` of `guest`, with interrupt `irq`, its registers at Guest-physical `base`."""

    def __init__(self, guest: Guest, device: Device, irq: int, base: int) -> None:
        self.guest, self.device, self.irq = guest, device, irq
        self.slot = Slot(guest, device)
        offered = device.features(guest.abi) if guest.abi.features else 0
        self.common = CommonRegisters(
            device.label, offered, device.queues, self._start, self._reset, self.slot.stop
        )
        self.config_bytes = len(device.config(guest.abi))
        self.config = ConfigSpace(device.virtio_id, irq, self.config_bytes, base, self)
        self._reasons = 0
        self._reasons_lock = threading.Lock()
        device.on_config_change = self._config_changed

    # ---- BAR 0 ------------------------------------------------------------------------

    def read(self, offset: int, width: int) -> int:
        """`width` bytes of BAR 0; zero where nothing is."""
        if offset == ISR:
            with self._reasons_lock:
                reasons, self._reasons = self._reasons, 0
            return reasons
        if offset + width <= COMMON_BYTES:
            return self.common.read(offset, width)
        if offset >= DEVICE:
            data = self.device.config(self.guest.abi)[: self.config_bytes]
            return int.from_bytes(data[offset - DEVICE : offset - DEVICE + width], "little")
        return 0

    # [D70]
    def write(self, offset: int, width: int, value: int) -> None:
        """A kick, a register of the common configuration, or the device's own."""
        if offset == NOTIFY:
            if value < self.device.queues:
                self.slot.kick(value)
        elif offset < COMMON_BYTES:
            self.common.write(offset, width, value)
        elif offset >= DEVICE and offset + width <= DEVICE + self.config_bytes:
            self.device.write_config(offset - DEVICE, value.to_bytes(width, "little"))

    # ---- interrupts --------------------------------------------------------------------

    def _raise(self, reason: int) -> None:
        """Say why first, then call.  From any thread."""
        with self._reasons_lock:
            self._reasons |= reason
        self.guest.post(self.irq)

    def _config_changed(self) -> None:
        self.common.generation = (self.common.generation + 1) & 0xFF
        if self.slot.running:
            self._raise(ISR_CONFIG)

    # ---- life -----------------------------------------------------------------------------

    def _start(self) -> None:
        call = partial(self._raise, ISR_QUEUE)
        self.slot.start(self.common.accepted, [Line(bank.place, call) for bank in self.common.banks])

    def _reset(self) -> None:
        self.slot.stop()
        with self._reasons_lock:
            self._reasons = 0
