"""Entropy: a Guest's buffers filled from the host's own generator, not faster than a Guest can need it.

The kernel's generator never runs dry, but asking it costs the host time, and a Guest can ask without end.
So a Guest has an allowance: BURST bytes at once, and RATE bytes a second from then on, which is more than any
/dev/random ever gave.  A buffer is filled whole once there is enough of it, as every Launcher did (abi 10.2);
of a very large one only the first MOST bytes are filled, which the used length says.
"""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING, ClassVar, Final

from kvmhost.launcher.devices.device import Device, Wiring

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmhost.launcher.devices.ring import StopSign

#: Bytes a second, and bytes that may be asked for at once.
RATE: Final = 64 << 10
BURST: Final = 64 << 10
#: Most that one buffer gets.
MOST: Final = 4096


class Allowance:
    """Something that is given at a rate: `burst` at first, and never more in store than that.

    >>> now = 100.0
    >>> allowance = Allowance(rate=10, burst=20, clock=lambda: now)
    >>> allowance.wait_for(20), allowance.wait_for(5)
    (0.0, 0.5)
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._store = burst
        self._then = clock()

    def wait_for(self, amount: float) -> float:
        """Take so much, and return the seconds to wait before using it; 0.0 if there is enough in store."""
        now = self._clock()
        self._store = min(self._burst, self._store + (now - self._then) * self._rate) - amount
        self._then = now
        return max(0.0, -self._store / self._rate)


class Rng(Device):
    """A virtio entropy device.

    >>> Rng.virtio_id, Rng.queues
    (4, 1)
    """

    virtio_id: ClassVar[int] = 4
    queues: ClassVar[int] = 1
    label = "rng"

    def __init__(self) -> None:
        super().__init__()
        self.allowance = Allowance(RATE, BURST)

    def serve(self, wiring: Wiring, index: int) -> None:
        queue = wiring.queues[index]
        while queue.wait():
            while (chain := queue.pop()) is not None:
                size = min(chain.writable_bytes, MOST)
                seconds = self.allowance.wait_for(size)
                if seconds and _stopped_within(wiring.stop, seconds):
                    return
                queue.push(chain, queue.write(chain, os.getrandom(size)))
                queue.interrupt()


def _stopped_within(stop: StopSign, seconds: float) -> bool:
    """Sleep, but not longer than until the device is to stop: then True."""
    poll = select.poll()
    poll.register(stop.fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
