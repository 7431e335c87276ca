"""The small world a probe Guest lives in, built byte by byte.

128 KiB of memory, all of it in one piece: descriptor tables, a TSS, page tables in both formats,
two stacks, a few pages with special rights, and the text from native/doctor/probes.S. Linear
addresses equal physical ones except at PROBE_ALIAS.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum, auto

from kvmhost.doctor import _constants as c

# Intel SDM vol. 3, "Control Registers".
CR0_PE, CR0_ET, CR0_NE, CR0_WP, CR0_PG = 1 << 0, 1 << 4, 1 << 5, 1 << 16, 1 << 31
CR4_PAE, CR4_PGE = 1 << 5, 1 << 7
# Intel SDM vol. 4, "Architectural MSRs": IA32_EFER.
EFER_NXE = 1 << 11
# Intel SDM vol. 3, "Paging": bits of an entry.
ENTRY_P, ENTRY_RW, ENTRY_A, ENTRY_D, ENTRY_G, ENTRY_XD = 1, 2, 1 << 5, 1 << 6, 1 << 8, 1 << 63
# Intel SDM vol. 3, "Segment Descriptors": type and S, without P and DPL.
CODE_READABLE, DATA_WRITABLE, TSS_AVAILABLE = 0x1B, 0x13, 0x09
INTERRUPT_GATE = 0x8E
PAGE = 0x1000


class Start(Enum):
    """What paging looks like at a Guest's first instruction."""

    UNPAGED = auto()
    TWO_LEVEL = auto()
    PAE = auto()


class Event(Enum):
    """What is sent to a Guest that asks."""

    NONE = auto()
    NMI = auto()
    KICK = auto()


@dataclass(frozen=True, slots=True)
class ProbeGuest:
    """One Guest: where in the text it starts and what it needs.

    `ebx` and `ecx` are its registers at the start; `cpuid_faulting` sets the two MSRs,
    `global_alias` makes the entry of PROBE_ALIAS global.
    """

    entry: str
    start: Start = Start.PAE
    event: Event = Event.NONE
    cpuid_faulting: bool = False
    global_alias: bool = False
    ebx: int = 0
    ecx: int = 0

    @property
    def cr0(self) -> int:
        """CR0 at the start."""
        base = CR0_PE | CR0_ET | CR0_NE
        return base if self.start is Start.UNPAGED else base | CR0_PG | CR0_WP

    @property
    def cr3(self) -> int:
        """CR3 at the start."""
        return {
            Start.UNPAGED: 0,
            Start.TWO_LEVEL: c.PROBE_TWO_LEVEL_PD,
            Start.PAE: c.PROBE_PAE_PDPT,
        }[self.start]

    @property
    def cr4(self) -> int:
        """CR4 at the start."""
        pae = CR4_PAE if self.start is Start.PAE else 0
        return pae | (CR4_PGE if self.global_alias else 0)

    @property
    def efer(self) -> int:
        """EFER at the start: XD wants NXE, and only PAE tables have XD."""
        return EFER_NXE if self.start is Start.PAE else 0


def descriptor(base: int, limit: int, kind: int, dpl: int) -> int:
    """A segment descriptor: limit in bytes, in pages when it needs to be; `kind` is type and S.

    >>> hex(descriptor(0, 0xFFFFFFFF, CODE_READABLE, 0))
    '0xcf9b000000ffff'
    """
    flags = 0x4 if kind & 0x10 else 0
    if limit > 0xFFFFF:
        limit, flags = limit >> 12, flags | 0x8
    low = (limit & 0xFFFF) | (base & 0xFFFFFF) << 16
    high = (0x80 | dpl << 5 | kind) | (limit >> 16) << 8 | flags << 12 | (base >> 24) << 16
    return low | high << 40


def gate(target: int, dpl: int) -> int:
    """An interrupt gate into the ring-0 text.

    >>> hex(gate(0x12345678, 1))
    '0x1234ae0000505678'
    """
    low = (target & 0xFFFF) | c.LGUEST_CS << 16
    return low | ((INTERRUPT_GATE | dpl << 5) << 8 | (target & 0xFFFF0000)) << 32


