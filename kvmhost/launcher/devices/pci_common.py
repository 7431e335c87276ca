"""The common configuration of a virtio 1.0 device: features, status, and the registers of each queue.

Only one queue's registers are seen at a time, those of queue_select.  The states of a driver are few:
acknowledged, a driver found, features agreed upon, ready; what it may do in which is checked here, because
a device that started with half of a queue would serve garbage.  What is merely odd is let pass: reading
early, saying ready twice, failing. (OASIS VIRTIO 1.0, "Common configuration structure layout"; abi 10.3.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kvmhost._native import ffi, lib
from kvmhost.host.errors import GuestBroke
from kvmhost.launcher.devices.ring import MOST_ENTRIES, Place

DRIVER_OK: Final[int] = lib.VIRTIO_DRIVER_OK
FEATURES_OK: Final[int] = lib.VIRTIO_FEATURES_OK
FAILED: Final[int] = lib.VIRTIO_FAILED
NO_VECTOR: Final = 0xFFFF
WORD: Final = 0xFFFFFFFF

# (name, width) by offset.
FIELDS: Final[dict[int, tuple[str, int]]] = {
    field.offset: (name, ffi.sizeof(field.type)) for name, field in ffi.typeof("struct virtio_common").fields
}
BYTES: Final[int] = ffi.sizeof("struct virtio_common")


@dataclass(slots=True)
class Bank:
    """The registers of one queue, by the names of struct virtio_common."""

    queue_size: int = MOST_ENTRIES
    queue_msix: int = NO_VECTOR
    queue_enable: int = 0
    queue_notify: int = 0
    queue_desc_low: int = 0
    queue_desc_high: int = 0
    queue_avail_low: int = 0
    queue_avail_high: int = 0
    queue_used_low: int = 0
    queue_used_high: int = 0

    @property
    def place(self) -> Place:
        """Where the ring lies, as the driver says; nothing of it is checked yet."""
        return Place(
            self.queue_size,
            self.queue_desc_low | self.queue_desc_high << 32,
            self.queue_avail_low | self.queue_avail_high << 32,
            self.queue_used_low | self.queue_used_high << 32,
        )


BANKED: Final = frozenset(Bank.__slots__)
ADDRESSES: Final = frozenset(name for name in BANKED if name.endswith(("_low", "_high")))
_NO_QUEUE: Final = Bank(queue_size=0)


class CommonRegisters:
    """One device's.

    name: for people.  offered: its feature bits.  count: its queues.  on_ready: called once at DRIVER_OK,
    with everything agreed upon; on_reset: at status 0; on_failed: when the driver gave up.
    """

    def __init__(
        self,
        name: str,
        offered: int,
        count: int,
        on_ready: Callable[[], None],
        on_reset: Callable[[], None],
        on_failed: Callable[[], None],
    ) -> None:
        self.name = name
        self.offered: int = offered | 1 << lib.VIRTIO_F_VERSION_1
        self.queues = count
        self.generation = 0
        self.msix_config = NO_VECTOR
        self._on_ready, self._on_reset, self._on_failed = on_ready, on_reset, on_failed
        self._clear()

    def _clear(self) -> None:
        """As after power-on, and after each reset."""
        self.device_select = self.driver_select = self.queue_select = 0
        self.taken = self.status = 0
        self.banks = [Bank() for _ in range(self.queues)]

    @property
    def accepted(self) -> int:
        """The feature bits that both sides know, once they were agreed upon."""
        return self.taken & self.offered

    # ---- access by the driver ------------------------------------------------------

    def read(self, offset: int, width: int) -> int:
        """`width` bytes at `offset`, all inside the structure; reading changes nothing."""
        name, size = FIELDS.get(offset, ("", 0))
        if size == width:
            return self._value(name)
        image = b"".join(self._value(name).to_bytes(size, "little") for name, size in FIELDS.values())
        return int.from_bytes(image[offset : offset + width], "little")

    def write(self, offset: int, width: int, value: int) -> None:
        """Raises GuestBroke for what no driver may do; what is read-only keeps its value."""
        name, size = FIELDS.get(offset, ("", 0))
        if size != width:
            raise self._broken(f"wrote {width} bytes at {offset} of the common configuration")
        action = _WRITERS.get(name)
        if action is not None:
            action(self, name, value)

    def _value(self, name: str) -> int:
        found: int = getattr(self._bank() if name in BANKED else self, name)
        return found

    @property
    def device_features(self) -> int:
        return int(self.offered >> 32 * self.device_select & WORD) if self.device_select < 2 else 0

    @property
    def driver_features(self) -> int:
        return self.taken >> 32 * self.driver_select & WORD if self.driver_select < 2 else 0

    def _bank(self) -> Bank:
        return self.banks[self.queue_select] if self.queue_select < self.queues else _NO_QUEUE

    # ---- what each register does -------------------------------------------------------

    def _write_plain(self, name: str, value: int) -> None:
        setattr(self, name, value)

    def _write_driver_features(self, _: str, value: int) -> None:
        if self.status & FEATURES_OK:
            raise self._broken("changed its features after FEATURES_OK")
        if self.driver_select < 2:
            shift = 32 * self.driver_select
            self.taken = self.taken & ~(WORD << shift) | value << shift

    # [D60]
    def _write_status(self, _: str, value: int) -> None:
        """One step on in the life of a driver, or back to its beginning."""
        if value == 0:
            self._on_reset()
            self._clear()
            return
        if self.status & ~value:
            raise self._broken(f"took status {self.status:#x} back to {value:#x}, which only a reset may do")
        new = value & ~self.status
        if new & FAILED:
            self.status = value
            self._on_failed()
            return
        if new & FEATURES_OK and not self._agreed():
            # The driver reads it back and finds that we do not agree.
            value &= ~FEATURES_OK
        if new & DRIVER_OK:
            self._check_ready(value)
            self.status = value
            self._on_ready()
        self.status = value

    def _agreed(self) -> bool:
        return not self.taken & ~self.offered and bool(self.taken >> lib.VIRTIO_F_VERSION_1 & 1)

    def _check_ready(self, status: int) -> None:
        if not status & FEATURES_OK:
            raise self._broken("said DRIVER_OK before FEATURES_OK")
        for index, bank in enumerate(self.banks):
            if not bank.queue_enable:
                raise self._broken(f"said DRIVER_OK before it enabled queue {index}")

    def _write_queue_size(self, _: str, value: int) -> None:
        bank = self._changeable("size")
        if bank is None:
            return
        if value & (value - 1) or not 0 < value <= MOST_ENTRIES:
            raise self._broken(f"wants a queue of {value} entries, not a power of two up to {MOST_ENTRIES}")
        bank.queue_size = value

    def _write_address(self, name: str, value: int) -> None:
        bank = self._changeable("address")
        if bank is not None:
            setattr(bank, name, value)

    def _write_enable(self, _: str, value: int) -> None:
        if value != 1:
            raise self._broken(f"wrote {value} to queue_enable: a queue is only disabled by a reset")
        if not self.status & FEATURES_OK:
            raise self._broken("enabled a queue before FEATURES_OK")
        bank = self._changeable("enable")
        if bank is not None:
            bank.queue_enable = 1

    def _changeable(self, what: str) -> Bank | None:
        """The selected queue, None if there is no such queue."""
        if self.queue_select >= self.queues:
            return None
        bank = self._bank()
        if bank.queue_enable:
            raise self._broken(f"wrote the {what} of queue {self.queue_select}, which is enabled")
        return bank

    def _broken(self, what: str) -> GuestBroke:
        return GuestBroke(
            f"the driver of its {self.name} {what}", "this is a defect of the Guest's virtio driver"
        )


_WRITERS: Final[dict[str, Callable[[CommonRegisters, str, int], None]]] = {
    "device_select": CommonRegisters._write_plain,
    "driver_select": CommonRegisters._write_plain,
    "queue_select": CommonRegisters._write_plain,
    "driver_features": CommonRegisters._write_driver_features,
    "status": CommonRegisters._write_status,
    "queue_size": CommonRegisters._write_queue_size,
    "queue_enable": CommonRegisters._write_enable,
    **dict.fromkeys(ADDRESSES, CommonRegisters._write_address),
}
