"""The seed is the Switcher of July 2007, instruction by instruction, and the comparison can tell."""

from __future__ import annotations

from pathlib import Path

import pytest
from switcher import reference
from switcher.build import variant
from switcher.walk import walk

from kvmhost.switcher import Blob, load

# One defect each, as (what changes, what the comparison must say).
MUTANTS = {
    "host busy mask": (
        ("andb\t$0xFD, TSS_type_byte(%edx)", "andb\t$0xFB, TSS_type_byte(%edx)"),
        "entry, instruction 14",
    ),
    "guest busy mask": (
        ("andb\t$0xFD, (S8_guest_gdt", "andb\t$0xFB, (S8_guest_gdt"),
        "exit of 0, instruction 18",
    ),
    "host busy bit not cleared": (
        ("B16_host_tss_idle:\tandb\t$0xFD, TSS_type_byte(%edx)", "B16_host_tss_idle:"),
        "entry, instruction 14",
    ),
    "guest busy bit not cleared": (
        ("andb\t$0xFD, (S8_guest_gdt + TSS_type_byte)(%eax)", ""),
        "exit of 0, instruction 18",
    ),
    "mask on a whole dword": (
        ("andb\t$0xFD, TSS_type_byte(%edx)", "andl\t$~0x200, (TSS_type_byte - 1)(%edx)"),
        "entry, instruction 14",
    ),
    "pops swapped": (("B18_pop_ebx:\t\tpop\t%ebx", "B18_pop_ebx:\t\tpop\t%ecx"), "entry, instruction 16"),
    "eax not saved": (("B46_push_eax_\\name:\tpush\t%eax\n", ""), "exit of 0, instruction 3"),
    "esp built in place": (("mov\t%eax, %edx\nB09", "mov\t%eax, %esp\nB09"), "entry, instruction 6"),
    "idt before gdt": (
        (
            "lgdt\tS8_guest_gdt_desc(%eax)\nB12_load_guest_idt:\tlidt\tS8_guest_idt_desc(%eax)",
            "lidt\tS8_guest_idt_desc(%eax)\nB12_load_guest_idt:\tlgdt\tS8_guest_gdt_desc(%eax)",
        ),
        "entry, instruction 9",
    ),
    "rounding": (("sub\t$FRAME_OFFSET, %eax", "and\t$-PAGE_BYTES, %eax"), "exit of 0, instruction 14"),
    "16-bit lgdt": (("B11_load_guest_gdt:\tlgdt", "B11_load_guest_gdt:\tlgdtw"), "has a prefix"),
    "16-bit iret": (("B30_enter_guest:\tiret", "B30_enter_guest:\tiretw"), "entry, instruction 28"),
    "prefix on lidt": (
        ("B12_load_guest_idt:\tlidt", "B12_load_guest_idt:\t.byte 0x66\n\tlidt"),
        "has a prefix",
    ),
    "sign-extended vector": (
        ("pushl\t$\\vector\n", ".byte 0x6A, \\vector\n"),
        "stub 128",
    ),
    "six error codes": (("8, 10, 11, 12, 13, 14, 17", "8, 10, 11, 12, 13, 14"), "stub 17"),
    "eight error codes": (("12, 13, 14, 17\n", "12, 13, 14, 17, 21\n"), "stub 21"),
    "absolute jump": (("jmp\t\\exit", "mov\t$\\exit, %eax\n\tjmp\t*%eax"), "relative jump"),
    "128 delivered": (("|| (\\vector == SYSCALL_VECTOR)", ""), "end of 128"),
    "127 returned": (("(\\vector < 32) ||", "(\\vector < 32) || (\\vector == 127) ||"), "end of 127"),
    "NMI returned": (("EXIT_NMI handle_nmi", "EXIT_NMI return_to_host"), "exit of 2"),
    "home without gdt": (("lgdt\tS8_host_gdt_desc(%eax)", ""), "exit of 0"),
    "ds not restored": (("B70_pop_ds_\\name:\tpop\t%ds\n", ""), "exit of 0"),
}


def test_seed_is_the_order_of_2007() -> None:
    assert reference.compare(load("seed")) == []


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_comparison_catches(mutant: str, tmp_path: Path) -> None:
    change, complaint = MUTANTS[mutant]
    found = reference.compare(load(str(variant("seed", tmp_path, change)), "2.6.23", 8))
    assert any(complaint in line for line in found), found


def test_unchanged_source_gives_the_shipped_text(tmp_path: Path) -> None:
    built = load(str(variant("seed", tmp_path)))
    assert built.text == load("seed").text
    assert built.default_idt_entries == load("seed").default_idt_entries
    assert built.layout == load("seed").layout


def decoded(blob: Blob, vector: int, low: int, high: int) -> int:
    """Work out by hand where B72 to B78 jump, for a Host gate of these two dwords."""
    path = walk(blob, blob.default_idt_entries[vector])
    pair, idt = 0x1000, 0x20000
    memory = {pair + reference.HOST_IDT + 2: idt, idt + 8 * vector: low, idt + 8 * vector + 4: high}
    registers = {"eax": pair, "ebx": vector, "edx": 0x80}

    def address(operand: str) -> int:
        total = 0
        for term in operand[operand.index("[") + 1 : -1].split(" + "):
            name, _, scale = term.partition("*")
            total += (registers[name] if name in registers else int(name, 0)) * int(scale or 1)
        return total

    def read(operand: str) -> int:
        if "ptr" in operand:
            return memory[address(operand)] & (0xFFFF if operand.startswith("word") else 0xFFFFFFFF)
        return registers[operand]

    for step in path[-reference.DECODE_LENGTH : -1]:
        target, source = step.words.split(" ", 1)[1].split(", ", 1)
        match step.mnemonic:
            case "mov" | "movzx":
                registers[target] = read(source)
            case "lea":
                registers[target] = address(source)
            case "or":
                registers[target] |= read(source)
            case "xor" if target == source and len(target) == 2:
                registers["e" + target] &= 0xFFFF0000
            case _:
                raise AssertionError(f"what does {step.words} do?")
    return registers[path[-1].words.removeprefix("jmp ")]


def test_delivery_joins_both_halves_of_the_host_gate() -> None:
    for vector in reference.DELIVERED:
        low, high = 0x0060_0000 | (0x8123 + vector), 0xABCD_8E00
        assert decoded(load("seed"), vector, low, high) == 0xABCD_8123 + vector
