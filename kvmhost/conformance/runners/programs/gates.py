"""Gates that a Guest asks for, and the IDT that the CPU then has (SEC-026, SEC-027, SEC-028).

The Guest asks by LOAD_IDT_ENTRY, round by round, and after each copies its live table, which it may read.  A
gate that is not as it was before anything was asked is one of the Guest's own.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kvmhost.host.traps import Trap
from kvmhost.kvm import CpuidEntry, Kvm

from .script import NUMBERS, Script, ended, entries, machine_of, numbers, spans

VECTORS = range(256)
PRESENT = 0x8000
INTERRUPT, TRAP = 14, 15
TARGET = 0x00101234
# Selectors and targets that a Guest has no business with: the Host's and the Switcher's code, a TSS, no
# segment at all; inside the Switcher's text, its very end, the last byte below it.
HOSTILE = ((0x60, TARGET), (0x50, 0xFFC00010), (0x80, 0xFFFFFFFF), (0x08, 0xFFBFFFFF))


@dataclass(frozen=True, slots=True)
class Gate:
    """One entry of an IDT, taken apart here and not by the product's own hands."""

    offset: int
    selector: int
    kind: int
    dpl: int

    @classmethod
    def of(cls, low: int, high: int) -> Gate:
        return cls(high & 0xFFFF0000 | low & 0xFFFF, low >> 16, high >> 8 & 0x1F, high >> 13 & 3)


def ask(script: Script, vectors: Iterable[int], kind: int, dpl: int, selector: int, target: int) -> None:
    """LOAD_IDT_ENTRY of one gate for many vectors, through the ring."""
    low = selector << 16 | target & 0xFFFF
    high = target & 0xFFFF0000 | PRESENT | dpl << 13 | kind << 8
    script.queue((NUMBERS["LOAD_IDT_ENTRY"], vector, low, high) for vector in vectors)


def table(raw: bytes) -> list[Gate]:
    return [Gate.of(*entry) for entry in entries(raw)]


def by_dpl(gates: list[Gate], vectors: Iterable[int]) -> str:
    """Which of some vectors have which DPL.

    >>> by_dpl([Gate(0, 0, 14, 0), Gate(0, 0, 14, 3), Gate(0, 0, 14, 3)], [0, 2])
    '0: 0, 3: 2'
    """
    found: dict[int, list[int]] = defaultdict(list)
    for vector in vectors:
        found[gates[vector].dpl].append(vector)
    return ", ".join(f"{dpl}: {spans(found[dpl])}" for dpl in sorted(found))


def sec_026(kvm: Kvm, cpuid: tuple[CpuidEntry, ...], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The DPL of the live gates: before anything is asked, and after each round for all 256 vectors."""
    script = Script()
    copies = {"nothing-asked": script.keep_idt()}
    for name, kind, dpl in (
        ("interrupt-gates-3", INTERRUPT, 3),
        ("trap-gates-1", TRAP, 1),
        ("trap-gates-3", TRAP, 3),
    ):
        ask(script, VECTORS, kind, dpl, 0x61, TARGET)
        copies[name] = script.keep_idt()
    script.end()
    with machine_of(kvm, parameters) as machine:
        guest = script.guest(machine)
        end = ended(guest)
        wanted = numbers(parameters["vectors"])
        found = {name: by_dpl(table(guest.ram.read(at, 2048)), wanted) for name, at in copies.items()}
    return {"guest": end, **found}


def sec_027(kvm: Kvm, cpuid: tuple[CpuidEntry, ...], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Where the gates lead that are the Guest's own, whatever selectors and targets it asked for."""
    script = Script()
    before, descriptors = script.keep_idt(), script.keep_gdt()
    copies = []
    for number, (selector, target) in enumerate(HOSTILE):
        ask(script, VECTORS if number == 0 else (*range(32), 128), TRAP, 3, selector, target)
        copies.append(script.keep_idt())
    script.end()
    with machine_of(kvm, parameters) as machine:
        guest = script.guest(machine)
        end = ended(guest)
        default = table(guest.ram.read(before, 2048))
        tables = [table(guest.ram.read(copy, 2048)) for copy in copies]
        segments = entries(guest.ram.read(descriptors, 256))
    own = [
        (vector, gate)
        for found in tables
        for vector, gate in enumerate(found)
        if (gate.offset, gate.selector) != (default[vector].offset, default[vector].selector)
    ]
    selectors = sorted({gate.selector for _, gate in own})
    return {
        "guest": end,
        "own-gates": spans(vector for vector, _ in own),
        "selectors": " ".join(f"{selector:#x}" for selector in selectors),
        "rings": spans(segments[selector >> 3][1] >> 13 & 3 for selector in selectors),
        "types": spans(gate.kind for _, gate in own),
        "highest-target": f"{max((gate.offset for _, gate in own), default=0):#x}",
    }


MARK = 0x3000
HANDLER = 0x4000
# mov dword [MARK], 1; iret
HANDLE = b"\xc7\x05" + struct.pack("<II", MARK, 1) + b"\xcf"


def sec_028(kvm: Kvm, cpuid: tuple[CpuidEntry, ...], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Trap gates of DPL 1 for vectors that are never a Guest's: are they taken, and what does INT 18 do?"""
    script = Script()
    before = script.keep_idt()
    vectors = numbers(parameters["vectors"])
    ask(script, vectors, TRAP, 1, 0x61, HANDLER)
    after = script.keep_idt()
    script.data.append((HANDLER, HANDLE))
    script.raw(b"\xcd\x12")
    script.end()
    with machine_of(kvm, parameters) as machine:
        guest = script.guest(machine)
        seen = []

        @guest.on(Trap.GENERAL_PROTECTION)
        def refused(trap: Any) -> None:
            seen.append(trap.error_code)
            trap.regs.eip += 2

        end = ended(guest)
        default, found = (table(guest.ram.read(at, 2048)) for at in (before, after))
        handled = guest.ram.read(MARK, 4) != bytes(4)
    went = "to the Guest" if handled else " ".join(f"#GP {code:#x}" for code in seen) or "nowhere"
    return {
        "guest": end,
        "taken": spans(vector for vector in vectors if found[vector] != default[vector]),
        "int-18": went,
    }
