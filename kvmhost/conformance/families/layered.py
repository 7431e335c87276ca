"""Families that go through the Switcher under test itself, and so need its image.

A case may also run on another image than the layer's own: INT 2 put in front of an instruction (6.4, "Patch
method") makes another text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from ..reference import Reference
from ..row import CaseSpec, Row
from ..switcher_image import SwitcherImage
from . import boundaries, moments, stubs

Layered: TypeAlias = Callable[
    [Row, str, SwitcherImage, Reference | None], Iterator[tuple[CaseSpec, SwitcherImage]]
]

LAYERED: Mapping[str, Layered] = {
    "stubs": stubs.every_vector,
    "nmi-boundaries": boundaries.one_nmi,
    "nmi-in-handler": boundaries.two_nmis,
    "interrupt-phases": moments.pending,
    "interrupt-window": moments.window,
    "snapshots": moments.snapshot,
    "sregs-identity": moments.identity,
}
