"""Guests of a few instructions, put together from bytes, for tests that need one odd thing."""

from __future__ import annotations

import struct
from typing import Any

CODE_AT = 0x100000
DATA_AT = 0x2000
STACK_TOP = 0x80000
PAGE_OFFSET = 0xC0000000

REGISTERS = {"eax": 0, "ecx": 1, "edx": 2, "ebx": 3, "esp": 4, "ebp": 5, "esi": 6, "edi": 7}


def mov(register: str, value: int) -> bytes:
    """mov $value, %register"""
    return bytes([0xB8 + REGISTERS[register]]) + struct.pack("<I", value & 0xFFFFFFFF)


def hypercall(number: int, *args: int) -> bytes:
    """Load the registers and int $0x1F."""
    names = ("ebx", "ecx", "edx", "esi")
    loads = b"".join(mov(name, value) for name, value in zip(names, args, strict=False))
    return loads + mov("eax", number) + b"\xcd\x1f"


def store(address: int, value: int) -> bytes:
    """movl $value, address"""
    return b"\xc7\x05" + struct.pack("<II", address, value & 0xFFFFFFFF)


def increment(address: int) -> bytes:
    """incl address"""
    return b"\xff\x05" + struct.pack("<I", address)


def back_to(code: bytes, start: int) -> bytes:
    """code and a jmp from its end to the offset `start` in it."""
    return code + b"\xe9" + struct.pack("<i", start - len(code) - 5)


def forever(body: bytes) -> bytes:
    """Do body again and again."""
    return back_to(body, 0)


def init() -> bytes:
    """Stack, then LGUEST_INIT with the struct that boot() puts at DATA_AT."""
    return mov("esp", STACK_TOP) + hypercall(1, DATA_AT)


def set_gate(vector: int, handler: int, kind: int = 0xE, dpl: int = 0) -> bytes:
    """LOAD_IDT_ENTRY."""
    low = 0x00600000 | handler & 0xFFFF
    high = handler & 0xFFFF0000 | 0x8000 | dpl << 13 | kind << 8
    return hypercall(6, vector, low, high)


def boot(machine: Any, code: bytes, name: str = "tiny", memory: int = 8 << 20) -> Any:
    """A Guest with `code` at CODE_AT, entered there, and an lguest_data (kernels 3.1 to 4.0) at DATA_AT."""
    guest = machine.add_guest(memory, name)
    guest.ram.write(CODE_AT, code)
    guest.ram.write(
        DATA_AT, bytes(24) + b"\xff" * 64 + bytes(64 * 20 + 8) + struct.pack("<IIII", 0, 0, PAGE_OFFSET, 0x80)
    )
    guest.set_entry(CODE_AT)
    return guest
