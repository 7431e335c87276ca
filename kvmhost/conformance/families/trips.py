"""Trips with random states (PRP-001, PRP-002, PRP-004): what goes in must come back.

The states are drawn from a generator with a seed of the row's, so that a case has the same state wherever it
runs and can be asked for by its name; tests/conformance draws further ones by hypothesis, which shrinks what
fails.  Drawn is what a Guest or a Host may have: not TF, RF, VM or another IOPL, and segments that the ring
may load.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from ..row import CaseSpec, Code, Row
from . import spec

GPRS = ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp")
DATA = ("ds", "es", "fs", "gs")
# CF PF AF ZF SF DF OF NT AC ID: what POPF at ring 1 can set, and the Switcher must carry.
FREE_FLAGS = 0x244CD5
ALWAYS = 0x202
# By ring: code page, CS, SS, selectors that its data segments may hold, and the vector of its way out.
RINGS: Mapping[int, tuple[str, str, str, tuple[str, ...], int]] = {
    1: ("G_CODE", "GCS", "GDS", ("0", "GDS", "UDS", "UDS-2"), 0x1F),
    3: ("U_CODE", "UCS", "UDS", ("0", "UDS"), 0x80),
}
# DS of the Host is not null: it reads the address of its far call through it.
HOST_DATA = ("HDS", "LDS", "UDS")
# The Host's stack pointer, and so many dwords above it that are none of the Switcher's business.
HOST_ESP, ABOVE = "HOST_STACK+4096-512", 64
TABLES = {"gdt_base": "HOST_GDT", "gdt_limit": 255, "idt_base": "HOST_IDT", "idt_limit": 2047, "tr": "TSEL"}
# What a trip may write (PRP-004): both frames' pages, the Host's stack and GDT (its TSS), and in the state
# page host_sp and the Guest's TSS.
WRITTEN = ("REGS_PAGE", "H_PAGE", "HOST_STACK", "HOST_GDT", "STATE_PAGE")

State = Mapping[str, Any]


def guest_state(draw: random.Random) -> dict[str, Any]:
    """A Guest's frame: every register, EFLAGS, segments and stack pointer."""
    ring = draw.choice((1, 3))
    code, cs, ss, selectors, _ = RINGS[ring]
    state: dict[str, Any] = {name: draw.getrandbits(32) for name in GPRS}
    state |= {name: draw.choice(selectors) for name in DATA}
    return state | {
        "eip": code,
        "cs": cs,
        "ss": ss,
        "esp": draw.getrandbits(32),
        "eflags": draw.getrandbits(32) & FREE_FLAGS | ALWAYS,
    }


def guest_case(row: Row, name: str, state: State, expect: Mapping[str, Any]) -> CaseSpec:
    """A Guest with this state that leaves at once; its frame must be what it was but for trap and EIP."""
    ring = 3 if state["cs"] == "UCS" else 1
    page, vector = RINGS[ring][0], RINGS[ring][4]
    frame = {**state, "trapnum": vector, "errcode": 0, "eip": f"{page}+2"}
    code = Code(page, f"int {vector:#x}", bytes((0xCD, vector)), {})
    trap = {"vector": 0x2F, "error": "none", "eip": "HOST_CODE+9", "cs": "HCS"}
    return spec(
        row,
        name,
        "trip",
        code=(code,),
        frame=dict(state),
        expect={"trap": trap, "tables": TABLES, "cr": {"cr3": "HOST_TOP"}, "frame": frame, **expect},
    )


def guests(row: Row) -> Iterator[CaseSpec]:
    """PRP-001: registers, flags, segments and stack of a Guest survive a trip."""
    for number, state in _states(row, guest_state):
        yield guest_case(row, f"state {number}", state, {})


def footprint(row: Row) -> Iterator[CaseSpec]:
    """PRP-004: nothing but the documented places is written; both TSS end as the Host needs them."""
    busy, available = 0x8B00, 0x8900
    types = [
        {"at": "HOST_GDT+TSEL+4", "u32": [busy], "mask": 0xFF00},
        {"at": "STATE_PAGE.guest_gdt+TSEL+4", "u32": [available], "mask": 0xFF00},
    ]
    for number, state in _states(row, guest_state):
        yield guest_case(row, f"state {number}", state, {"changed": list(WRITTEN), "memory": types})


def host_state(draw: random.Random) -> dict[str, Any]:
    """What the Host keeps over a trip: EBP, its data segments, EFLAGS, and 64 dwords above its frame."""
    return {
        "ebp": draw.getrandbits(32),
        **{name: draw.choice(HOST_DATA if name == "ds" else ("0", *HOST_DATA)) for name in DATA},
        "eflags": draw.getrandbits(32) & FREE_FLAGS & ~0x4400 | 2,
        "above": [draw.getrandbits(32) for _ in range(ABOVE)],
    }


def host_case(row: Row, name: str, state: State) -> CaseSpec:
    """A Host with this state that makes a trip and then ends in its collector."""
    memory = {"at": HOST_ESP, "u32": list(state["above"])}
    kept = {key: value for key, value in state.items() if key != "above"}
    trap = {"vector": 0x2F, "error": "none", "eip": "HOST_CODE+9", "cs": "HCS", "eflags": state["eflags"]}
    return spec(
        row,
        name,
        "trip",
        code=(Code("G_CODE", "int 0x1f", b"\xcd\x1f", {}),),
        cpu={**kept, "esp": HOST_ESP},
        memory=(memory,),
        expect={
            "trap": trap,
            "regs": {"ebp": state["ebp"], "esp": HOST_ESP},
            "segs": {name: state[name] for name in DATA},
            "tables": TABLES,
            "cr": {"cr3": "HOST_TOP"},
            "memory": [memory],
        },
    )


def hosts(row: Row) -> Iterator[CaseSpec]:
    """PRP-002: EBP, segments, flags and stack of the Host survive a trip."""
    for number, state in _states(row, host_state):
        yield host_case(row, f"state {number}", state)


def _states(row: Row, drawn: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """parameters.count states from parameters.seed; each has a generator of its own."""
    for number in range(row.parameters["count"]):
        yield number, drawn(random.Random(f"{row.parameters['seed']}/{number}"))
