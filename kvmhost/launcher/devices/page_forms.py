"""How a device describes itself on lguest's descriptor page: three forms in the course of the kernels.

2.6.24 has a list of (type, length, value).  2.6.25 made it a header and arrays; from 2.6.26 on the driver
writes the features it took behind those it was offered.  Descriptors lie behind each other without a gap,
and a type of 0 ends them (abi 10.2).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kvmhost._native import ffi, lib
from kvmhost.host.abi import Abi, BusKind
from kvmhost.launcher.devices.device import Device
from kvmhost.launcher.errors import DeviceError

_QUEUE: Final = struct.Struct("<HHI")
_TLV_STATUS: Final = 2
_STATUS: Final[int] = ffi.offsetof("struct device_header", "status")
_BYTE: Final = 0xFF


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A device on the page.

    data: its bytes.  Offsets in them: status; accepted, of the features that the driver takes, and their
    number of bytes (0 if it has no place for them); config, and its number of bytes.  offered: feature bits.
    """

    data: bytes
    status: int
    offered: int = 0
    accepted: int = 0
    accepted_bytes: int = 0
    config: int = 0
    config_bytes: int = 0


def describe(device: Device, abi: Abi, queues: Sequence[tuple[int, int]]) -> Descriptor:
    """What `device` looks like to a driver of this ABI.  queues: (irq, page frame of the ring) of each.

    Raises DeviceError if it says more than fits.
    """
    configured = [_QUEUE.pack(abi.ring_entries, irq, frame) for irq, frame in queues]
    make = _list_form if abi.bus is BusKind.TLV else _array_form
    return make(device, abi, configured)


def _list_form(device: Device, abi: Abi, queues: list[bytes]) -> Descriptor:
    entries = [(int(lib.TLV_QUEUE), data) for data in queues] + list(device.tlv(abi))
    body = b"".join(bytes([kind, _byte(device, len(data))]) + data for kind, data in entries)
    header = bytes([device.virtio_id, _byte(device, len(body)), 0])
    return Descriptor(header + body, _TLV_STATUS)


def _array_form(device: Device, abi: Abi, queues: list[bytes]) -> Descriptor:
    offered = device.features(abi) & 0xFFFFFFFF if abi.features else 0
    size = (offered.bit_length() + 7) // 8
    config = device.config(abi)
    header = bytes([device.virtio_id, len(queues), size, _byte(device, len(config)), 0])
    start = header + b"".join(queues) + offered.to_bytes(size, "little")
    return Descriptor(
        start + bytes(size) + config,
        _STATUS,
        offered,
        accepted=len(start),
        accepted_bytes=size,
        config=len(start) + size,
        config_bytes=len(config),
    )


def _byte(device: Device, length: int) -> int:
    if length > _BYTE:
        raise DeviceError(
            f"the {device.label} cannot be described to this Guest",
            cause=f"{length} bytes do not fit into a descriptor that counts them in one",
            next_step="use a Guest of another release",
        )
    return length
