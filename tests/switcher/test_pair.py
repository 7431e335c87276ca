"""The pair of pages against the tables of the ABI description, byte by byte."""

from __future__ import annotations

import struct

import pytest

from kvmhost._native import ffi
from kvmhost.switcher import Frame, Layout, StatePage, SwitcherError, gates, load, pair_address

# Register frame and state page, typed from the ABI description 2.1 and 2.2.
ORDERS = {
    "2.6.23": "ebx ecx edx esi edi ebp gs eax fs ds es trapnum errcode eip cs eflags esp ss",
    "2.6.24": "eax ebx ecx edx esi edi ebp gs fs ds es trapnum errcode eip cs eflags esp ss",
}
STATES = {
    8: {"host_cr3": 0, "host_idt_desc": 4, "host_gdt_desc": 12, "host_sp": 20, "guest_idt_desc": 24}
    | {"guest_gdt_desc": 32, "guest_tss": 40, "guest_idt": 144, "guest_gdt": 2192},
    6: {"host_cr3": 0, "host_idt_desc": 4, "host_gdt_desc": 10, "host_sp": 16, "guest_idt_desc": 20}
    | {"guest_gdt_desc": 26, "guest_tss": 32, "guest_idt": 136, "guest_gdt": 2184},
}
SELECTORS = {"gs", "fs", "ds", "es", "cs", "ss"}
PAIR = 0xFFC01000


def page() -> tuple[object, memoryview]:
    memory = ffi.new("uint32_t[1024]")
    return memory, memoryview(ffi.buffer(memory))


@pytest.mark.parametrize("frame", ORDERS)
def test_frame_order(frame: str) -> None:
    memory, view = page()
    registers = Frame(memory, Layout.of(frame, 6))
    for place, name in enumerate(ORDERS[frame].split()):
        setattr(registers, name, 0xABC0 + place)
        (stored,) = struct.unpack_from("<I", view, 4096 - 72 + 4 * place)
        assert stored == 0xABC0 + place == getattr(registers, name)
        assert registers.layout.registers[name] == 4096 - 72 + 4 * place
    assert registers.snapshot() == {n: 0xABC0 + p for p, n in enumerate(ORDERS[frame].split())}
    registers.clear()
    assert bytes(view) == bytes(4096)


@pytest.mark.parametrize("frame", ORDERS)
def test_values_wrap_and_selectors_are_masked(frame: str) -> None:
    memory, view = page()
    registers = Frame(memory, Layout.of(frame, 8))
    for place, name in enumerate(ORDERS[frame].split()):
        struct.pack_into("<I", view, 4096 - 72 + 4 * place, 0xDEAD0069)
        assert getattr(registers, name) == (0x69 if name in SELECTORS else 0xDEAD0069)
    registers.eax = 2**32 + 5
    registers.esp -= 0xFFFFFFFF
    registers.ss = 0x12340069
    assert (registers.eax, registers.esp, registers.ss) == (5, 0xDEAD006A, 0x69)


@pytest.mark.parametrize("size", STATES)
def test_layout_of_the_state_page(size: int) -> None:
    layout = Layout.of("2.6.24", size)
    assert dict(layout.state) == STATES[size]
    assert layout.in_pair("guest_gdt") == 4096 + STATES[size]["guest_gdt"]


@pytest.mark.parametrize(("frame", "size"), [("2.6.22", 6), ("", 8), ("2.6.23", 7), ("2.6.24", 0)])
def test_generations_that_never_were(frame: str, size: int) -> None:
    with pytest.raises(SwitcherError, match="choose"):
        Layout.of(frame, size)


def test_pairs_follow_the_text() -> None:
    assert [pair_address(cpu) for cpu in range(3)] == [0xFFC01000, 0xFFC03000, 0xFFC05000]


@pytest.fixture(params=["seed", "hardened"])
def state(request: pytest.FixtureRequest) -> tuple[StatePage, memoryview, str]:
    memory, view = page()
    view[:] = b"\xa5" * 4096
    blob = load(request.param)
    state = StatePage(memory, blob.layout)
    state.set_up(blob, PAIR, 0x102000, (0xFF, 0x110000), (0x7FF, 0x101000), 0x110200)
    return state, view, request.param


def test_set_up(state: tuple[StatePage, memoryview, str]) -> None:
    """Every byte of the page: what the ABI description 3.6 names, and zeros."""
    _, view, name = state
    at = STATES[load(name).layout.descriptors]
    expected = bytearray(4096)
    here = PAIR + 4096

    def put(where: int, form: str, *values: int) -> None:
        struct.pack_into("<" + form, expected, where, *values)

    put(at["host_cr3"], "I", 0x102000)
    put(at["host_gdt_desc"], "HI", 0xFF, 0x110000)
    put(at["host_idt_desc"], "HI", 0x7FF, 0x101000)
    put(at["guest_idt_desc"], "HI", 2047, here + at["guest_idt"])
    put(at["guest_gdt_desc"], "HI", 255, here + at["guest_gdt"])
    put(at["guest_tss"] + 4, "II", here, 0x58)
    put(at["guest_tss"] + 102, "H", 104)
    put(at["guest_gdt"] + 8 * 10, "II", 0x0000FFFF, 0x00CF9B00)
    put(at["guest_gdt"] + 8 * 11, "II", 0x0000FFFF, 0x00CF9300)
    put(at["guest_gdt"] + 8 * 16, "II", *gates.tss_descriptor(here + at["guest_tss"]))
    for vector, offset in enumerate(load(name).default_idt_entries):
        stub = 0xFFC00000 + offset
        high = stub & 0xFFFF0000 | (0xAE00 if vector == 0x1F else 0x8E00)
        put(at["guest_idt"] + 8 * vector, "II", 0x500000 | stub & 0xFFFF, high)
    put(4096 - 4, "I", 0x110200)
    assert bytes(view) == bytes(expected)


def test_stack_and_busy_bit(state: tuple[StatePage, memoryview, str]) -> None:
    live, view, name = state
    at = STATES[load(name).layout.descriptors]
    before = bytes(view)
    live.set_stack(0xC0123000, 0x69)
    assert struct.unpack_from("<II", view, at["guest_tss"] + 12) == (0xC0123000, 0x69)
    live.set_stack(0, 0)
    view[at["guest_gdt"] + 8 * 16 + 5] |= 2
    assert bytes(view) != before
    live.clear_busy()
    assert bytes(view) == before


def test_fields(state: tuple[StatePage, memoryview, str]) -> None:
    live, view, name = state
    at = STATES[load(name).layout.descriptors]
    struct.pack_into("<I", view, at["host_sp"], 0x11234560)
    assert (live.host_sp, live.host_cr3, live.mailbox) == (0x11234560, 0x102000, 0x110200)
    live.set_gate(14, (1, 2))
    live.set_gdt_entry(12, (3, 4))
    assert struct.unpack_from("<II", view, at["guest_idt"] + 8 * 14) == (1, 2)
    assert struct.unpack_from("<II", view, at["guest_gdt"] + 8 * 12) == (3, 4)
