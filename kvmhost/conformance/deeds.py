"""What each instruction of a Switcher does, told from its bytes: the names that rows have for places.

The Switchers that ship label every instruction; an object that a kernel tree built names four places only.
So the four ways through it are walked from there, one instruction after the other, and what an instruction
does to the machine gives it the name that rows use: `pop_gs`, `load_guest_idt`.  What any program might do,
such as copying a register, has a number and no name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .listing import engine
from .stage import SW

#: Where a way begins, the letter of its labels, and what its names end in where two ways do the same.
WAYS = (
    ("switch_to_guest", "E", ""),
    ("return_to_host", "R", "_return"),
    ("deliver_to_host", "D", "_deliver"),
    ("handle_nmi", "N", ""),
)
ENTER, RETURN, DELIVER, NMI = "E", "R", "D", "N"
#: The byte that clears the busy bit of a TSS descriptor's type, whatever the others are (SDM vol. 3, "TSS
#: Descriptor").
NOT_BUSY = 0xFD
#: What ends a way, and needs no ending to be told from the other ones' ends.
_LAST = {ENTER: "enter_guest", RETURN: "return", DELIVER: "jump", NMI: "resume"}


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction: its offset in the text, its length, and the disassembler's words."""

    at: int
    size: int
    name: str
    operands: str


def boundaries(text: bytes, symbols: Mapping[str, int]) -> dict[str, int]:
    """A label for every instruction that a trip passes in this text, which is linked for SW.

    >>> text = bytes.fromhex("0f22db 0fa9 cf")
    >>> boundaries(text, {"switch_to_guest": 0})
    {'E00_load_guest_cr3': 0, 'E01_pop_gs': 3, 'E02_enter_guest': 5}
    """
    found: dict[str, int] = {}
    taken: set[int] = set()
    for start, letter, ending in WAYS:
        if start not in symbols:
            continue
        said: set[str] = set()
        for number, step in enumerate(walk(text, symbols[start], taken)):
            taken.add(step.at)
            deed = _deed(step, letter)
            # The first to do something has the name; a second one is told by its number.
            name = f"_{deed}{'' if deed == _LAST[letter] else ending}" if deed and deed not in said else ""
            said.add(deed)
            found[f"{letter}{number:02}{name}"] = step.at
    return found


def walk(text: bytes, start: int, taken: set[int]) -> Iterator[Step]:
    """The instructions from an offset on as a CPU would take them, none that is taken already.

    It goes along with jumps, those by a register that was just loaded with an address too, and ends at an
    IRET, at a jump that nobody can foretell, and where the text does.
    """
    at, loaded, been = start, {}, set(taken)
    while 0 <= at < len(text) and at not in been:
        been.add(at)
        step = _decode(text, at)
        if step is None:
            return
        yield step
        target, rest = _parts(step.operands)
        if step.name == "mov" and rest.startswith("0x"):
            loaded[target] = int(rest, 16) - SW
        if step.name in ("iretd", "iret", "ret", "retf"):
            return
        at += step.size
        if step.name == "jmp":
            at = int(target, 16) - SW if target.startswith("0x") else loaded.get(target, -1)


def _decode(text: bytes, at: int) -> Step | None:
    for _, size, name, operands in engine().disasm_lite(text[at:], SW + at, 1):
        return Step(at, size, name, operands)
    return None


def _parts(operands: str) -> tuple[str, str]:
    target, _, rest = operands.partition(", ")
    return target, rest


def _deed(step: Step, way: str) -> str:
    """The name of what an instruction does, or ""."""
    target, source = _parts(step.operands)
    entering = way == ENTER
    if step.name in ("iretd", "iret") or (step.name == "jmp" and way == DELIVER):
        return _LAST[way]
    if way == NMI:
        return "drop_words" if target == "esp" and step.name in ("add", "lea") else ""
    if step.name in ("push", "pop"):
        return f"{step.name}_{target}" if target.isalpha() else ""
    if step.name in ("lgdt", "lidt"):
        return f"load_{'guest' if entering else 'host'}_{step.name[1:]}"
    if step.name == "ltr":
        return f"load_{'guest' if entering else 'host'}_tr"
    if step.name == "and" and target.startswith("byte ptr") and source == f"{NOT_BUSY:#x}":
        return f"{'host' if entering else 'guest'}_tss_idle"
    if step.name == "mov" and target == "cr3":
        return f"load_{'guest' if entering else 'host'}_cr3"
    if step.name == "mov" and target == "ds":
        return "load_ds"
    if step.name == "mov" and source == "esp":
        return "copy_esp" if target.isalpha() else "store_host_sp"
    if target != "esp":
        return ""
    if step.name == "add" or source.startswith("[esp"):
        return "skip_trapnum"
    return "move_stack" if entering else "host_stack"
