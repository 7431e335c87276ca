"""Images of a few bytes: 32-bit executables put together field by field, so that each field can be wrong.

Field names and values are those of the ELF specification ("Object Files", TIS 1.2).
"""

from __future__ import annotations

import struct
from pathlib import Path

from kvmhost.cli import main

LOAD_AT = 0x100000
PAGE = 0x1000
DATA = LOAD_AT + PAGE
PGDIR = LOAD_AT + 2 * PAGE
PAGE_TABLE = LOAD_AT + 3 * PAGE
TEXT = LOAD_AT + 4 * PAGE
STACK_TOP = 0x90000
#: Above all RAM, below the Switcher.
NOWHERE = 0xE0000000
PAGE_OFFSET = 0xC0000000
PRESENT = 0x67

FLUSH_ASYNC = 0
INIT, SHUTDOWN, NEW_PGTABLE, LOAD_IDT_ENTRY, SET_STACK, HALT = 1, 2, 4, 6, 7, 10
LOAD_TLS, NOTIFY, LOAD_GDT_ENTRY = 16, 17, 18
EHDR = "<4sBBB9xHHIIIIIHHHHHH"
PHDR = "<IIIIIIII"
HEADERS = struct.calcsize(EHDR) + struct.calcsize(PHDR)


def elf(
    code: bytes,
    *,
    elf_class: int = 1,
    machine: int = 3,
    kind: int = 2,
    physical: int = LOAD_AT,
    memory_size: int | None = None,
    entry: int | None = None,
) -> bytes:
    """One PT_LOAD segment with `code` at a physical address, entered at its first byte."""
    start = physical if entry is None else entry
    ident = (b"\x7fELF", elf_class, 1, 1)
    header = struct.pack(EHDR, *ident, kind, machine, 1, start, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    size = len(code) if memory_size is None else memory_size
    segment = struct.pack(PHDR, 1, HEADERS, physical, physical, len(code), size, 7, 4096)
    return header + segment + code


#: ModRM order of the general registers (Intel SDM vol. 2, "Register Codes").
REGISTERS = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
#: int $0x1F
CALL = b"\xcd\x1f"


def mov(register: str, value: int) -> bytes:
    """mov $value, %register"""
    return bytes([0xB8 + REGISTERS.index(register)]) + struct.pack("<I", value)


def hypercall(number: int, *arguments: int) -> bytes:
    """The number in EAX, up to four arguments in EBX, ECX, EDX and ESI, and int $0x1F."""
    loads = zip(("ebx", "ecx", "edx", "esi"), arguments, strict=False)
    return b"".join(mov(register, value) for register, value in loads) + mov("eax", number) + CALL


def gate(vector: int, handler: int) -> bytes:
    """LOAD_IDT_ENTRY with an interrupt gate."""
    return hypercall(LOAD_IDT_ENTRY, vector, 0x610000 | handler & 0xFFFF, handler & 0xFFFF0000 | 0x8E00)


def image(code: bytes) -> bytes:
    """An executable: code, lguest_data of kernels 3.1 to 4.0, tables that map these two pages, a text."""
    shared = bytes(24) + b"\xff" * 64 + bytes(64 * 20 + 8) + struct.pack("<4I", 0, 0, PAGE_OFFSET, 0x80)
    pgdir = struct.pack("<I", PAGE_TABLE | PRESENT)
    table = bytearray(PAGE)
    struct.pack_into("<2I", table, LOAD_AT >> 12 << 2, LOAD_AT | PRESENT, DATA | PRESENT)
    pages = (code, shared, pgdir, bytes(table), b"Power down\0")
    return elf(b"".join(page.ljust(PAGE, b"\0") for page in pages))


def run(folder: Path, name: str, code: bytes, *options: str) -> int:
    """Put the image into a file and run it."""
    path = folder / f"{name.replace(' ', '-')}.elf"
    path.write_bytes(image(code))
    return main(["run", str(path), *options])


#: What most Guests begin with: a stack, and LGUEST_INIT.
BEGIN = mov("esp", STACK_TOP) + hypercall(INIT, DATA)
