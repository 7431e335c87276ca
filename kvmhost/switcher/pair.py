"""A CPU's pair of pages: the register page that is the Guest's, the state page that is the CPU's.

The pair is all that the Switcher knows.  Its first page ends with 18 dwords that
the CPU itself writes when a Guest traps; which page lies there depends on whose
tables are live.  Its second page holds everything the Switcher needs to become
the Guest (GDT, IDT, TSS) and to become the Host again (host_cr3, host_sp, the
Host's tables).  The Guest may read that page, never write it.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from kvmhost._native import ffi, lib

from . import gates
from .layout import Layout

if TYPE_CHECKING:
    from .blobs import Blob

FIELDS = tuple(name for name, _ in ffi.typeof("struct kvmhost_frame_2624").fields or [])


def pair_address(cpu: int) -> int:
    """Linear address of a CPU's pair: the pairs follow the text (abi 1.1).

    >>> hex(pair_address(1))
    '0xffc03000'
    """
    return int(lib.SWITCHER_BASE) + int(lib.PAGE_BYTES) + cpu * int(lib.PAIR_SIZE)


def _dword(name: str) -> Any:
    """A field of the frame; the getter is C all the way, because every trap reads some."""

    def write(frame: Frame, value: int) -> None:
        setattr(frame.words, name, value & 0xFFFFFFFF)

    return property(attrgetter(f"words.{name}"), write, doc=f"{name}, 32 bits")


def _selector(name: str) -> Any:
    """A selector: a CPU may leave the upper half of its slot as it was (conformance DV-11)."""

    def read(frame: Frame) -> int:
        value: int = getattr(frame.words, name)
        return value & 0xFFFF

    def write(frame: Frame, value: int) -> None:
        setattr(frame.words, name, value & 0xFFFF)

    return property(read, write, doc=f"the selector {name}, 16 bits")


class Frame:
    """The 18 dwords of a register page, by name, whatever their order in memory.

    page is a cffi pointer to the page's first byte; words the structure in it, for who reads many
    fields at once.  Values are 32 bits and wrap; selectors are 16.

    >>> memory = ffi.new("uint32_t[1024]")
    >>> frame = Frame(memory, Layout.of("2.6.23", 8))
    >>> frame.eax = -1
    >>> hex(frame.eax), memory[1024 - 18 + 7] == frame.eax
    ('0xffffffff', True)
    """

    ebx: int = _dword("ebx")
    ecx: int = _dword("ecx")
    edx: int = _dword("edx")
    esi: int = _dword("esi")
    edi: int = _dword("edi")
    ebp: int = _dword("ebp")
    eax: int = _dword("eax")
    gs: int = _selector("gs")
    fs: int = _selector("fs")
    ds: int = _selector("ds")
    es: int = _selector("es")
    trapnum: int = _dword("trapnum")
    errcode: int = _dword("errcode")
    eip: int = _dword("eip")
    cs: int = _selector("cs")
    eflags: int = _dword("eflags")
    esp: int = _dword("esp")
    ss: int = _selector("ss")

    def __init__(self, page: Any, layout: Layout) -> None:
        self.words = _view(layout.frame_type, _view("uint8_t", page) + lib.FRAME_OFFSET)
        self.layout = layout

    def __repr__(self) -> str:
        return f"<Frame {' '.join(f'{name}={value:#x}' for name, value in self.snapshot().items())}>"

    def snapshot(self) -> dict[str, int]:
        """All 18 values by name, for reports and comparisons."""
        return {name: getattr(self, name) for name in FIELDS}

    def clear(self) -> None:
        """Make all 18 dwords zero."""
        ffi.memmove(self.words, bytes(int(lib.FRAME_BYTES)), int(lib.FRAME_BYTES))


class StatePage:
    """The pair's second page, as the Host sees it: writable.

    page is a cffi pointer to its first byte.  guest_idt and guest_gdt are the live tables, arrays
    of dwords: entry n is at [2 * n] and [2 * n + 1].

    >>> memory = ffi.new("uint32_t[1024]")
    >>> state = StatePage(memory, Layout.of("2.6.24", 6))
    >>> state.host_cr3 = 0x102000
    >>> memory[0] == state.host_cr3
    True
    """

    __slots__ = ("_bytes", "guest_gdt", "guest_idt", "guest_tss", "layout", "words")

    def __init__(self, page: Any, layout: Layout) -> None:
        self._bytes = _view("uint8_t", page)
        self.words = _view(layout.state_type, page)
        self.guest_idt = self.words.guest_idt
        self.guest_gdt = self.words.guest_gdt
        self.guest_tss = self.words.guest_tss
        self.layout = layout

    @property
    def host_cr3(self) -> int:
        """The Host's CR3, loaded on the way back."""
        return int(self.words.host_cr3)

    @host_cr3.setter
    def host_cr3(self, value: int) -> None:
        self.words.host_cr3 = value

    @property
    def host_sp(self) -> int:
        """The Host's stack pointer while the Guest runs, stored by the Switcher."""
        return int(self.words.host_sp)

    @property
    def mailbox(self) -> int:
        """Linear address of the vCPU's mailbox; only `hardened` looks."""
        return int(self._mailbox()[0])

    @mailbox.setter
    def mailbox(self, value: int) -> None:
        self._mailbox()[0] = value

    def _mailbox(self) -> Any:
        return _view("uint32_t", self._bytes + (lib.STATE_MAILBOX_OFFSET - lib.PAGE_BYTES))

    def set_stack(self, esp1: int, ss1: int) -> None:
        """Set where a trap from ring 3 straight to ring 1 lands; at every entry (abi 2.3)."""
        self.guest_tss.esp1 = esp1
        self.guest_tss.ss1 = ss1

    def set_up(
        self,
        blob: Blob,
        pair: int,
        host_cr3: int,
        host_gdt: tuple[int, int],
        host_idt: tuple[int, int],
        mailbox: int = 0,
    ) -> None:
        """Write the whole page as it is before the first Guest (abi 3.6).

        pair is the linear address of the pair, host_gdt and host_idt are (limit, linear base),
        mailbox the linear address of the vCPU's.  Every vector leads to its stub; the Guest's GDT
        has the Switcher's code and data, the TSS, and nothing else.
        """
        ffi.memmove(self._bytes, bytes(int(lib.PAGE_BYTES)), int(lib.PAGE_BYTES))
        here = pair + int(lib.PAGE_BYTES)
        at = self.layout.state
        self.host_cr3 = host_cr3
        self.mailbox = mailbox
        _describe(self.words.host_gdt_desc, *host_gdt)
        _describe(self.words.host_idt_desc, *host_idt)
        _describe(self.words.guest_gdt_desc, _limit(self.guest_gdt), here + at["guest_gdt"])
        _describe(self.words.guest_idt_desc, _limit(self.guest_idt), here + at["guest_idt"])
        self.guest_tss.esp0 = here
        self.guest_tss.ss0 = lib.LGUEST_DS
        self.guest_tss.io_bitmap_base = ffi.sizeof("struct kvmhost_tss")
        self.set_gdt_entry(int(lib.LGUEST_CS) >> 3, gates.flat_code())
        self.set_gdt_entry(int(lib.LGUEST_DS) >> 3, gates.flat_data())
        self.set_gdt_entry(int(lib.TSS_SELECTOR) >> 3, gates.tss_descriptor(here + at["guest_tss"]))
        self.set_all_gates(lambda vector: gates.default_gate(blob, vector))

    def set_gdt_entry(self, index: int, entry: gates.Entry) -> None:
        """Write one entry of the live GDT."""
        self.guest_gdt[2 * index], self.guest_gdt[2 * index + 1] = entry

    def set_gate(self, vector: int, entry: gates.Entry) -> None:
        """Write one entry of the live IDT."""
        self.guest_idt[2 * vector], self.guest_idt[2 * vector + 1] = entry

    def set_all_gates(self, gate: Callable[[int], gates.Entry]) -> None:
        """Write the whole live IDT from a function of the vector."""
        for vector in range(int(lib.IDT_ENTRIES)):
            self.set_gate(vector, gate(vector))

    def clear_busy(self) -> None:
        """Make the Guest's TSS available again, after a switch that did not end as it should."""
        self.guest_gdt[2 * (int(lib.TSS_SELECTOR) >> 3) + 1] &= ~gates.TSS_BUSY_BIT & 0xFFFFFFFF


def _view(kind: str, address: Any) -> Any:
    """Look at memory as a C type; what comes out has the fields of the headers, not Python types."""
    return ffi.cast(f"{kind} *", address)


def _describe(descriptor: Any, limit: int, base: int) -> None:
    """Fill an LGDT or LIDT operand."""
    descriptor.limit = limit
    descriptor.base_low = base & 0xFFFF
    descriptor.base_high = base >> 16


def _limit(table: Any) -> int:
    """The limit of a table is the offset of its last byte."""
    return int(ffi.sizeof(table) - 1)
