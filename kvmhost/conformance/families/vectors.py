"""All 256 vectors, from ring 1 and ring 3, through gates of every DPL, kind and defect.

The rules (Intel SDM vol. 3, "Protection of Exception- and Interrupt-Handler Procedures", "Error Code"; AMD
APM vol. 2, "Privilege Checks"), in their order for INT n:

1. the gate's type must be an interrupt, trap or task gate, or it is #GP(n * 8 + 2);
2. for INT n the gate's DPL must not be below CPL, or it is #GP(n * 8 + 2);
3. the gate must be present, or it is #NP(n * 8 + 2).

EXT (bit 0) is clear for INT n and set for an event from outside.  INT n pushes no error code, whatever the
vector, and its EIP is the next instruction; a fault's EIP is the INT itself.  A fault that needs the very
gate that is defective becomes a second contributory exception: #DF with error code 0 ("Interrupt 8—Double
Fault Exception").
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..expand import parameters
from ..row import CaseSpec, Code, Row
from . import spec

RINGS = {
    1: ("ring1", "G_CODE", "GCS", "GDS", "G_STACK+4096"),
    3: ("ring3", "U_CODE", "UCS", "UDS", "U_STACK+4096"),
}
# All types that an IDT must refuse: S = 0 types that are no gates, call gates, and some with S = 1.
BAD_TYPES = (0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 0x12, 0x1A, 0x1F)
GENERAL_PROTECTION, NOT_PRESENT, DOUBLE_FAULT = 13, 11, 8
FLAGS, FAULT_FLAGS = 0x202, 0x10202


def fault_of(vector: int, ring: int, dpl: int, kind: str, external: bool = False) -> tuple[int, int] | None:
    """(vector, error code) of the exception that an interrupt meets at its gate, or None: it is delivered.

    >>> fault_of(0x80, 1, 0, "interrupt32")
    (13, 1026)
    >>> fault_of(13, 3, 3, "not present")
    (11, 106)
    """
    error = vector * 8 + 2 + external
    if kind == "bad type" or (not external and dpl < ring):
        found = GENERAL_PROTECTION
    elif kind == "not present":
        found = NOT_PRESENT
    else:
        return None
    # The exception is delivered through a gate of its own, which may be the defective one.
    if found == vector and kind in ("bad type", "not present"):
        return DOUBLE_FAULT, 0
    return found, error


def gate_of(vector: int, dpl: int, kind: str) -> dict[str, Any]:
    gate: dict[str, Any] = {"vector": vector, "dpl": dpl, "type": "interrupt32"}
    if kind == "not present":
        gate["p"] = 0
    elif kind == "bad type":
        # A type with S = 1 replaces the DPL's neighbours too; all five bits are the gate's.
        gate["type"] = BAD_TYPES[vector % len(BAD_TYPES)]
    else:
        gate["type"] = kind
    return gate


def software(row: Row) -> Iterator[CaseSpec]:
    """INT n: parameters ring, dpl, gate; only the combinations that end as parameters.outcome says."""
    for ring, dpl, kind in parameters(row, "ring", "dpl", "gate"):
        for vector in range(256):
            found = fault_of(vector, ring, dpl, kind)
            if row.parameters["outcome"] == _outcome(ring, dpl, kind):
                yield _int(row, vector, ring, dpl, kind, found)


def _outcome(ring: int, dpl: int, kind: str) -> str:
    """Which rule decides, in the order in which rows of the catalogue name them."""
    if kind == "bad type":
        return "bad type"
    if dpl < ring:
        return "privilege"
    return "not present" if kind == "not present" else "delivered"


def _int(row: Row, vector: int, ring: int, dpl: int, kind: str, found: tuple[int, int] | None) -> CaseSpec:
    start, page, cs, ss, esp = RINGS[ring]
    if found is None:
        trap: dict[str, Any] = {"vector": vector, "error": "none", "eip": f"{page}+2", "eflags": FLAGS}
    else:
        trap = {"vector": found[0], "error": found[1], "eip": page, "eflags": FAULT_FLAGS}
    trap |= {"cs": cs, "ss": ss, "esp": esp}
    if found and found[0] == DOUBLE_FAULT:
        # An abort: where it was is undefined.
        trap = {"vector": DOUBLE_FAULT, "error": 0, "ss": ss, "esp": esp}
    return spec(
        row,
        f"int {vector:#x} ring {ring} DPL {dpl} {kind}",
        start,
        code=(
            Code(
                page,
                f".byte 0xcd, {vector:#x}  # int {vector:#x}\nint 0x2f",
                bytes((0xCD, vector, 0xCD, 0x2F)),
                {},
            ),
        ),
        idt=(gate_of(vector, dpl, kind),),
        expect={"trap": trap, "kept": True, "changed": []},
    )


def external(row: Row) -> Iterator[CaseSpec]:
    """An interrupt from outside at the second instruction: parameters ring, gate, first, last (vectors)."""
    for ring, kind in parameters(row, "ring", "gate"):
        for vector in range(row.parameters["first"], row.parameters["last"] + 1):
            start, page, cs, ss, esp = RINGS[ring]
            found = fault_of(vector, ring, 0, kind, external=True)
            trap: dict[str, Any] = {"cs": cs, "ss": ss, "esp": esp, "eip": f"{page}+1"}
            trap |= {"vector": vector, "error": "none"}
            deviation: dict[str, Any] = {}
            if found is not None:
                trap |= {"vector": found[0], "error": found[1]}
                deviation["TCG"] = {"dev": "DV-24", "expect": {"trap": {"error": found[1] & ~1}}}
            yield spec(
                row,
                f"interrupt {vector:#x} ring {ring} {kind}",
                start,
                code=(Code(page, "nop\nnop\nint 0x2f", b"\x90\x90\xcd\x2f", {}),),
                idt=(gate_of(vector, 0, kind),),
                event={"kind": "intr", "at": f"{page}+1", "vector": vector},
                requires=("intr-injection",),
                deviation=deviation,
                expect={"trap": trap, "kept": True},
            )
