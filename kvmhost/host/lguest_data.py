"""struct lguest_data: the page corner that Guest and Host both write.

Its layout changed with the kernels and carries no version, so the generation is
recognised at LGUEST_INIT by what a Guest puts there before it asks: a round
PAGE_OFFSET where kernel_address should be, and the vector of system calls after
it (abi 8.5).  What follows is the same for every generation in the table.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from kvmhost._native import ffi, lib
from kvmhost.host.errors import GuestBroke
from kvmhost.host.memory import VmMemory


@dataclass(frozen=True, slots=True)
class Generation:
    """One layout: offsets in bytes.  noirq_end is None where the window is one instruction."""

    name: str
    size: int
    noirq_start: int
    noirq_end: int | None
    kernel_address: int
    syscall_vec: int


def _generation(name: str, struct: str) -> Generation:
    at = {field: info.offset for field, info in ffi.typeof(struct).fields or []}
    start = at.get("noirq_start", at.get("noirq_iret"))
    assert start is not None
    return Generation(
        name, ffi.sizeof(struct), start, at.get("noirq_end"), at["kernel_address"], at["syscall_vec"]
    )


GENERATIONS = (
    _generation("3.1 to 4.0", "struct lguest_data_31"),
    _generation("4.1 and later", "struct lguest_data_41"),
)

# A kernel_address is a PAGE_OFFSET: never zero, and a multiple of 16 MiB in every split there is.
_ROUND = 0x00FFFFFF


class LguestData:
    """The shared struct of one Guest, at a Guest-physical address that was checked.

    Every field is a 32-bit word in VM memory; reading one is reading what the Guest wrote last.
    """

    __slots__ = ("_word", "address", "generation", "memory", "words")

    def __init__(self, memory: VmMemory, mem_base: int, address: int, generation: Generation) -> None:
        self.memory = memory
        self.address = address
        self.generation = generation
        self.words: Any = ffi.cast(
            "struct lguest_data_31 *", ffi.cast("uint8_t *", memory.u8) + mem_base + address
        )
        self._word = (mem_base + address) // 4

    def word(self, offset: int) -> int:
        """One dword of the struct by its offset in bytes."""
        return int(self.memory.u32[self._word + offset // 4])

    @property
    def interrupts_enabled(self) -> bool:
        """The Guest's virtual IF: bit 9 and nothing else (abi 5.4)."""
        return bool(self.words.irq_enabled & lib.EFLAGS_IF_BIT)

    def tell_time(self) -> None:
        """Write the wall time, as at INIT and with each delivered interrupt (abi 11)."""
        now = time.time_ns()
        self.words.time_sec = (now // 1_000_000_000) & 0xFFFFFFFF
        self.words.time_nsec = now % 1_000_000_000


def recognise(memory: VmMemory, mem_base: int, mem_bytes: int, address: int) -> LguestData:
    """Find out which generation a Guest speaks from the struct it passed to LGUEST_INIT.

    Raises GuestBroke for an address outside of RAM or a struct that fits none.
    """
    largest = max(generation.size for generation in GENERATIONS)
    if address % 4 or address + largest > mem_bytes:
        raise GuestBroke(
            f"LGUEST_INIT with lguest_data at {address:#010x}",
            f"it must be a multiple of 4 with {largest} bytes of RAM behind it "
            f"(RAM ends at {mem_bytes:#010x})",
        )
    for generation in GENERATIONS:
        data = LguestData(memory, mem_base, address, generation)
        kernel = data.word(generation.kernel_address)
        vector = data.word(generation.syscall_vec)
        if kernel and kernel & _ROUND == 0 and vector == lib.SYSCALL_VECTOR:
            return data
    raise GuestBroke(
        "LGUEST_INIT with an lguest_data of no known layout",
        "Guests from " + ", ".join(g.name for g in GENERATIONS) + " are known: set kernel_address to "
        "PAGE_OFFSET and syscall_vec to 0x80 before the call",
    )
