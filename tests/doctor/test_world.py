"""The world of a probe Guest, read back by the manuals' own formats and never by our builder's."""

from __future__ import annotations

import struct

import pytest

from kvmhost.doctor import _constants as c
from kvmhost.doctor.probes import PROBES
from kvmhost.doctor.world import ProbeGuest, Start, build

PRESENT, WRITABLE, USER, GLOBAL, NO_EXECUTE = 1, 2, 4, 0x100, 1 << 63


def segment(memory: bytearray, selector: int) -> tuple[int, int, int, int]:
    """(base, last byte, type and S, DPL), by the figure "Segment Descriptor"."""
    low, high = struct.unpack_from("<II", memory, 0x1000 + (selector & 0xFFF8))
    assert high & 0x8000, "present"
    base = low >> 16 | (high & 0xFF) << 16 | (high & 0xFF000000)
    limit = (low & 0xFFFF) | (high & 0xF0000)
    if high & 0x800000:
        limit = limit << 12 | 0xFFF
    return base, limit, high >> 8 & 0x1F, high >> 13 & 3


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (0x50, (0, 0xFFFFFFFF, 0x1B, 0)),
        (0x58, (0, 0xFFFFFFFF, 0x13, 0)),
        (0x61, (0, 0xFFFFFFFF, 0x1B, 1)),
        (0x69, (0, 0xFFFFFFFF, 0x13, 1)),
        (0xA0, (0, 0xFFF, 0x13, 0)),
        (0x80, (0x2800, 103, 0x09, 0)),
    ],
)
def test_segments(selector: int, expected: tuple[int, int, int, int]) -> None:
    assert segment(build(ProbeGuest("probe_halt")), selector) == expected


def test_every_vector_the_guests_can_meet_leads_to_its_stub() -> None:
    memory = build(ProbeGuest("probe_halt"))
    for vector in (*range(32), 0xF0):
        low, high = struct.unpack_from("<II", memory, 0x2000 + 8 * vector)
        target = (low & 0xFFFF) | (high & 0xFFFF0000)
        assert low >> 16 == 0x50
        assert high & 0x9F00 == 0x8E00, "a present 32-bit interrupt gate"
        assert (high >> 13 & 3) == (1 if vector == 0x1F else 0)
        if vector == 0xF0:
            assert target == c.PROBE_SYMBOLS["probe_kicked"]
            continue
        stub = bytes(memory[target : target + 5])
        pushes_error = vector in (8, 10, 11, 12, 13, 14, 17, 21, 29, 30)
        expected = bytes((0x6A, vector)) if pushes_error else bytes((0x6A, 0, 0x6A, vector))
        assert stub.startswith(expected)


def walk(memory: bytearray, guest: ProbeGuest, linear: int) -> tuple[int, int] | None:
    """(physical page, the rights of all levels together), by the chapter "Paging"."""
    if guest.start is Start.TWO_LEVEL:
        tables = ((linear >> 22, 4), (linear >> 12 & 0x3FF, 4))
    else:
        tables = ((linear >> 30, 8), (linear >> 21 & 0x1FF, 8), (linear >> 12 & 0x1FF, 8))
    place, rights = guest.cr3, WRITABLE | USER
    entry = 0
    for index, size in tables:
        entry = int.from_bytes(memory[place + index * size : place + (index + 1) * size], "little")
        if not entry & PRESENT:
            return None
        place = entry & 0xFFFFF000
        # A PDPTE has no rights of its own; its reserved bits are zero.
        if size == 8 and index == linear >> 30 and place == c.PROBE_PAE_PD:
            assert entry & 0x1E6 == 0
            continue
        rights &= entry | ~(WRITABLE | USER)
    return place, (rights & (WRITABLE | USER)) | (entry & (GLOBAL | NO_EXECUTE))


@pytest.mark.parametrize("start", [Start.TWO_LEVEL, Start.PAE])
def test_both_formats_map_the_same_pages(start: Start) -> None:
    guest = ProbeGuest("probe_translation", start)
    memory = build(guest)
    mapped = {page: walk(memory, guest, page) for page in range(0, 0x400000, 0x1000)}
    xd = NO_EXECUTE if start is Start.PAE else 0
    for page, found in mapped.items():
        if page == 0x30000:
            assert found == (0xC000, WRITABLE)
        elif page == 0xA000:
            assert found == (0xA000, 0)
        elif page == 0xB000:
            assert found == (0xB000, WRITABLE | xd)
        elif page < 0x20000:
            assert found == (page, WRITABLE)
        else:
            assert found is None


def test_only_the_guest_that_asks_gets_a_global_alias() -> None:
    for wanted in (True, False):
        guest = ProbeGuest("probe_global", global_alias=wanted)
        assert walk(build(guest), guest, 0x30000) == (0xC000, WRITABLE | (GLOBAL if wanted else 0))
        assert bool(guest.cr4 & 0x80) is wanted


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.number)
def test_registers_at_the_start_are_consistent(probe: object) -> None:
    guest = probe.guest  # type: ignore[attr-defined]
    assert guest.cr0 & 0x31 == 0x31, "PE, ET and NE, which VMX insists on"
    assert bool(guest.cr0 >> 31) is (guest.start is not Start.UNPAGED)
    assert bool(guest.cr4 & 0x20) is (guest.start is Start.PAE)
    assert guest.efer in (0, 0x800)
    assert guest.entry in c.PROBE_SYMBOLS


def test_the_text_fits() -> None:
    assert len(c.PROBE_CODE) <= c.PROBE_TEXT_LIMIT
    assert c.PROBE_SYMBOLS["start_probes"] == c.PROBE_TEXT
    assert c.PROBE_SYMBOLS["end_probes"] == c.PROBE_TEXT + len(c.PROBE_CODE)
    stubs = c.PROBE_SYMBOLS["end_probes"] - c.PROBE_SYMBOLS["probe_stubs"]
    assert stubs == 32 * c.PROBE_STUB_BYTES
