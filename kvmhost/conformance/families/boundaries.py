"""An NMI at each instruction of a Switcher (NMI-001, NMI-002), and the hazard map of section 1.19.

What must come out follows from which tables are live.  While the Host's IDT is, its own handler of vector 2
runs (the collector, which ends the case).  Between an LGDT that came first and its LIDT, the Host's gate
names a selector of the Guest's GDT: nothing survives that, and it is the seed's one fatal boundary.
Everywhere else the NMI is taken by the Guest's stub 2 and leaves no trace, so the end is that of the
undisturbed run.

Each boundary is played twice: by a real NMI where the engine has them, and by INT 2 in front of the
instruction in a copy of the reference Switcher, which any engine can.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..reference import Reference, image_of, link, load
from ..row import CaseSpec, Code, Row
from ..switcher_image import SwitcherImage, UnknownPlace
from . import spec

INT2 = bytes([0xCD, 0x02])
INVALID_OPCODE, HYPERCALL, INTERRUPT = 6, 0x1F, 0x21
# What the hardened reference does only when the trap came from ring 0: no trip passes it.
FAULT_ONLY = frozenset({"H52", "H52d"})
# Where the parts of a Switcher begin, in whatever order they lie.
PARTS = ("switch_to_guest", "return_to_host", "deliver_to_host", "handle_nmi")
Spec = tuple[CaseSpec, SwitcherImage]


@dataclass(frozen=True, slots=True)
class Way:
    """One trip: by a vector into its stub and home by one of the exits."""

    name: str
    vector: int
    suffix: str

    def code(self) -> Code:
        if self.vector == INVALID_OPCODE:
            return Code("G_CODE", "ud2", bytes([0x0F, 0x0B]), {})
        return Code("G_CODE", f"int {self.vector:#x}", bytes([0xCD, self.vector]), {})

    def gates(self) -> tuple[dict[str, Any], ...]:
        return ({"vector": self.vector, "table": "guest", "dpl": 1},)

    def end(self) -> dict[str, Any]:
        """How the undisturbed run ends."""
        handled = self.vector == INTERRUPT
        vector, eip = (INTERRUPT, "HOST_CODE+7") if handled else (0x2F, "HOST_CODE+9")
        after = "G_CODE" if self.vector == INVALID_OPCODE else "G_CODE+2"
        frame = {"trapnum": self.vector, "errcode": 0, "eip": after, "cs": "GCS"}
        return {
            "trap": {"vector": vector, "error": "none", "eip": eip, "cs": "HCS", "eflags": 2},
            "regs": {"ebp": 0x0B0B0B0B, "esp": "HOST_STACK+4096"},
            "segs": {"ds": "HDS", "es": "HDS", "fs": 0, "gs": 0, "ss": "LDS"},
            "tables": TABLES,
            "cr": {"cr3": "HOST_TOP"},
            "frame": {**frame, **GPRS, "esp": "G_STACK+4096", "ss": "GDS", "ds": "GDS", "es": "GDS"},
        }


TABLES = {
    "gdt_base": "HOST_GDT",
    "gdt_limit": 255,
    "idt_base": "HOST_IDT",
    "idt_limit": 2047,
    "tr": "TSEL",
    "ldtr": 0,
}
GPRS = {
    "eax": 0xA0A0A0A0,
    "ecx": 0xC1C1C1C1,
    "edx": 0xD2D2D2D2,
    "ebx": 0xB3B3B3B3,
    "ebp": 0xB5B5B5B5,
    "esi": 0x56565656,
    "edi": 0xD7D7D7D7,
}
TRAP = Way("trap", HYPERCALL, "return")
DELIVER = Way("deliver", INTERRUPT, "deliver")
FAULT = Way("fault", INVALID_OPCODE, "return")


def one_nmi(
    row: Row, layer: str, switcher: SwitcherImage, reference: Reference | None = None
) -> Iterator[Spec]:
    """One NMI at each boundary that a trip passes: those of the entry, and of both ways home.

    reference is the Switcher to put INT 2 into; without one, and for L2, it is the sound one of the layer.
    """
    if reference is None and layer.startswith("L2"):
        reference = load(layer.removeprefix("L2-"))
    for way in (TRAP, DELIVER):
        for label, at in passed(switcher, way):
            if way is DELIVER and entering(switcher, at):
                continue
            yield _real(row, layer, switcher, way, label, at), switcher
            if reference is not None:
                yield _patched(row, layer, way, label, reference)
    for label, at in _origin(switcher):
        yield _real(row, layer, switcher, FAULT, label, at), switcher
    yield _in_the_guest(row, layer), switcher


def _origin(switcher: SwitcherImage) -> list[tuple[str, int]]:
    """What the product's hardened Switcher does before its way home, after everything but a hypercall."""
    start, end = switcher.symbols.get("check_origin", 0), switcher.symbols["return_to_host"]
    return [(label, at) for label, at in switcher.boundaries.items() if start and start <= at < end]


