"""Where things lie in a CPU's pair of pages, for each generation of Switchers.

A Switcher is assembled against one order of the register frame and one size of
pseudo-descriptor; nothing in its bytes says which.  So whoever touches a pair
needs the Layout of the Switcher that will run on it.  Every offset here is
asked of the compiled headers in native/abi: this file knows names only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from kvmhost._native import ffi, lib

from .errors import SwitcherError

# The frame orders and descriptor sizes that lguest had (abi 2.1, 2.2), and their structures.
FRAMES: Mapping[str, str] = MappingProxyType(
    {"2.6.23": "struct kvmhost_frame_2623", "2.6.24": "struct kvmhost_frame_2624"}
)
DESCRIPTORS: Mapping[int, str] = MappingProxyType({8: "struct kvmhost_state_8", 6: "struct kvmhost_state_6"})


@dataclass(frozen=True, slots=True)
class Layout:
    """Offsets in bytes, within the register page (frame_*) and within the state page (state_*).

    frame is "2.6.23" or "2.6.24" (which stands for every later one), descriptors 8 or 6: the
    bytes that an LGDT or LIDT operand takes.

    >>> Layout.of("2.6.24", 6).state["guest_gdt_desc"]
    26
    >>> Layout.of("2.6.23", 8).registers["trapnum"] == Layout.of("2.6.24", 6).registers["trapnum"]
    True
    """

    frame: str
    descriptors: int
    frame_type: str
    state_type: str
    registers: Mapping[str, int]
    state: Mapping[str, int]

    @staticmethod
    def of(frame: str, descriptors: int) -> Layout:
        """The Layout of one generation; SwitcherError if lguest never had it."""
        return _layout(frame, descriptors)

    def in_pair(self, field: str) -> int:
        """Offset of a field of the state page, counted from the start of the pair.

        >>> hex(Layout.of("2.6.24", 6).in_pair("host_sp"))
        '0x1010'
        """
        return int(lib.PAGE_BYTES) + self.state[field]


@cache
def _layout(frame: str, descriptors: int) -> Layout:
    if frame not in FRAMES:
        raise SwitcherError(
            f"unknown frame order {frame!r}", "lguest had two", f"choose one of {', '.join(FRAMES)}"
        )
    if descriptors not in DESCRIPTORS:
        raise SwitcherError(
            f"unknown descriptor size {descriptors!r}",
            "an LGDT operand takes 6 bytes, or 8 with padding",
            "choose 8 for 2.6.23 and 2.6.24, 6 for later kernels",
        )
    frame_type, state_type = FRAMES[frame], DESCRIPTORS[descriptors]
    return Layout(
        frame=frame,
        descriptors=descriptors,
        frame_type=frame_type,
        state_type=state_type,
        registers=_offsets(frame_type, int(lib.FRAME_OFFSET)),
        state=_offsets(state_type, 0),
    )


def _offsets(struct: str, start: int) -> Mapping[str, int]:
    fields = ffi.typeof(struct).fields or []
    return MappingProxyType({name: start + field.offset for name, field in fields})
