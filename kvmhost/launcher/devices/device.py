"""What a device is to a bus: its type, its features, its configuration, and threads that serve its queues.

A bus tells a device when its driver is ready (start) and when the driver is gone (stop); in between threads
of the device's own serve the rings, one a queue, so that the Guest's vCPU never waits for a disk or a
terminal.  The same device object may be started again after a stop: drivers reset devices freely.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from kvmhost.host.clock import start_thread
from kvmhost.host.errors import GuestBroke
from kvmhost.launcher.devices.ring import StopSign, Virtqueue

if TYPE_CHECKING:
    import threading

    from kvmhost.host.abi import Abi
    from kvmhost.host.guest import Guest


@dataclass(frozen=True, slots=True)
class Wiring:
    """What a device gets when it starts.

    guest: whose device it is.  abi: of that Guest.  accepted: the feature bits that the driver took, always
    a part of those offered.  queues: as many as the device has.  stop: raised when all is over.
    """

    guest: Guest
    abi: Abi
    accepted: int
    queues: tuple[Virtqueue, ...]
    stop: StopSign

    def close(self) -> None:
        """When no thread touches the rings any more."""
        for queue in self.queues:
            queue.close()
        self.stop.close()


class Device(ABC):
    """One device of one Guest.

    A kind of device says what it is (virtio_id, queues, label), and what the thread of each queue does
    (serve); the rest has a sensible answer already.
    """

    virtio_id: ClassVar[int]
    queues: ClassVar[int]
    label: str = "device"

    def __init__(self) -> None:
        self.wiring: Wiring | None = None
        self.threads: list[threading.Thread] = []
        self.on_config_change: Callable[[], None] | None = None

    # ---- what the driver is told -------------------------------------------------------

    def features(self, abi: Abi) -> int:
        """The feature bits offered, bit 28 for indirect tables among them; not asked if not abi.features."""
        return 0

    def config(self, abi: Abi) -> bytes:
        """Its configuration space, little-endian; always as long as the first time."""
        return b""

    def write_config(self, offset: int, data: bytes) -> None:
        """The driver wrote 1, 2 or 4 bytes of the configuration, in any state.  On the vCPU's thread.

        On the page the configuration is plain memory, so this is for PCI only.  Says nothing by default.
        """
        del offset, data

    def tlv(self, abi: Abi) -> tuple[tuple[int, bytes], ...]:
        """What 2.6.24 is told instead of features and configuration: (type, value) in order (abi 10.2)."""
        return ()

    def config_changed(self) -> None:
        """Call it when config() says something new; the driver hears of it where the bus can tell."""
        tell = self.on_config_change
        if tell is not None:
            tell()

    # ---- life -----------------------------------------------------------------------------

    @abstractmethod
    def serve(self, wiring: Wiring, index: int) -> None:
        """The thread of queue `index`: return soon after `wiring.queues[index].wait()` said False.

        GuestBroke (so RingBroken) ends the Guest with that reason, any other exception with our apologies.
        """

    def start(self, wiring: Wiring) -> None:
        """The driver is ready.  On the vCPU's thread; returns at once.

        If it raises, no thread of it is left, and the wiring is the caller's to close.
        """
        self.wiring = wiring
        try:
            for index in range(len(wiring.queues)):
                self.threads.append(start_thread(partial(self._work, wiring, index), f"{self.label} {index}"))
        except BaseException:
            wiring.stop.set()
            self._join()
            self.wiring = None
            raise

    def stop(self) -> None:
        """Reset: returns when no thread touches the rings any more.  start() may come again.

        From any thread but the device's own; harmless if it does not run.
        """
        wiring, self.wiring = self.wiring, None
        if wiring is None:
            return
        wiring.stop.set()
        self._join()
        wiring.close()

    def _join(self) -> None:
        for thread in self.threads:
            thread.join()
        self.threads = []

    def close(self) -> None:
        """For ever: stop, and give everything back.  Twice is as good as once."""
        self.stop()

    def _work(self, wiring: Wiring, index: int) -> None:
        """Whatever goes wrong in a device's thread is the end of its Guest, and of nothing else."""
        try:
            self.serve(wiring, index)
        except GuestBroke as broke:
            wiring.guest.end_from_outside(broke.reason, broke.advice)
        except Exception as error:
            wiring.guest.end_from_outside(
                f"its {self.label} failed: {type(error).__name__}: {error}", "please report it"
            )
