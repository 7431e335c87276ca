"""Sweeps over addresses: what ring 1 may touch of the Switcher's corner, and that nothing else is there.

The rule is one (Intel SDM vol. 3, "Determination of Access Rights" and "Page-Fault Exceptions"): ring 1
counts as supervisor, so a present page can be read, a page with R/W = 0 cannot be written while CR0.WP = 1
(error code 3), and a page that is not present faults with 0 for a read and 2 for a write.  CR2 is the
address itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..expand import parameters
from ..row import CaseSpec, Code, Row, Table
from . import spec

PAGE = 4096
# mov eax, [moffs32] and mov [moffs32], eax: one byte and the address.
OPCODES = {"read": 0xA1, "write": 0xA3}
# A hypercall: the Guest's own way back to its Host.
LEAVE = bytes([0xCD, 0x1F])
SW = 0xFFC00000
# What a Guest's tables hold beside the Switcher's three pages (stage.py), by the names of the arena.
GUEST_PAGES = ("G_CODE", "G_DATA", "G_STACK", "G_STACK1", "U_CODE", "U_DATA", "U_STACK")
# The Host's own: none of these may be there for a Guest.
HOST_PAGES = (
    *("HOST_TOP", "HOST_PD0", "HOST_PD3", "HOST_PT", "HOST_SWPT"),
    *("GUEST_TOP", "GUEST_PD0", "GUEST_PD3", "GUEST_PT", "GUEST_SWPT"),
    *("HOST_GDT", "HOST_IDT", "HOST_STACK", "HOST_CODE", "COLLECT", "COLLECT2", "SAVE"),
    *("SW_TEXT", "SW_TEXT2", "H_PAGE", "REGS_PAGE", "STATE_PAGE", "HANDLERS"),
    *(f"X{number}" for number in range(10)),
)
# Where the arena's pages lie, in order from 4 MiB: the addresses must be in the code's bytes.
ARENA = 0x00400000
ORDER = (*HOST_PAGES[:22], *GUEST_PAGES, *HOST_PAGES[22:])


def access(opcode: int, address: int) -> Code:
    data = bytes([opcode]) + address.to_bytes(4, "little") + LEAVE
    kind = "eax, [{}]" if opcode == OPCODES["read"] else "[{}], eax"
    return Code("G_CODE", f"mov {kind.format(hex(address))}\nint 0x1f", data, {})


def trip(row: Row, name: str, code: Code, vector: int, error: int, address: int) -> CaseSpec:
    """A Guest at ring 1 that runs one access and, if that does not fault, makes a hypercall."""
    frame: dict[str, Any] = {"trapnum": vector, "errcode": error, "cs": "GCS", "ss": "GDS"}
    expect: dict[str, Any] = {
        "trap": {"vector": 0x2F, "error": "none", "cs": "HCS"},
        "frame": {**frame, "eip": "G_CODE" if vector == 14 else "G_CODE+7"},
    }
    if vector == 14:
        expect["cr"] = {"cr2": address}
    return spec(row, name, "trip", code=(code,), expect=expect)


def state_page(row: Row) -> Iterator[CaseSpec]:
    """Every dword of the state page, written from ring 1: alone (L1), and in a Guest (L2, L3)."""
    for (paging,) in parameters(row, "paging"):
        requires = ("pae",) if paging == "pae" else ()
        for offset in range(0, PAGE, 4):
            address = SW + 2 * PAGE + offset
            code = access(OPCODES["write"], address)
            alone: Table = {
                "trap": {"vector": 14, "error": 3, "eip": "G_CODE", "cs": "GCS", "ss": "GDS"},
                "cr": {"cr2": address},
                "changed": [],
            }
            yield spec(
                row,
                f"STATE+{offset:#x} {paging}",
                "ring1",
                code=(code,),
                pages=({"linear": "STATE", "rw": 0},),
                paging=paging,
                requires=requires,
                layers=("L1",),
                expect=alone,
            )
            if paging == "legacy":
                layers = tuple(layer for layer in row.layers if layer != "L1")
                guest = trip(row, f"STATE+{offset:#x} in a Guest", code, 14, 3, address)
                yield spec(row, guest.name, "trip", code=guest.code, layers=layers, expect=guest.expect)


def switcher_corner(row: Row) -> Iterator[CaseSpec]:
    """One address in each page from the Switcher's base to the end: only text, regs and state are there."""
    for (how,) in parameters(row, "access"):
        for page in range((1 << 32) - SW >> 12):
            address = SW + page * PAGE + 0x40
            code = access(OPCODES[how], address)
            write = how == "write"
            if page > 2:
                yield trip(row, f"{how} page {page}", code, 14, 2 * write, address)
            elif write and page != 1:
                yield trip(row, f"{how} page {page}", code, 14, 3, address)
            else:
                yield trip(row, f"{how} page {page}", code, 0x1F, 0, address)


def host_memory(row: Row) -> Iterator[CaseSpec]:
    """One address in each page of the arena: the Guest's own are there, the Host's are not."""
    for (how,) in parameters(row, "access"):
        for place, name in enumerate(ORDER):
            address = ARENA + place * PAGE + 0x40
            code = access(OPCODES[how], address)
            if name in GUEST_PAGES:
                yield trip(row, f"{how} {name}", code, 0x1F, 0, address)
            else:
                yield trip(row, f"{how} {name}", code, 14, 2 * (how == "write"), address)
