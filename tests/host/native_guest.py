"""Guests that lie in memory and never run: no KVM, no vCPU, only what the host room does to them."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

from kvmhost._native import ffi, lib
from kvmhost.host import hypercalls
from kvmhost.host.abi import ABIS, Abi
from kvmhost.host.guest import Guest
from kvmhost.host.lguest_data import layout_of
from kvmhost.host.memory import VmMemory
from kvmhost.switcher.layout import Layout

BLOCK = lib.GUEST_AREA_BASE
RAM_AT = BLOCK + lib.GUEST_BLOCK_SIZE
MEMORY = 4 << 20
DATA_AT = 0x2000
PAGE_OFFSET = 0xC0000000
BY_NAME = {abi.name: abi for abi in ABIS}


class FakeClock:
    """Alarms that are written down and never ring."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def after(self, seconds: float, call: Any) -> Any:
        self.seconds.append(seconds)
        return SimpleNamespace(cancel=lambda: self.seconds.append(-seconds), call=call)


def native(memory: VmMemory, abi: Abi | None = None, **options: Any) -> Guest:
    """A Guest at power-on, with boot parameters for its MEMORY and an initrd of two pages."""
    machine: Any = SimpleNamespace(memory=memory, clock=FakeClock(), woken=[])
    machine.wake = machine.woken.append
    size = options.pop("mem_bytes", MEMORY)
    guest = Guest(machine, "native", BLOCK, RAM_AT, size, Layout.of("2.6.24", 6), {}, abi, **options)
    boot_params(guest, size)
    return guest


def boot_params(guest: Guest, size: int = MEMORY, initrd: int = 0x2000) -> None:
    guest.ram.write(lib.BOOT_E820_SIZE, struct.pack("<Q", size))
    guest.ram.write(lib.BOOT_RAMDISK_SIZE, struct.pack("<I", initrd))


def fill_data(guest: Guest, abi: Abi, address: int = DATA_AT, **fields: int) -> Any:
    """The struct as a kernel of `abi` leaves it before LGUEST_INIT; returns the cdata."""
    start = ffi.cast("uint8_t *", guest.memory.u8) + RAM_AT + address
    words = ffi.cast(f"{abi.data} *", start)
    layout = layout_of(abi.data)
    guest.ram.write(address, bytes(layout.size))
    words.blocked_interrupts = 1
    ffi.memmove(words.hcall_status, b"\xff" * 64, 64)
    if "noirq_iret" in layout.fields:
        words.noirq_iret = 0xC1000010
    else:
        words.noirq_start, words.noirq_end = 0xC1000008, 0xC1000010
    words.kernel_address, words.syscall_vec = PAGE_OFFSET, 0x80
    for name, value in fields.items():
        setattr(words, name, value)
    return words


def call(guest: Guest, number: int, *args: int) -> None:
    """A direct hypercall, with the registers that its generation uses; the others hold garbage."""
    frame = guest.frame
    for register in ("eax", "ebx", "ecx", "edx", "esi"):
        setattr(frame, register, 0xDEADBEE0)
    frame.eax = number
    for register, value in zip(guest.abi.arguments, args, strict=False):
        setattr(frame, register, value)
    hypercalls.perform(guest, hypercalls.direct_call(guest))


def started(memory: VmMemory, abi: Abi, **options: Any) -> Guest:
    """A Guest whose LGUEST_INIT is done."""
    guest = native(memory, abi, **options)
    guest.set_entry(0x100000)
    fill_data(guest, abi)
    call(guest, lib.LHCALL_LGUEST_INIT, DATA_AT)
    return guest