def two_nmis(
    row: Row, layer: str, switcher: SwitcherImage, reference: Reference | None = None
) -> Iterator[Spec]:
    """A second NMI in the first one's handler: held until its IRET, then taken, and nothing changes."""
    handler = _at(switcher, "handle_nmi")
    inside = [label for label, at in switcher.boundaries.items() if at >= handler and label.startswith("N")]
    for label in ("stub2", *inside):
        second = {"kind": "nmi", "at": f"SW.{label}"}
        made = spec(
            row,
            f"at {label}",
            "trip",
            layers=(layer,),
            requires=("nmi-injection",),
            code=(TRAP.code(),),
            event={"kind": "nmi", "at": "SW.pop_fs", "after": second},
            expect=TRAP.end(),
        )
        yield made, switcher


def passed(switcher: SwitcherImage, way: Way) -> list[tuple[str, int]]:
    """The labels of the entry and of one way home, with their offsets, in order."""
    home = range(_at(switcher, f"{way.suffix}_to_host"), _end(switcher, way))
    labelled = [
        (label, at)
        for label, at in switcher.boundaries.items()
        if label not in FAULT_ONLY and (entering(switcher, at) or at in home)
    ]
    return [*labelled, (f"stub{way.vector}", switcher.entries[way.vector])]


def entering(switcher: SwitcherImage, at: int) -> bool:
    """Whether an offset lies on the way into the Guest."""
    return _at(switcher, "switch_to_guest") <= at <= _at(switcher, "enter_guest")


def _end(switcher: SwitcherImage, way: Way) -> int:
    """Where the next part begins, so that a way's own boundaries lie before it."""
    start = _at(switcher, f"{way.suffix}_to_host")
    parts = [*(_at(switcher, name) for name in PARTS), switcher.entries[0]]
    return min((at for at in parts if at > start), default=len(switcher.text))


def _at(switcher: SwitcherImage, name: str) -> int:
    """The offset of an instruction by what it does, whatever number it has in this Switcher; UnknownPlace."""
    if name in switcher.symbols:
        return switcher.symbols[name]
    found = (at for label, at in switcher.symbols.items() if label[4:] == name)
    at = next(found, None)
    if at is None:
        raise UnknownPlace(name)
    return at


def expected(layer: str, switcher: SwitcherImage, way: Way, at: int, pushed: str) -> dict[str, Any]:
    """What the map says of a boundary; pushed is the EIP that the Host's handler finds.

    Which instruction loads the Guest's GDT first is the layer's name: were it read from the Switcher, a
    Switcher with the wrong order would be expected to die, and pass.
    """
    idt, home_idt = _at(switcher, "load_guest_idt"), _at(switcher, f"load_host_idt_{way.suffix}")
    gdt = _at(switcher, "load_guest_gdt")
    handler = {"trap": {"vector": 2, "error": "none", "eip": pushed, "cs": "LCS"}}
    if entering(switcher, at) and at <= idt:
        return {"outcome": "shutdown"} if at > gdt and not layer.endswith("hardened") else handler
    if home_idt < at < _end(switcher, way):
        return {**handler, "tables": {"gdt_base": "HOST_GDT", "idt_base": "HOST_IDT"}, "segs": {"ss": "LDS"}}
    return way.end()


def _real(row: Row, layer: str, switcher: SwitcherImage, way: Way, label: str, at: int) -> CaseSpec:
    return spec(
        row,
        f"{label} {way.name}",
        "trip",
        layers=(layer,),
        requires=("nmi-injection",),
        code=(way.code(),),
        idt=way.gates(),
        event={"kind": "nmi", "at": f"SW.{label}"},
        expect=expected(layer, switcher, way, at, f"SW+{at}"),
    )


def _patched(row: Row, layer: str, way: Way, label: str, reference: Reference) -> Spec:
    """The same with INT 2 in a copy of the reference Switcher."""
    place = link(reference).way(way.vector)[0] if label.startswith("stub") else label
    patched = image_of(reference, {place: INT2})
    at = patched.symbols[place]
    made = spec(
        row,
        f"{label} {way.name}, by INT 2",
        "trip",
        kind="P",
        layers=(layer,),
        code=(way.code(),),
        idt=way.gates(),
        expect=expected(layer, patched, way, at, f"SW+{at + len(INT2)}"),
    )
    return made, patched


def _in_the_guest(row: Row, layer: str) -> CaseSpec:
    """B31: dropped, but with the product's hardened Switcher the Host's to handle."""
    reflected = {
        **TRAP.end(),
        "trap": {"vector": 2, "error": "none", "eip": "HOST_CODE+7", "cs": "HCS", "eflags": 2},
        "frame": {"trapnum": 2, "errcode": 0, "eip": "G_CODE", "cs": "GCS", **GPRS},
    }
    return spec(
        row,
        "B31, the Guest's first instruction",
        "trip",
        layers=(layer,),
        requires=("nmi-injection",),
        code=(TRAP.code(),),
        event={"kind": "nmi", "at": "G_CODE"},
        expect=reflected if layer == "L3-hardened" else TRAP.end(),
    )
