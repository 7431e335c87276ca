"""The truth table of access rights: two levels of entries, every ring, every access, with and without CR0.WP.

Intel SDM vol. 3, "Determination of Access Rights": R/W and U/S are ANDed over the levels.  A user access
(CPL 3) needs U/S = 1, and R/W = 1 to write.  A supervisor access may read and fetch what is there, and writes
where R/W = 1 or CR0.WP = 0.  "Page-Fault Exceptions": the error code has P = 1, W for a write, U for CPL 3; a
fetch is not told apart while neither NX nor SMEP is on.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from ..expand import parameters
from ..row import CaseSpec, Code, Row
from . import spec

# Linear address with a directory entry of its own: table in X0, page in X1.
PLACE = 0x00800000
ACCESSED_DIRTY = 0x61
CODE = {
    "read": ("mov eax, [0x800000]\nint 0x2f", "a100008000cd2f"),
    "write": ("mov [0x800000], eax\nint 0x2f", "a300008000cd2f"),
    "modify": ("inc dword ptr [0x800000]\nint 0x2f", "ff0500008000cd2f"),
}
# From where a jump goes to PLACE: E9 and the distance, counted from behind the jump.
CODE_PAGE = {
    0: ("HOST_CODE", 0x40D000),
    1: ("G_CODE", 0x416000),
    2: ("G_CODE", 0x416000),
    3: ("U_CODE", 0x41A000),
}
START = {0: "ring0", 1: "ring1", 2: "ring1", 3: "ring3"}
# Ring 2 has no segments on the stage: two of its own.
RING2: dict[str, Any] = {
    "gdt": (
        {"selector": "D22", "type": "code-rx", "dpl": 2},
        {"selector": "D23", "type": "data-rw", "dpl": 2},
    ),
    "cpu": {"cs": "D22|2", "ss": "D23|2", "ds": "D23|2", "es": "D23|2"},
    "tss": {},
}


def allowed(ring: int, access: str, writable: bool, user: bool, protect: bool) -> bool:
    """The manual's rule, in one place.

    >>> allowed(1, "write", writable=False, user=False, protect=True)
    False
    """
    writes = access in ("write", "modify")
    if ring == 3:
        return user and (writable or not writes)
    return writable or not writes or not protect


def error_code(ring: int, access: str) -> int:
    return 1 | 2 * (access in ("write", "modify")) | 4 * (ring == 3)


def truth_table(row: Row) -> Iterator[CaseSpec]:
    """paging x WP x ring x access x the sixteen pairs of entries."""
    for paging, protect, ring, access in parameters(row, "paging", "wp", "ring", "access"):
        for pair in product((0, 1), repeat=4):
            yield one(row, paging, protect, ring, access, pair)


def one(row: Row, paging: str, protect: int, ring: int, access: str, pair: tuple[int, ...]) -> CaseSpec:
    directory_rw, directory_us, page_rw, page_us = pair
    name = f"{paging} WP={protect} ring {ring} {access} PDE RW={directory_rw} US={directory_us}"
    directory = "HOST_TOP+2*4" if paging == "legacy" else "HOST_PD0+4*8"
    flags = ACCESSED_DIRTY | 2 * directory_rw | 4 * directory_us
    memory = (
        {"at": directory, "u32": [f"X0|{flags:#x}"]},
        {"at": "X0", "u32": [f"X1|{ACCESSED_DIRTY | 2 * page_rw | 4 * page_us:#x}"]},
        {"at": "X1", "hex": "cd2f"},
    )
    page, address = CODE_PAGE[ring]
    if access == "fetch":
        jump = (PLACE - address - 5).to_bytes(4, "little", signed=True)
        code = Code(page, f"jmp {PLACE:#x}", b"\xe9" + jump, {})
    else:
        code = Code(page, CODE[access][0], bytes.fromhex(CODE[access][1]), {})
    told: dict[str, Any] = {"paging": paging, "requires": ("pae",) if paging == "pae" else ()}
    cpu: dict[str, Any] = dict(RING2["cpu"]) if ring == 2 else {}
    if not protect:
        cpu["cr0_clear"] = ["WP"]
    good = allowed(
        ring, access, bool(directory_rw and page_rw), bool(directory_us and page_us), bool(protect)
    )
    trap: dict[str, Any] = {"vector": 0x2F, "error": "none"}
    if good:
        trap["eip"] = PLACE + 2 if access == "fetch" else f"{page}+{len(code.bytes)}"
    else:
        trap = {"vector": 14, "error": error_code(ring, access), "eip": PLACE if access == "fetch" else page}
        told["expect"] = {"trap": trap, "cr": {"cr2": PLACE}}
        if access == "modify" and error_code(ring, access) == 7 and not (directory_us and page_us):
            # An engine that reads first sees the user's read fault.
            told["deviation"] = {"TCG": {"dev": "DV-16", "expect": {"trap": {"error": 5}}}}
    told.setdefault("expect", {"trap": trap})
    return spec(
        row,
        f"{name} PTE RW={page_rw} US={page_us}",
        START[ring],
        code=(code,),
        memory=memory,
        cpu=cpu,
        gdt=RING2["gdt"] if ring == 2 else (),
        **told,
    )
