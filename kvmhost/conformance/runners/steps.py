"""A vCPU's way in single steps, with what TF does not show.

An INT, a fault or an NMI clears TF on its way into the handler, so the step ends nowhere.  Where the gates of
the live IDT lead, a HLT is planted: at ring 0 it leaves the VM, and the step has ended there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from mmap import mmap

HLT = 0xF4
GATE_BYTES = 8
# Types of present gates whose target runs at ring 0 or where it says: interrupt and trap gates.
_TYPES = (0x6, 0x7, 0xE, 0xF)


class Steps:
    """The places of the last steps.  physical says where a linear address lies in the memory."""

    def __init__(self, memory: mmap, most: int, physical: Callable[[int], int]) -> None:
        self.places = deque[int](maxlen=most)
        self._memory = memory
        self._physical = physical
        self._idt = (-1, -1)
        self._planted: dict[int, int] = {}
        self._open: int | None = None

    def before(self, rip: int, base: int, limit: int) -> None:
        """An instruction is about to be stepped, with this IDT."""
        self.places.append(rip)
        if (base, limit) != self._idt:
            self.lift()
            self._idt = (base, limit)
            self._plant(base, limit)
        place = self._physical(rip)
        if place in self._planted:
            self._memory[place] = self._planted[place]
            self._open = place

    def after(self) -> None:
        """It has been."""
        if self._open is not None:
            self._memory[self._open] = HLT
            self._open = None

    def landed(self, rip: int) -> int | None:
        """The handler at which a HLT that has left the VM was planted; None if it is the case's own."""
        return rip - 1 if self._physical(rip - 1) in self._planted else None

    def lift(self) -> None:
        """Put back everything that was there."""
        for place, byte in self._planted.items():
            self._memory[place] = byte
        self._planted.clear()
        self._idt = (-1, -1)

    def _plant(self, base: int, limit: int) -> None:
        table = self._physical(base)
        for at in range(
            table, table + min(limit + 1, 256 * GATE_BYTES) // GATE_BYTES * GATE_BYTES, GATE_BYTES
        ):
            gate = self._memory[at : at + GATE_BYTES]
            selector, kind = int.from_bytes(gate[2:4], "little"), gate[5] if len(gate) > 5 else 0
            # A gate straight to ring 1 ends in a page where HLT would trap.
            if not kind & 0x80 or kind & 0x1F not in _TYPES or selector & 3:
                continue
            place = self._physical(int.from_bytes(gate[0:2] + gate[6:8], "little"))
            if place < len(self._memory) and place not in self._planted:
                self._planted[place] = self._memory[place]
                self._memory[place] = HLT
