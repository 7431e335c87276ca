"""A very small guest for the kvm room's tests: 32-bit code at ring 0 under identity PAE tables, in 1 MiB of
memory.

Everything below 4 MiB is mapped; what lies above the memory has no slot, so touching it is MMIO.  Code is
written in bytes, with the instructions beside it: no assembler stands between a test and what the CPU
executes.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from kvmhost.kvm import Dtable, MemorySlot, Regs, Sregs, Vcpu, Vm, flat_sregs

PDPT, DIRECTORY, GDT, IDT = 0x1000, 0x2000, 0x3000, 0x4000
CODE, HANDLERS, STACK_TOP = 0x1_0000, 0x2_0000, 0x9000
MEMORY = 0x10_0000
NO_MEMORY = 0x20_0000

# Flat 4 GiB code and data at ring 0: what selectors 8 and 16 of flat_sregs stand for.
DESCRIPTORS = (0, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)
PRESENT_WRITABLE, LARGE = 3, 1 << 7
SMAPS = Path("/proc/self/smaps")


class Guest:
    """One VM with one vCPU, ready to run `code`; handlers maps vectors to the code of their interrupt
    gates.
    """

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self.memory: MemorySlot = vm.add_memory(0, MEMORY)
        self.vcpu: Vcpu

    def write(self, address: int, data: bytes) -> None:
        self.memory.view[address : address + len(data)] = data

    def read(self, address: int, length: int) -> bytes:
        return bytes(self.memory.view[address : address + length])

    def prepare(self, code: bytes, handlers: dict[int, bytes], rflags: int) -> None:
        self.write(PDPT, struct.pack("<4Q", DIRECTORY | 1, 0, 0, 0))
        self.write(DIRECTORY, struct.pack("<2Q", *(at | LARGE | PRESENT_WRITABLE for at in (0, 0x20_0000))))
        self.write(GDT, struct.pack("<3Q", *DESCRIPTORS))
        for vector, handler in handlers.items():
            at = HANDLERS + 0x100 * vector
            self.write(at, handler)
            self.write(IDT + 8 * vector, struct.pack("<HHHH", at & 0xFFFF, 8, 0x8E00, at >> 16))
        self.write(CODE, code)
        self.vcpu.set_state(Regs(rip=CODE, rsp=STACK_TOP, rflags=rflags), self.sregs(bool(handlers)))

    def sregs(self, handlers: bool) -> Sregs:
        flat = flat_sregs(cr3=PDPT, apic_base=self.vcpu.sregs().apic_base)
        idt = Dtable(IDT, 0x7FF) if handlers else Dtable()
        return replace(flat, gdt=Dtable(GDT, 23), idt=idt)


MakeGuest = Callable[..., Guest]


def descriptors() -> list[str]:
    """What this process's open descriptors are."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sorted(str(link.readlink()) for link in links)


def slot_bytes() -> int:
    """Bytes that slots of this process own: their memory alone is never copied by fork (VmFlags: dc)."""
    areas = re.findall(r"^Size: +(\d+) kB$.*?^VmFlags: (.*?)$", SMAPS.read_text(), re.M | re.S)
    return sum(int(kilobytes) * 1024 for kilobytes, flags in areas if "dc" in flags.split())


def run_pages() -> int:
    """Mappings of vCPUs' run pages."""
    return sum("kvm-vcpu" in line for line in Path("/proc/self/maps").read_text().splitlines())
