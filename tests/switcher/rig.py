"""One vCPU and a Guest of a few bytes, driven a KVM_RUN at a time and looked at from all sides.

The Host's own handlers cannot tell a test which of them ran.  Here each vector
that a Switcher delivers gets a handler of its own in the Host's IDT, which
leaves its number in the mailbox; a vector that comes straight home leaves none.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kvmhost._native import ffi, lib
from kvmhost.host import Guest, Machine
from kvmhost.host.cpu import Cpu
from kvmhost.host.host_area import BASE, IDT_AT, PT_AT, SWITCHER_TEXT_AT, TEXT
from kvmhost.kvm import ExitIo
from kvmhost.switcher import Blob, default_gate, gates

CODE_AT = 0x100000
STACK_TOP = 0x80000
# A page of the Host's megabyte that no vCPU's area reaches.
HANDLERS_AT = BASE + 0x80000
NOBODY = 0xFFFFFFFF
PGDIR_AT = 0x10000
# Page-table bits (Intel SDM vol. 3, "32-Bit Paging"): present, writable, user, accessed, dirty.
USED_BY_ALL = 0x67
FAULT_USER = 4

GENERAL = ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp")


@dataclass(frozen=True)
class Arrival:
    """What is known after one world switch: the frame, and the Host handler that ran."""

    vector: int
    error_code: int
    eip: int
    cs: int
    handler: int | None


class Rig:
    """A machine with one vCPU and one Guest, whose code lies at CODE_AT."""

    def __init__(self, machine: Machine, code: bytes, ring: int) -> None:
        self.machine = machine
        self.cpu: Cpu = machine.cpus[0]
        self.memory = machine.memory
        self.blob: Blob = machine.blob
        self.tail = len(self.blob.text)
        self.guest: Guest = machine.add_guest()
        self.guest.ram.write(CODE_AT, code)
        self.guest.set_entry(CODE_AT)
        frame = self.guest.frame
        for place, name in enumerate(GENERAL):
            setattr(frame, name, planted(place))
        frame.esp = STACK_TOP
        if ring == 3:
            frame.cs, frame.ds, frame.es, frame.ss = 0x73, 0x7B, 0x7B, 0x7B
        self._map_everything()
        self.cpu.prepare(self.guest)
        self.cpu.page.set_gdt_entry(14, gates.flat_code(3))
        self.cpu.page.set_gdt_entry(15, gates.flat_data(3))

    def _map_everything(self) -> None:
        """Page tables of the Guest's own that show its first 4 MiB to ring 3 too, and a filled entry."""
        entries = [PGDIR_AT + lib.PAGE_BYTES | USED_BY_ALL, *[0] * 1023]
        entries += [page << 12 | USED_BY_ALL for page in range(1024)]
        self.guest.ram.write(PGDIR_AT, struct.pack("<2048I", *entries))
        self.guest.tables.new_pgtable(PGDIR_AT)
        assert self.guest.tables.demand_page(CODE_AT, FAULT_USER)

    def open_gate(self, vector: int, target: int | None = None) -> None:
        """Let any ring raise a vector by INT; it leads to its stub, or to a linear address."""
        low, high = default_gate(self.blob, vector, dpl=3)
        if target is not None:
            low, high = gates.pack_gate(target, lib.LGUEST_CS, gates.INTERRUPT_GATE, 3)
        self.cpu.page.set_gate(vector, (low, high))

    def push_code(self, vector: int, code: int) -> None:
        """Open a gate through a few bytes behind the text that push an error code, as the CPU would.

        INT pushes none whatever its vector (Intel SDM vol. 3, "Error Code"), and not every CPU has
        all the exceptions that do.
        """
        here = self.tail
        jump = self.blob.default_idt_entries[vector] - (here + 10)
        self.memory.write(SWITCHER_TEXT_AT + here, b"\x68" + struct.pack("<IBi", code, 0xE9, jump))
        self.tail += 10
        assert self.tail <= lib.PAGE_BYTES
        self.open_gate(vector, lib.SWITCHER_BASE + here)

    def listen(self, vectors: Iterable[int]) -> None:
        """Give these vectors of the Host handlers that leave their number in the mailbox."""
        field = self.cpu.area.mailbox_at + ffi.offsetof("struct kvmhost_mailbox", "reserved")
        self.memory.u64[PT_AT // 8 + HANDLERS_AT // lib.PAGE_BYTES % 512] = HANDLERS_AT | TEXT
        for vector in vectors:
            handler = HANDLERS_AT + 16 * vector
            self.memory.write(handler, b"\xc7\x05" + struct.pack("<IIB", field, vector, 0xCF))
            low, high = gates.pack_gate(handler, lib.HOST_CS, gates.INTERRUPT_GATE)
            self.memory.u32[IDT_AT // 4 + 2 * vector] = low
            self.memory.u32[IDT_AT // 4 + 2 * vector + 1] = high

    def switch(self) -> Arrival:
        """One KVM_RUN: from the Host's door to the Host's door."""
        frame, mailbox = self.guest.frame, self.cpu.mailbox
        frame.trapnum = lib.NO_TRAP
        mailbox.reserved = NOBODY
        left = self.cpu.vcpu.run()
        assert isinstance(left, ExitIo), left
        assert left.port == lib.PORT_LEAVE, f"left by port {left.port:#x}"
        handler = None if mailbox.reserved == NOBODY else mailbox.reserved
        return Arrival(frame.trapnum, frame.errcode, frame.eip, frame.cs, handler)

    def registers(self) -> list[int]:
        return [getattr(self.guest.frame, name) for name in GENERAL]


def planted(place: int) -> int:
    """A value that tells which register it was put into."""
    return 0xA0B0C000 + 0x11 * place


@contextmanager
def rig(switcher: str | Blob, code: bytes, ring: int = 1) -> Iterator[Rig]:
    with Machine(memory=8 << 20, switcher=switcher) as machine:
        yield Rig(machine, code, ring)


def interrupts(vectors: Iterable[int]) -> bytes:
    """INT n for each."""
    return b"".join(bytes([0xCD, vector]) for vector in vectors)


def host_state(cpu: Any) -> tuple[object, ...]:
    """Tables, page table and task register, at the Host's door."""
    sregs = cpu.vcpu.sregs()
    return sregs.gdt, sregs.idt, sregs.cr3, sregs.tr.base, sregs.tr.limit, sregs.cs
