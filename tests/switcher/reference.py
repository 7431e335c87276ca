"""What `seed` must be, typed from the description of the 2007 order and from the manuals.

Nothing here was taken from our own sources: the order is the list of boundaries
B00 to B78 in the catalogue's "Names and addresses", offsets are the tables of
the ABI description (register frame, state page with 8-byte descriptors, both
counted from the pair's start), selectors are lguest's GDT.  compare() returns
what is wrong in words, so that the tests can also show it is able to.
"""

from __future__ import annotations

from switcher.walk import decode, walk, words

from kvmhost.switcher import Blob

FRAME = 4096 - 72
TRAPNUM = FRAME + 44
STATE = 4096
HOST_CR3, HOST_IDT, HOST_GDT, HOST_SP = STATE + 0, STATE + 4, STATE + 12, STATE + 20
GUEST_IDT, GUEST_GDT, GDT_TABLE = STATE + 24, STATE + 32, STATE + 2192
LDS, TSEL = 0x58, 0x80
TSS_TYPE = 8 * 16 + 5

ERROR_CODES_2007 = frozenset({8, 10, 11, 12, 13, 14, 17})
ERROR_CODES_TODAY = ERROR_CODES_2007 | {21, 29, 30}
NMI = 2
DELIVERED = frozenset(range(32, 256)) - {128}

# B02 to B30; B00 (pushf) and B01 (lcall) are the caller's.
ENTRY = [
    *("push es", "push ds", "push gs", "push fs", "push ebp"),
    f"mov dword ptr [eax + {HOST_SP:#x}], esp",
    "mov edx, eax",
    f"add edx, {FRAME:#x}",
    "mov esp, edx",
    f"lgdt [eax + {GUEST_GDT:#x}]",
    f"lidt [eax + {GUEST_IDT:#x}]",
    f"mov edx, {TSEL:#x}",
    "ltr dx",
    f"mov edx, dword ptr [eax + {HOST_GDT + 2:#x}]",
    f"and byte ptr [edx + {TSS_TYPE:#x}], 0xfd",
    "mov cr3, ebx",
    *("pop ebx", "pop ecx", "pop edx", "pop esi", "pop edi", "pop ebp"),
    *("pop gs", "pop eax", "pop fs", "pop ds", "pop es"),
    "add esp, 8",
    "iretd",
]
# B43 to B71.
HOME = [
    *("push es", "push ds", "push fs", "push eax", "push gs"),
    *("push ebp", "push edi", "push esi", "push edx", "push ecx", "push ebx"),
    f"mov eax, {LDS:#x}",
    "mov ds, eax",
    "mov eax, esp",
    f"sub eax, {FRAME:#x}",
    f"mov ebx, dword ptr [eax + {TRAPNUM:#x}]",
    f"mov edx, dword ptr [eax + {HOST_CR3:#x}]",
    "mov cr3, edx",
    f"and byte ptr [eax + {GDT_TABLE + TSS_TYPE:#x}], 0xfd",
    f"lgdt [eax + {HOST_GDT:#x}]",
    f"lidt [eax + {HOST_IDT:#x}]",
    f"mov esp, dword ptr [eax + {HOST_SP:#x}]",
    f"mov edx, {TSEL:#x}",
    "ltr dx",
    *("pop ebp", "pop fs", "pop gs", "pop ds", "pop es"),
]
# B72 to B78: the gate of the vector in EBX, its two half offsets joined, and a jump there.
DECODE_LENGTH = 7
# The 32-bit forms have no prefix; with 0x66 LGDT loads 24 bits of base and IRET pops words.
OPCODES = {
    "lgdt": b"\x0f\x01",
    "lidt": b"\x0f\x01",
    "ltr": b"\x0f\x00",
    "iretd": b"\xcf",
    "iret": b"\xcf",
}
DROP = ["add esp, 8", "iretd"]


def compare(blob: Blob) -> list[str]:
    """Everything in which a text differs from the seed."""
    found = differences("entry", words(walk(blob, blob.symbols["switch_to_guest"])), ENTRY)
    for vector in range(256):
        found += compare_stub(blob, vector, ERROR_CODES_2007)
        found += _compare_exit(blob, vector)
    return found + opcode_faults(blob)


def compare_stub(blob: Blob, vector: int, error_codes: frozenset[int]) -> list[str]:
    """B40 to B42 of one vector: a zero where the CPU pushes no code, the vector, a relative jump."""
    expected = ([] if vector in error_codes else ["push 0"]) + [f"push {_number(vector)}"]
    path = walk(blob, blob.default_idt_entries[vector], taken=[False] * 2)
    found = differences(f"stub {vector}", words(path[: len(expected)]), expected)
    jump = path[len(expected)]
    if jump.mnemonic != "jmp" or jump.code[0] not in (0xEB, 0xE9):
        found.append(f"stub {vector} does not end in a relative jump but in {jump.words}")
    push = path[len(expected) - 1]
    if vector >= 128 and push.code[0] != 0x68:
        found.append(f"stub {vector} pushes its number sign-extended: {push.code.hex()}")
    return found


def _compare_exit(blob: Blob, vector: int) -> list[str]:
    stub = 2 if vector in ERROR_CODES_2007 else 3
    path = walk(blob, blob.default_idt_entries[vector])[stub:]
    if vector == NMI:
        return differences(f"exit of {vector}", words(path), DROP)
    found = differences(f"exit of {vector}", words(path[: len(HOME)]), HOME)
    rest = path[len(HOME) :]
    if vector not in DELIVERED:
        return found + differences(f"end of {vector}", words(rest), ["iretd"])
    if len(rest) != DECODE_LENGTH or not rest[-1].words.startswith("jmp e"):
        found.append(f"end of {vector}: {len(rest)} instructions: {words(rest)}")
    return found


def opcode_faults(blob: Blob) -> list[str]:
    """Encodings that a disassembler's words could hide: prefixes, and the width of the mask."""
    found = []
    at = blob.symbols["switch_to_guest"]
    while at < blob.default_idt_entries[0]:
        step = decode(blob, at)
        opcode = OPCODES.get(step.mnemonic)
        if opcode is not None and not step.code.startswith(opcode):
            found.append(f"{step} has a prefix: {step.code.hex()}")
        if step.mnemonic == "and" and "ptr" in step.words and step.code[0] != 0x80:
            found.append(f"{step} is no byte operation: {step.code.hex()}")
        at += len(step.code)
    return found


def differences(what: str, got: list[str], expected: list[str]) -> list[str]:
    if got == expected:
        return []
    for place, (one, other) in enumerate(zip(got, expected, strict=False)):
        if one != other:
            return [f"{what}, instruction {place}: {one} instead of {other}"]
    return [f"{what}: {len(got)} instructions instead of {len(expected)}"]


def _number(value: int) -> str:
    """As the disassembler writes immediates."""
    return str(value) if value < 10 else f"{value:#x}"
