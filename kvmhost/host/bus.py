"""Where a Guest touches something that is not its memory, a bus answers.

The host room knows ports, addresses and the NOTIFY hypercall; what stands behind
them is the Launcher's.  This is all that the two know of each other.
"""

from __future__ import annotations

from typing import Protocol


class Bus(Protocol):
    """Whatever answers a Guest's device accesses.

    All methods but close() are called on the thread of the Guest's vCPU, and must not wait for anything.  A
    method may raise GuestBroke: then the Guest dies alone.
    """

    def notify(self, address: int) -> bool:
        """NOTIFY with a Guest-physical address; False if no device's: then it is early console text."""
        ...

    def read_port(self, port: int, width: int) -> int:
        """IN of `width` bytes (1, 2, 4); all ones where nobody answers."""
        ...

    def write_port(self, port: int, width: int, value: int) -> None:
        """OUT of `width` bytes; nothing happens where nobody listens."""
        ...

    def read_mmio(self, physical: int, width: int) -> int | None:
        """A load of `width` bytes in the MMIO window; None where no device is."""
        ...

    def write_mmio(self, physical: int, width: int, value: int) -> bool:
        """A store of `width` bytes in the MMIO window; False where no device is."""
        ...

    def close(self) -> None:
        """Stop every device and flush what they hold.  From any thread; twice is as good as once."""
        ...
