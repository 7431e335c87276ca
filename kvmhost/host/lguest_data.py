"""struct lguest_data: the page corner that Guest and Host both write.

Its layout changed with the kernels and carries no version.  Whoever loaded the
image mostly knows which generation it is; here that is checked against what the
Guest put into the struct before it asked, and where nobody knew it is found out:
a ring that is all free, a round PAGE_OFFSET where kernel_address should be, and
the vector of system calls behind it (abi 8.5).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from kvmhost._native import ffi, lib
from kvmhost.host.abi import ABIS, Abi
from kvmhost.host.errors import GuestBroke
from kvmhost.host.memory import VmMemory

if TYPE_CHECKING:
    from kvmhost.host.guest import Guest

# A kernel_address is a PAGE_OFFSET: never zero, and a multiple of 16 MiB in every split there is.  The
# Switcher's own 4 MiB hold no such address.
_ROUND: Final = 0x00FFFFFF
_RING_FREE: Final = bytes([lib.LHCALL_RING_FREE]) * lib.LHCALL_RING_SIZE


@dataclass(frozen=True, slots=True)
class DataLayout:
    """One layout of the struct.

    struct: its name in native/abi.  size in bytes.  fields: what it has.  entry_words: dwords of an entry of
    the ring.  argument_words: where in an entry the arguments are, in their order.
    """

    struct: str
    size: int
    fields: frozenset[str]
    entry_words: int
    argument_words: tuple[int, ...]


@lru_cache(maxsize=8)
def layout_of(struct: str) -> DataLayout:
    """The layout of a struct named in native/abi.

    >>> layout_of("struct lguest_data_2624").argument_words, layout_of("struct lguest_data_41").argument_words
    ((3, 1, 2), (1, 2, 3, 4))
    """
    fields = dict(ffi.typeof(struct).fields or [])
    entry = fields["hcalls"].type.item
    words = {name: field.offset // 4 for name, field in entry.fields}
    arguments = tuple(words[f"arg{number}"] for number in range(1, 5) if f"arg{number}" in words)
    return DataLayout(struct, ffi.sizeof(struct), frozenset(fields), ffi.sizeof(entry) // 4, arguments)


class LguestData:
    """The shared struct of one Guest, at a Guest-physical address that was checked.

    `words` is the struct itself: reading a field is reading what the Guest wrote last.  `irq_pending` is the
    dword that tells the Guest of interrupts (index 0); where the layout has none it is one that nobody reads.
    `status` and `ring` are the async ring: a byte and `layout.entry_words` dwords for each slot; `arguments`
    takes the arguments out of the latter.
    """

    __slots__ = ("address", "arguments", "irq_pending", "layout", "memory", "ring", "status", "words")

    def __init__(self, memory: VmMemory, mem_base: int, address: int, layout: DataLayout) -> None:
        self.memory = memory
        self.address = address
        self.layout = layout
        start = ffi.cast("uint8_t *", memory.u8) + mem_base + address
        self.words: Any = ffi.cast(f"{layout.struct} *", start)
        self.status: Any = self.words.hcall_status
        self.ring: Any = ffi.cast("uint32_t *", self.words.hcalls)
        self.arguments = itemgetter(*layout.argument_words)
        told = "irq_pending" in layout.fields
        self.irq_pending: Any = ffi.addressof(self.words, "irq_pending") if told else ffi.new("uint32_t *")

    @property
    def no_irq_window(self) -> tuple[int, int]:
        """First address and end of where no interrupt may come; the end is 0 for a single instruction."""
        if "noirq_iret" in self.layout.fields:
            return int(self.words.noirq_iret), 0
        return int(self.words.noirq_start), int(self.words.noirq_end)

    @property
    def interrupts_enabled(self) -> bool:
        """The Guest's virtual IF: bit 9 and nothing else (abi 5.4)."""
        return bool(self.words.irq_enabled & lib.EFLAGS_IF_BIT)

    @property
    def plausible(self) -> bool:
        """Whether a Guest of this layout would have filled the struct so before LGUEST_INIT."""
        words = self.words
        return bool(
            words.kernel_address != 0
            and words.kernel_address & _ROUND == 0
            and words.syscall_vec == lib.SYSCALL_VECTOR
            and ffi.buffer(self.status)[:] == _RING_FREE
        )

    def tell_time(self) -> None:
        """Write the wall time, as at INIT and with each delivered interrupt (abi 11)."""
        now = time.time_ns()
        self.words.time_sec = (now // 1_000_000_000) & 0xFFFFFFFF
        self.words.time_nsec = now % 1_000_000_000


def _look(guest: Guest, abi: Abi) -> LguestData | None:
    """The struct as `abi` would have it: at the address in its first argument, if that is plausible."""
    layout = layout_of(abi.data)
    address = getattr(guest.frame, abi.arguments[0])
    if address % 4 or address + layout.size > guest.state.mem_bytes:
        return None
    data = LguestData(guest.memory, guest.state.mem_base, address, layout)
    return data if data.plausible else None


def recognise(guest: Guest) -> LguestData:
    """The struct whose address a Guest passed to LGUEST_INIT in its registers.

    If it is not of the generation the Guest was taken for, and nobody said which it is, the Guest's `abi`
    becomes the one it shows, provided that its first page tables and its devices are the same in both.
    Raises GuestBroke otherwise, and for a struct that fits none.
    """
    data = _look(guest, guest.abi)
    if data is not None:
        return data
    for abi in ABIS:
        data = _look(guest, abi)
        if data is None:
            continue
        if guest.abi_told or abi.tables is not guest.abi.tables or _has_other_bus(guest, abi):
            raise _contradiction(guest, abi)
        guest.abi = abi
        return data
    raise _nonsense(guest)


def _has_other_bus(guest: Guest, abi: Abi) -> bool:
    return guest.bus is not None and abi.bus is not guest.abi.bus


def _contradiction(guest: Guest, found: Abi) -> GuestBroke:
    alike = [abi for abi in ABIS if abi.data == found.data]
    who = "it was taken for" if guest.abi_told else "its image does not say what it is, so it was taken for"
    return GuestBroke(
        f"LGUEST_INIT shows a kernel of {alike[0].name} to {alike[-1].until}, and {who} {guest.abi.releases}",
        "say which it is: " + " or ".join(f"--abi {abi.name}" for abi in alike),
    )


def _nonsense(guest: Guest) -> GuestBroke:
    """Why the struct is none: its address, or what is in it."""
    layout = layout_of(guest.abi.data)
    register = guest.abi.arguments[0]
    address = getattr(guest.frame, register)
    memory = guest.state.mem_bytes
    if address % 4 or address + layout.size > memory:
        return GuestBroke(
            f"LGUEST_INIT with lguest_data at {address:#010x}",
            f"it must be a multiple of 4, in {register.upper()}, with {layout.size} bytes of RAM behind it "
            f"(RAM ends at {memory:#010x})",
        )
    return GuestBroke(
        "LGUEST_INIT with an lguest_data of no known layout",
        f"Guests from {ABIS[0].name} to {ABIS[-1].until} are known: set kernel_address to PAGE_OFFSET, "
        "syscall_vec to 0x80 and all of hcall_status to 0xFF before the call",
    )
