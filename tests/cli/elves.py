"""Images of a few bytes: 32-bit executables put together field by field, so that each field can be wrong.

Field names and values are those of the ELF specification ("Object Files", TIS 1.2).
"""

from __future__ import annotations

import struct

LOAD_AT = 0x100000
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
    header = struct.pack(
        EHDR,
        b"\x7fELF",
        elf_class,
        1,
        1,
        kind,
        machine,
        1,
        physical if entry is None else entry,
        52,
        0,
        0,
        52,
        32,
        1,
        0,
        0,
        0,
    )
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
