"""Gates and descriptors against the bit positions of the manuals, worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmhost.switcher import gates, load

DWORD = st.integers(0, 2**32 - 1)
DPL = st.integers(0, 3)


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        # The values of the ABI description's GDT section.
        (gates.flat_code(), (0x0000FFFF, 0x00CF9B00)),
        (gates.flat_data(), (0x0000FFFF, 0x00CF9300)),
        (gates.flat_code(1), (0x0000FFFF, 0x00CF9B00 | 1 << 13)),
        (gates.flat_data(3), (0x0000FFFF, 0x00CFF300)),
        (gates.tss_descriptor(0xFFC02020), (0x20200067, 0xFF0089C0)),
        (gates.tss_descriptor(0x12345678), (0x56780067, 0x12008934)),
        # Intel SDM vol. 3, "IDT Descriptors": offset 31..16 P DPL 0 D110, selector, offset 15..0.
        (gates.pack_gate(0x12345678, 0x61, gates.TRAP_GATE, 3), (0x00615678, 0x1234EF00)),
        (gates.pack_gate(0x12345678, 0x50, gates.INTERRUPT_GATE, 0, False), (0x00505678, 0x12340E00)),
        # A Guest's gate: selector forced to 0x61, bit 12 cleared, the rest kept.
        (gates.direct_gate(0x00101234, 0xC010FFFF), (0x00611234, 0xC010EF00)),
        (gates.direct_gate(0x00101234, 0xC0106F00), (0, 0)),
    ],
)
def test_words(got: tuple[int, int], expected: tuple[int, int]) -> None:
    assert got == expected


@given(DWORD, st.integers(0, 0xFFFF), st.integers(0, 15), DPL, st.booleans())
def test_a_gate_comes_apart_as_it_was_put_together(
    offset: int, selector: int, kind: int, dpl: int, present: bool
) -> None:
    gate = gates.unpack_gate(*gates.pack_gate(offset, selector, kind, dpl, present))
    assert gate == gates.Gate(offset, selector, kind, dpl, present)


@given(DWORD)
def test_a_tss_is_found_again(base: int) -> None:
    found = gates.unpack_descriptor(*gates.tss_descriptor(base))
    assert found == gates.Descriptor(base, 103, gates.TSS_AVAILABLE, True, 0, True, 0)


@given(DWORD, DWORD)
def test_no_gate_of_a_guest_leads_to_ring_0(low: int, high: int) -> None:
    low, high = gates.direct_gate(low, high)
    gate = gates.unpack_gate(low, high)
    assert not gate.present or gate.selector == 0x61


def test_busy_is_value_2_of_the_type() -> None:
    assert gates.TSS_AVAILABLE | gates.TSS_BUSY_BIT >> 8 == gates.TSS_BUSY
    assert gates.tss_descriptor(0)[1] | gates.TSS_BUSY_BIT == 0x8B00


@pytest.mark.parametrize("name", ["seed", "hardened"])
def test_default_gates(name: str) -> None:
    blob = load(name)
    for vector, offset in enumerate(blob.default_idt_entries):
        gate = gates.unpack_gate(*gates.default_gate(blob, vector))
        dpl = 1 if vector == 0x1F else 0
        assert gate == gates.Gate(0xFFC00000 + offset, 0x50, 0xE, dpl, True)


@given(st.integers(0, 255), DPL)
def test_a_bounced_gate_has_the_dpl_it_is_given(vector: int, dpl: int) -> None:
    assert gates.unpack_gate(*gates.default_gate(load("seed"), vector, dpl)).dpl == dpl
