"""Every vector through its stub: which exit it takes, and what the Host then reads (SW-STB-001, 002, 006).

An INT n through a gate that lets it takes the same way as the exception or the interrupt of that vector.
The exits are those of section 3.5 of lguest's facts: 0, 1, 3 to 31 and 128 go home with the number, 2 is the
NMI's, all others end in the Host's own handler.  Vectors whose stub believes that the CPU pushed an error
code are left to SW-STB-003 and 004: INT n pushes none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import RowError
from ..reference import Reference
from ..row import CaseSpec, Code, Row
from ..switcher_image import SwitcherImage
from . import spec

CODED = {"seed": (8, 10, 11, 12, 13, 14, 17), "hardened": (8, 10, 11, 12, 13, 14, 17, 21, 29, 30)}
HOME = (*range(2), *range(3, 32), 128)
NMI, HYPERCALL = 2, 0x1F
STARTS: dict[str, dict[str, Any]] = {
    "ring 1": {"eip": "G_CODE", "cs": "GCS", "ss": "GDS", "esp": "G_STACK+4096"},
    "ring 3": {
        "eip": "U_CODE",
        "cs": "UCS",
        "ss": "UDS",
        "esp": "U_STACK+4096",
        "ds": "UDS",
        "es": "UDS",
    },
}


def every_vector(
    row: Row, layer: str, switcher: SwitcherImage, reference: Reference | None = None
) -> Iterator[tuple[CaseSpec, SwitcherImage]]:
    """All 256, from each ring that the row's parameter `from` names; `vectors` may name fewer."""
    rings = row.parameters.get("from")
    if not isinstance(rings, list) or not set(rings) <= set(STARTS):
        raise RowError(str(row.path), "parameters.from", repr(rings), f"a list of {', '.join(STARTS)}")
    coded = CODED["hardened" if layer.endswith("hardened") else "seed"]
    for ring in rings:
        for vector in row.parameters.get("vectors", range(256)):
            if vector not in coded:
                yield _one(row, layer, ring, vector), switcher


def _one(row: Row, layer: str, ring: str, vector: int) -> CaseSpec:
    start = STARTS[ring]
    then = f"\nint {HYPERCALL:#x}" if vector == NMI else ""
    code = bytes([0xCD, vector]) + (bytes([0xCD, HYPERCALL]) if then else b"")
    gates = [_gate(vector)] + ([_gate(HYPERCALL)] if then else [])
    return spec(
        row,
        f"vector {vector:#04x} from {ring}",
        "trip",
        layers=(layer,),
        code=(Code(start["eip"], f"int {vector:#x}{then}", code, {}),),
        frame=start,
        idt=tuple(gates),
        expect=_expect(layer, start, vector),
    )


def _gate(vector: int) -> dict[str, Any]:
    return {"vector": vector, "table": "guest", "dpl": 3}


def _expect(layer: str, start: dict[str, Any], vector: int) -> dict[str, Any]:
    # The product's hardened Switcher takes the Guest's NMI to the Host's vector 2; the others drop it.
    seen = HYPERCALL if vector == NMI and layer != "L3-hardened" else vector
    at = f"{start['eip']}+{4 if seen != vector else 2}"
    frame = {"trapnum": seen, "errcode": 0, "eip": at, "cs": start["cs"], "ss": start["ss"], "eflags": 0x202}
    home = {"vector": 0x2F, "error": "none", "eip": "HOST_CODE+9", "cs": "HCS", "eflags": 2}
    handler = {"vector": seen, "error": "none", "eip": "HOST_CODE+7", "cs": "HCS", "eflags": 2}
    return {
        "trap": home if seen in HOME else handler,
        "frame": frame,
        # A way with a push too few, or two too many, may bring the number home, but shifts all else.
        "frame_kept": True,
        "regs": {"esp": "HOST_STACK+4096"},
    }
