"""The configuration space of one virtio device on PCI: who it is, where its registers are, and a window to
them.

Of its 0x98 bytes a driver can change few: BAR 0 (which moves the registers, and tells their size to whoever
writes all ones), two bytes that mean nothing here, and the window.  Everything else keeps its value, and
BARs that do not exist read as zero, as hardware has it.  The window (capability 5) reaches any register
through config space: a kernel writes its first words that way, long before it has mapped anything (abi
10.3).
"""

from __future__ import annotations

import struct
from typing import Final, Protocol

from kvmhost._native import lib

BYTES: Final[int] = lib.PCI_CONFIG_BYTES
BAR0: Final[int] = lib.PCI_BAR0
ACCESS: Final[int] = lib.PCI_CAP_ACCESS_AT
ACCESS_BAR: Final[int] = ACCESS + lib.PCI_ACCESS_BAR
ACCESS_OFFSET: Final[int] = ACCESS + lib.PCI_ACCESS_OFFSET
ACCESS_LENGTH: Final[int] = ACCESS + lib.PCI_ACCESS_LENGTH
ACCESS_DATA: Final[int] = ACCESS + lib.PCI_ACCESS_DATA

_CAPABILITY: Final = struct.Struct("<BBBBB3xII")
_CLASS_CODES: Final[dict[int, tuple[int, int]]] = {
    lib.VIRTIO_CONSOLE: (0x07, 0x00),
    lib.VIRTIO_NET: (0x02, 0x00),
    lib.VIRTIO_BLOCK: (0x01, 0x80),
}
_ANY_CLASS: Final = (0xFF, 0x00)
_HOST_BRIDGE: Final = 0x0600
_REVISION: Final = 1
_SUBSYSTEM: Final = 0x40
# Bytes that are plain storage: BAR 0, cache line size and latency timer, and what chooses the window.
_STORAGE: Final = frozenset(
    at + index
    for at, size in (
        (BAR0, 4),
        (int(lib.PCI_CACHE_LINE), 2),
        (ACCESS_BAR, 1),
        (ACCESS_OFFSET, 4),
        (ACCESS_LENGTH, 4),
        (ACCESS_DATA, 4),
    )
    for index in range(size)
)


class Registers(Protocol):
    """What lies behind BAR 0."""

    def read(self, offset: int, width: int) -> int: ...

    def write(self, offset: int, width: int, value: int) -> None: ...


def host_bridge() -> bytes:
    """Device 0: no vendor, so that a scan finds nothing, and the class that the mechanism check looks for.

    >>> host_bridge()[10:12].hex()
    '0006'
    """
    space = bytearray(BYTES)
    struct.pack_into("<H", space, lib.PCI_CLASS, _HOST_BRIDGE)
    return bytes(space)


class ConfigSpace:
    """One device's.

    virtio_id: which.  irq: its interrupt line.  config_bytes: of its own configuration, behind the other
    registers.  base: Guest-physical address of BAR 0, a multiple of `size`, which is a power of two.
    """

    def __init__(self, virtio_id: int, irq: int, config_bytes: int, base: int, registers: Registers) -> None:
        self.size = bar_size(config_bytes)
        self._registers = registers
        self._space = bytearray(BYTES)
        pack = struct.pack_into
        pack("<HH", self._space, 0, lib.PCI_VENDOR_VIRTIO, lib.PCI_DEVICE_VIRTIO + virtio_id)
        pack("<H", self._space, lib.PCI_STATUS, lib.PCI_STATUS_CAPABILITIES)
        self._space[lib.PCI_REVISION] = _REVISION
        kind, sub = _CLASS_CODES.get(virtio_id, _ANY_CLASS)
        pack("<BB", self._space, lib.PCI_CLASS, sub, kind)
        pack("<I", self._space, BAR0, base)
        pack("<H", self._space, lib.PCI_SUBSYSTEM, _SUBSYSTEM)
        self._space[lib.PCI_CAPABILITIES] = lib.PCI_CAP_COMMON_AT
        self._space[lib.PCI_INTERRUPT_LINE] = irq
        self._capabilities(config_bytes)

    def _capabilities(self, config_bytes: int) -> None:
        """The chain: common, notify, ISR, window, and the device's own if it has any."""
        device_at = lib.PCI_CAP_DEVICE_AT if config_bytes else 0
        notify, isr, device = lib.PCI_BAR_NOTIFY, lib.PCI_BAR_ISR, lib.PCI_BAR_DEVICE
        size = _CAPABILITY.size
        for at, following, extra, kind, offset, length in (
            (lib.PCI_CAP_COMMON_AT, lib.PCI_CAP_NOTIFY_AT, 0, lib.PCI_CAP_COMMON, 0, notify),
            (lib.PCI_CAP_NOTIFY_AT, lib.PCI_CAP_ISR_AT, 4, lib.PCI_CAP_NOTIFY, notify, isr - notify),
            (lib.PCI_CAP_ISR_AT, ACCESS, 0, lib.PCI_CAP_ISR, isr, 1),
            (ACCESS, device_at, 4, lib.PCI_CAP_ACCESS, 0, 0),
            (lib.PCI_CAP_DEVICE_AT, 0, 0, lib.PCI_CAP_DEVICE, device, config_bytes),
        ):
            _CAPABILITY.pack_into(
                self._space, at, lib.PCI_CAP_VENDOR, following, size + extra, kind, 0, offset, length
            )

    @property
    def base(self) -> int:
        """Where BAR 0 is now."""
        return self._dword(BAR0)

    def read(self, offset: int, width: int) -> int:
        """`width` bytes at `offset`, all inside the space."""
        if offset >= ACCESS_DATA:
            self._look_through()
        return int.from_bytes(self._space[offset : offset + width], "little")

    def write(self, offset: int, width: int, value: int) -> None:
        """What cannot be changed keeps its value."""
        for at, byte in enumerate(value.to_bytes(width, "little"), offset):
            if at in _STORAGE:
                self._space[at] = byte
        if BAR0 <= offset < BAR0 + 4:
            struct.pack_into("<I", self._space, BAR0, self.base & -self.size)
        elif offset >= ACCESS_DATA:
            window = self._window()
            if window is not None:
                at, length = window
                data = self._space[ACCESS_DATA : ACCESS_DATA + length]
                self._registers.write(at, length, int.from_bytes(data, "little"))

    def _look_through(self) -> None:
        """Fill the window's data with what it shows; all ones where it shows nothing."""
        window = self._window()
        at, length = window or (0, 4)
        value = self._registers.read(at, length) if window else 0xFFFFFFFF
        self._space[ACCESS_DATA : ACCESS_DATA + length] = value.to_bytes(length, "little")

    def _window(self) -> tuple[int, int] | None:
        """(offset in BAR 0, length) that the window is set to, None if to nothing that exists."""
        at, length = self._dword(ACCESS_OFFSET), self._dword(ACCESS_LENGTH)
        if self._space[ACCESS_BAR] or length not in (1, 2, 4) or at % length or at + length > self.size:
            return None
        return at, length

    def _dword(self, at: int) -> int:
        return int.from_bytes(self._space[at : at + 4], "little")


def bar_size(config_bytes: int) -> int:
    """Bytes of BAR 0: what the registers and the device's configuration need, to a power of two.

    >>> bar_size(12), bar_size(10), bar_size(36), bar_size(0)
    (128, 128, 128, 64)
    """
    return 1 << (int(lib.PCI_BAR_DEVICE) + config_bytes - 1).bit_length()
