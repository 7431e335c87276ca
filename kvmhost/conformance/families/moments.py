"""What else than an NMI can happen between two instructions of a Switcher.

To stop a vCPU, look at it, set back what was read, or carry it into another VM is nothing that the program
inside may notice: the end must be that of the undisturbed run, at every boundary.  An interrupt that is
pending from some boundary of the entry on is held, because IF is clear, until the IRET into the Guest has set
it, and then comes before the Guest's first instruction (Intel SDM vol. 3, "Masking Maskable Hardware
Interrupts").
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..reference import Reference
from ..row import CaseSpec, Row
from ..switcher_image import SwitcherImage
from . import spec
from .boundaries import DELIVER, GPRS, INTERRUPT, TRAP, Spec, Way, entering, passed

DATA = {"esp": "G_STACK+4096", "ss": "GDS", "ds": "GDS", "es": "GDS"}


def snapshot(row: Row, layer: str, switcher: SwitcherImage, _: Reference | None = None) -> Iterator[Spec]:
    """Saved, restored into a new VM and continued, at each boundary of a trip and in the Guest."""
    yield from _everywhere(row, layer, switcher, "snapshot", "snapshot")


def identity(row: Row, layer: str, switcher: SwitcherImage, _: Reference | None = None) -> Iterator[Spec]:
    """Special registers read, set back and read again, at each boundary of a trip and in the Guest."""
    yield from _everywhere(row, layer, switcher, "inspect", "hidden-state")


def _everywhere(
    row: Row, layer: str, switcher: SwitcherImage, kind: str, requires: str
) -> Iterator[tuple[CaseSpec, SwitcherImage]]:
    for way in (TRAP, DELIVER):
        for label, at in passed(switcher, way):
            if way is DELIVER and entering(switcher, at):
                continue
            yield _case(row, layer, way, label, f"SW.{label}", kind, requires), switcher
    yield _case(row, layer, TRAP, "B31, the Guest's first instruction", "G_CODE", kind, requires), switcher


def _case(row: Row, layer: str, way: Way, label: str, at: str, kind: str, requires: str) -> CaseSpec:
    return spec(
        row,
        f"{label} {way.name}",
        "trip",
        layers=(layer,),
        requires=(requires,),
        code=(way.code(),),
        idt=way.gates(),
        event={"kind": kind, "at": at},
        expect=way.end(),
    )


def pending(row: Row, layer: str, switcher: SwitcherImage, _: Reference | None = None) -> Iterator[Spec]:
    """An interrupt that is pending from each boundary of the entry on."""
    entry = [(label, at) for label, at in passed(switcher, TRAP) if entering(switcher, at)]
    for name, at in (("B00, the Host's PUSHF", "HOST_CODE"), *((n, f"SW.{n}") for n, _ in entry)):
        yield _pending(row, layer, f"from {name}", at), switcher


def window(row: Row, layer: str, switcher: SwitcherImage, _: Reference | None = None) -> Iterator[Spec]:
    """A window that is asked for while IF is clear opens behind the IRET into the Guest, and not before."""
    yield _pending(row, layer, "asked for at B00", "HOST_CODE"), switcher


def _pending(row: Row, layer: str, name: str, at: str) -> CaseSpec:
    frame: dict[str, Any] = {"trapnum": INTERRUPT, "errcode": 0, "eip": "G_CODE", "cs": "GCS", **GPRS, **DATA}
    return spec(
        row,
        name,
        "trip",
        layers=(layer,),
        requires=("intr-injection",),
        code=(TRAP.code(),),
        event={"kind": "intr", "at": at, "vector": INTERRUPT},
        expect={**DELIVER.end(), "frame": frame},
    )
