"""The code of a case, disassembled: what the CPU was given, where it began and where it ended.

A case is bytes without symbols, so its listing is made from them and not from the row: what is printed after
a failure is what really ran.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING

from .case import Case
from .results import CodeLine
from .stage import ADDRESS, ARENA, ARENA_SIZE, PAGE, PAGES, SW, place_name
from .switcher_image import SwitcherImage

if TYPE_CHECKING:
    from capstone import Cs

#: How many instructions are shown from where a case begins, and on either side of where it ended.
FROM_START, AROUND = 24, 6
#: The longest instruction there is, in bytes (SDM vol. 2, "Instruction Prefixes").
LONGEST = 15
#: What no case runs beyond: INT 0x2F is the end of most.
STOP = "int 0x2f"


@cache
def engine() -> Cs:
    """A disassembler for 32-bit code; loaded late, for it is big."""
    from capstone import CS_ARCH_X86, CS_MODE_32, Cs

    return Cs(CS_ARCH_X86, CS_MODE_32)


def code_of(case: Case) -> tuple[CodeLine, ...]:
    """The first instructions of a case, up to its INT 0x2F; empty for a program."""
    if case.template is None or case.cpu is None:
        return ()
    memory = arena(case)
    return tuple(until_stop(sweep(memory, case.cpu.eip, FROM_START)))


def around(case: Case, address: int) -> tuple[CodeLine, ...]:
    """The instructions about a linear address, which itself is labelled "here"; empty outside the arena."""
    if case.template is None:
        return ()
    memory = arena(case)
    start = begin_of_page(address)
    if physical(address) is None or start is None:
        return ()
    before: list[CodeLine] = []
    for line in sweep(memory, start, PAGE):
        if line.address >= address:
            break
        before.append(line)
    here = list(sweep(memory, address, AROUND + 1))
    return (*before[-AROUND:], *(mark(line, address) for line in here))


def steps(case: Case, addresses: Iterable[int]) -> tuple[CodeLine, ...]:
    """One line for each instruction that was executed, by its linear address."""
    memory = arena(case) if case.template is not None else b""
    return tuple(line for address in addresses for line in sweep(memory, address, 1))


def instruction(image: SwitcherImage, offset: int) -> str:
    """One instruction of a Switcher as text."""
    found = next(engine().disasm_lite(image.text[offset : offset + LONGEST], SW + offset, 1), None)
    return f"{found[2]} {found[3]}".strip() if found else "(bad)"


def arena(case: Case) -> bytes:
    """The memory of a case as it starts."""
    assert case.template is not None
    memory = bytearray(case.template.image)
    for patch in case.patches:
        memory[patch.address - ARENA : patch.address - ARENA + len(patch.data)] = patch.data
    return bytes(memory)


def physical(address: int) -> int | None:
    """Where in the arena a linear address of the stage's standard tables lies."""
    if SW <= address < SW + PAGE:
        return ADDRESS["SW_TEXT"] - ARENA + address - SW
    return address - ARENA if ARENA <= address < ARENA + ARENA_SIZE else None


def begin_of_page(address: int) -> int | None:
    """Where to begin to disassemble, for an instruction is only known from the one before it."""
    return None if physical(address) is None else address & -PAGE


def sweep(memory: bytes, address: int, count: int) -> Iterator[CodeLine]:
    """So many instructions from a linear address on; it ends where nothing can be decoded."""
    place = physical(address)
    if place is None:
        yield CodeLine(address, "", "(outside the stage)")
        return
    end = (place | (PAGE - 1)) + 1
    piece = memory[place : min(end, place + LONGEST * count)]
    for found, size, name, operands in engine().disasm_lite(piece, address, count):
        start = physical(found)
        assert start is not None
        yield CodeLine(found, memory[start : start + size].hex(), f"{name} {operands}".strip(), label(found))


def until_stop(lines: Iterable[CodeLine]) -> Iterator[CodeLine]:
    """The lines up to the one that ends a case."""
    for line in lines:
        yield line
        if line.text == STOP:
            return


def label(address: int) -> str:
    """The name of a place, only where a page begins: the rest is counted from there by the eye."""
    if address == SW:
        return "SW"
    name = place_name(address)
    return name if name in PAGES else ""


def mark(line: CodeLine, address: int) -> CodeLine:
    """The line with a mark if it is this one."""
    if line.address != address:
        return line
    return CodeLine(line.address, line.code, line.text, "here")
