"""Trips with random states (PRP-001 to PRP-004): what goes in must come back.

The states are drawn by hypothesis (states.py), from the row's seed and the run's, so that a case has the same
state on every runner and can be asked for by its name, and the smallest one that fails can be found.  Drawn
is what a Guest or a Host may have: not TF, RF, VM or another IOPL, and segments that the ring may load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..row import NOTHING, CaseSpec, Code, Row
from ..stage import ADDRESS
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
NT_DF = 0x4400
FXSAVE_BYTES = 512
TABLES = {"gdt_base": "HOST_GDT", "gdt_limit": 255, "idt_base": "HOST_IDT", "idt_limit": 2047, "tr": "TSEL"}
# What a trip may write (PRP-004): both frames' pages, the Host's stack and GDT (its TSS), and in the state
# page host_sp and the Guest's TSS.
WRITTEN = ("REGS_PAGE", "H_PAGE", "HOST_STACK", "HOST_GDT", "STATE_PAGE")

State = Mapping[str, Any]


def guest_case(row: Row, name: str, state: State, more: Mapping[str, Any] = NOTHING) -> CaseSpec:
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
        expect={"trap": trap, "tables": TABLES, "cr": {"cr3": "HOST_TOP"}, "frame": frame, **more},
    )


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


def footprint_case(row: Row, name: str, state: State) -> CaseSpec:
    """A Guest's trip of which every page is looked at, and the types of both TSS."""
    busy, available = 0x8B00, 0x8900
    types = [
        {"at": "HOST_GDT+TSEL+4", "u32": [busy], "mask": 0xFF00},
        {"at": "STATE_PAGE.guest_gdt+TSEL+4", "u32": [available], "mask": 0xFF00},
    ]
    return guest_case(row, name, state, {"changed": list(WRITTEN), "memory": types})


def fpu_case(row: Row, name: str, state: State) -> CaseSpec:
    """A Guest that loads this FPU and leaves; the Host finds it as it was."""
    image, mask = fxsave_image(state)
    save = b"\x0f\xae\x05" + ADDRESS["X0"].to_bytes(4, "little") + b"\xcd\x2f"
    load = b"\x0f\xae\x0d" + ADDRESS["G_DATA"].to_bytes(4, "little") + b"\xcd\x1f"
    return spec(
        row,
        name,
        "trip",
        code=(
            Code("G_CODE", "fxrstor [G_DATA]\nint 0x1f", load, {}),
            Code("HOST_CODE+7", "fxsave [X0]\nint 0x2f", save, {}),
        ),
        cpu={"cr4_set": ["OSFXSR"]},
        memory=({"at": "G_DATA", "hex": image.hex()}, {"at": "X0", "fill": 0xCC, "size": FXSAVE_BYTES}),
        expect={
            "trap": {"vector": 0x2F, "error": "none", "eip": "HOST_CODE+16", "cs": "HCS"},
            "tables": TABLES,
            "memory": [{"at": "X0", "hex": image.hex(), "mask": mask}],
        },
    )


def fxsave_image(state: State) -> tuple[bytes, list[int]]:
    """The image of an FPU, and which bits of it are compared: not the last instruction's addresses.

    Source: Intel SDM vol. 2, FXSAVE, "Non-64-Bit-Mode Layout of FXSAVE and FXRSTOR Memory Region".
    """
    image, mask = bytearray(FXSAVE_BYTES), bytearray(FXSAVE_BYTES)

    def put(at: int, value: int, size: int) -> None:
        image[at : at + size] = value.to_bytes(size, "little")
        mask[at : at + size] = b"\xff" * size

    for at, name, size in ((0, "fcw", 2), (2, "fsw", 2), (4, "ftw", 1), (24, "mxcsr", 4)):
        put(at, state[name], size)
    for number, (st, xmm) in enumerate(zip(state["st"], state["xmm"], strict=True)):
        put(32 + 16 * number, st, 10)
        put(160 + 16 * number, xmm, 16)
    return bytes(image), [int.from_bytes(mask[at : at + 4], "little") for at in range(0, FXSAVE_BYTES, 4)]


def guests(row: Row) -> Iterator[CaseSpec]:
    """PRP-001: registers, flags, segments and stack of a Guest survive a trip."""
    return _each(row)


def footprint(row: Row) -> Iterator[CaseSpec]:
    """PRP-004: nothing but the documented places is written; both TSS end as the Host needs them."""
    return _each(row)


def hosts(row: Row) -> Iterator[CaseSpec]:
    """PRP-002: EBP, segments, flags and stack of the Host survive a trip."""
    return _each(row)


def fpus(row: Row) -> Iterator[CaseSpec]:
    """PRP-003: x87 and SSE registers survive a trip."""
    return _each(row)


Make = Callable[[Row, str, State], CaseSpec]
#: By family: what is drawn (states.STRATEGIES), and the case that is made of it.
RANDOM: Mapping[str, tuple[str, Make]] = {
    "prp-guest": ("guests", guest_case),
    "prp-footprint": ("guests", footprint_case),
    "prp-host": ("hosts", host_case),
    "prp-fpu": ("fpus", fpu_case),
}


def _each(row: Row) -> Iterator[CaseSpec]:
    """parameters.count states from parameters.seed."""
    from .states import drawn  # late: hypothesis takes a third of a second

    kind, make = RANDOM[row.family]
    for number, state in enumerate(drawn(kind, row.parameters["seed"], row.parameters["count"])):
        yield make(row, f"state {number}", state)
