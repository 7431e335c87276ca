"""Disassemble a Switcher along the paths a CPU takes, in words that can be compared with a list.

A listing in address order says where instructions lie; a path says what happens.
Unconditional relative jumps are followed, conditional ones as the caller says,
and a path ends where the text no longer decides what comes next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import capstone

from kvmhost.switcher import Blob

_ENGINE = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32)
ENDS = ("iretd", "iret", "out")


@dataclass(frozen=True)
class Step:
    """One instruction of a path: its offset in the text, its bytes, and its words."""

    offset: int
    code: bytes
    words: str
    labels: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.words} at {self.offset:#x}"

    @property
    def mnemonic(self) -> str:
        return self.words.split()[0]


def decode(blob: Blob, offset: int, base: int = 0) -> Step:
    """The instruction at an offset of the text, disassembled as if the text lay at base."""
    code, words = _instruction(blob.text[offset : offset + 16], base + offset)
    return Step(offset, code, words, tuple(name for name, at in blob.symbols.items() if at == offset))


@cache
def _instruction(code: bytes, address: int) -> tuple[bytes, str]:
    found = next(_ENGINE.disasm(code, address, 1), None)
    if found is None:
        raise AssertionError(f"no instruction at {address:#x}: {code.hex()}")
    return bytes(found.bytes), f"{found.mnemonic} {found.op_str}".strip()


def walk(blob: Blob, offset: int, taken: Sequence[bool] = ()) -> list[Step]:
    """The path from an offset; taken says of each conditional jump, in order, whether it jumps."""
    return list(_steps(blob, offset, list(taken)))


def _steps(blob: Blob, offset: int, taken: list[bool]) -> Iterator[Step]:
    for _ in range(200):
        step = decode(blob, offset)
        yield step
        target = relative_target(step)
        if step.mnemonic in ENDS or (step.mnemonic == "jmp" and target is None):
            return
        jumps = target is not None and (step.mnemonic == "jmp" or taken.pop(0))
        offset = target if jumps and target is not None else offset + len(step.code)
    raise AssertionError(f"the path from {offset:#x} does not end")


def relative_target(step: Step) -> int | None:
    """Where a relative jump leads, as an offset; None for everything that is none."""
    if step.mnemonic.startswith("j") and step.words.split()[-1].startswith("0x"):
        return int(step.words.split()[-1], 16)
    return None


def words(steps: Sequence[Step]) -> list[str]:
    return [step.words for step in steps]