def build(guest: ProbeGuest) -> bytearray:
    """All of a Guest's memory."""
    memory = bytearray(c.PROBE_MEMORY)
    _descriptors(memory)
    _gates(memory)
    struct.pack_into("<I", memory, c.PROBE_TSS + c.TSS_ESP0, c.PROBE_STACK_TOP)
    struct.pack_into("<I", memory, c.PROBE_TSS + c.TSS_SS0, c.LGUEST_DS)
    struct.pack_into("<H", memory, c.PROBE_TSS + c.TSS_IO_BITMAP, c.TSS_SIZE)
    _two_level(memory)
    _pae(memory, guest.global_alias)
    struct.pack_into("<I", memory, c.PROBE_FRAME_ONE, c.PROBE_VALUE_ONE)
    struct.pack_into("<I", memory, c.PROBE_FRAME_TWO, c.PROBE_VALUE_TWO)
    struct.pack_into("<I", memory, c.PROBE_READ_ONLY, c.PROBE_VALUE_TWO)
    # INT HYPERCALL_VECTOR, which must never run: its page is XD.
    memory[c.PROBE_NO_EXECUTE : c.PROBE_NO_EXECUTE + 2] = bytes((0xCD, c.HYPERCALL_VECTOR))
    memory[c.PROBE_TEXT : c.PROBE_TEXT + len(c.PROBE_CODE)] = c.PROBE_CODE
    return memory


def _descriptors(memory: bytearray) -> None:
    for selector, value in (
        (c.LGUEST_CS, descriptor(0, 0xFFFFFFFF, CODE_READABLE, 0)),
        (c.LGUEST_DS, descriptor(0, 0xFFFFFFFF, DATA_WRITABLE, 0)),
        (c.GUEST_CS, descriptor(0, 0xFFFFFFFF, CODE_READABLE, 1)),
        (c.GUEST_DS, descriptor(0, 0xFFFFFFFF, DATA_WRITABLE, 1)),
        (c.PROBE_SHORT_SELECTOR, descriptor(0, c.PROBE_SHORT_BYTES - 1, DATA_WRITABLE, 0)),
        (c.TSS_SELECTOR, descriptor(c.PROBE_TSS, c.TSS_SIZE - 1, TSS_AVAILABLE, 0)),
    ):
        struct.pack_into("<Q", memory, c.PROBE_GDT + (selector & ~7), value)


def _gates(memory: bytearray) -> None:
    for vector in range(c.PROBE_STUBS):
        target = c.PROBE_SYMBOLS["probe_stubs"] + vector * c.PROBE_STUB_BYTES
        dpl = 1 if vector == c.HYPERCALL_VECTOR else 0
        struct.pack_into("<Q", memory, c.PROBE_IDT + 8 * vector, gate(target, dpl))
    kick = gate(c.PROBE_SYMBOLS["probe_kicked"], 0)
    struct.pack_into("<Q", memory, c.PROBE_IDT + 8 * c.KICK_VECTOR, kick)


def _page_entries() -> list[tuple[int, int]]:
    """(linear address, entry without XD) of every page, the same for both formats."""
    usual = ENTRY_P | ENTRY_RW | ENTRY_A | ENTRY_D
    pages = [(address, address | usual) for address in range(0, c.PROBE_MEMORY, PAGE)]
    pages[c.PROBE_READ_ONLY // PAGE] = (c.PROBE_READ_ONLY, c.PROBE_READ_ONLY | (usual & ~ENTRY_RW))
    return [*pages, (c.PROBE_ALIAS, c.PROBE_FRAME_ONE | usual)]


def _two_level(memory: bytearray) -> None:
    table = c.PROBE_TWO_LEVEL_PT | ENTRY_P | ENTRY_RW | ENTRY_A
    struct.pack_into("<I", memory, c.PROBE_TWO_LEVEL_PD, table)
    for address, entry in _page_entries():
        struct.pack_into("<I", memory, c.PROBE_TWO_LEVEL_PT + address // PAGE * 4, entry)


def _pae(memory: bytearray, global_alias: bool) -> None:
    struct.pack_into("<Q", memory, c.PROBE_PAE_PDPT, c.PROBE_PAE_PD | ENTRY_P)
    table = c.PROBE_PAE_PT | ENTRY_P | ENTRY_RW | ENTRY_A
    struct.pack_into("<Q", memory, c.PROBE_PAE_PD, table)
    for address, usual in _page_entries():
        entry = usual
        if address == c.PROBE_NO_EXECUTE:
            entry |= ENTRY_XD
        if address == c.PROBE_ALIAS and global_alias:
            entry |= ENTRY_G
        struct.pack_into("<Q", memory, c.PROBE_PAE_PT + address // PAGE * 8, entry)
