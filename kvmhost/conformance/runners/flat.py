"""The one segment that every vCPU of a runner starts with, whatever becomes of it."""

from __future__ import annotations

from kvmhost.kvm import Segment


def flat(kind: int, selector: int, dpl: int = 0) -> Segment:
    """A flat 32-bit segment as VM entry wants it; kind is the descriptor's type, accessed."""
    return Segment(
        base=0, limit=0xFFFFFFFF, selector=selector, type=kind, present=1, dpl=dpl, db=1, s=1, l=0, g=1,
        avl=0, unusable=0,
    )  # fmt: skip
