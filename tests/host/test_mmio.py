"""Device registers in memory: which instructions are understood, and what they do to the CPU's registers.

The lengths and operands are capstone's, which has never heard of us; what a MOV does to a register is written
down by hand.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import capstone
import pytest
from capstone import x86_const

from kvmhost._native import ffi
from kvmhost.host import mmio
from kvmhost.host.errors import GuestBroke
from kvmhost.host.memory import VmMemory
from kvmhost.host.paging import ShadowTables

BLOCK, RAM, RAM_BYTES, WINDOW_END = 0x200000, 0x400000, 0x100000, 0x102000
TOP, LAST = 0x1000, 0x2000
REGISTER_PAGE = RAM_BYTES
LINEAR = 0x00005010
# Segments, sizes, LOCK and REP: drivers have no use for them in front of a MOV.
PREFIXES = {0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3}


def forms() -> Iterator[bytes]:
    """Every opcode with every ModR/M, some SIBs, both operand sizes."""
    tail = bytes.fromhex("11223344556677889900")
    for prefix in (b"", b"\x66"):
        for opcode in sorted(set(range(256)) - PREFIXES):
            for modrm in range(256):
                for sib in (0x00, 0x25, 0x4C, 0xE5, 0xFD) if modrm & 7 == 4 else (0x11,):
                    yield prefix + bytes([opcode, modrm, sib]) + tail
        for second in range(256):
            for modrm in range(256):
                yield prefix + bytes([0x0F, second, modrm]) + tail


def test_lengths_widths_and_directions_are_capstones() -> None:
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32)
    engine.detail = True
    known = 0
    for code in forms():
        access = mmio.decode(code[: mmio.LONGEST])
        # Of every form that is not claimed, one in eight is looked at for being claimed wrongly not.
        if access is None and sum(code) % 8:
            continue
        found = next(engine.disasm(code, 0), None)
        is_move = (
            found is not None
            and found.mnemonic in ("mov", "movzx", "movsx", "movabs")
            and any(op.type == x86_const.X86_OP_MEM for op in found.operands)
            and found.bytes[code[0] == 0x66] not in (0x8C, 0x8E)
        )
        assert (access is not None) == is_move, code.hex()
        if access is None or found is None:
            continue
        known += 1
        target, source = found.operands
        memory = target if target.type == x86_const.X86_OP_MEM else source
        assert (access.length, access.width) == (found.size, memory.size), code.hex()
        assert access.store == (target.type == x86_const.X86_OP_MEM), code.hex()
        if source.type == x86_const.X86_OP_IMM:
            assert access.immediate == source.imm & (1 << 8 * access.width) - 1
        elif not access.store:
            assert access.fill == target.size
    assert known > 3000


def test_what_is_cut_off_is_not_understood() -> None:
    whole = bytes.fromhex("66c7842411223344aabb")
    assert mmio.decode(whole) == mmio.Access(10, 2, True, immediate=0xBBAA)
    assert [mmio.decode(whole[:size]) for size in range(10)] == [None] * 10
    for code in ("0fb6", "0f", "", "66", "8a", "8a04", "c705", "c60011"[:4]):
        assert mmio.decode(bytes.fromhex(code)) is None


class Recorder:
    """A bus with one register, which answers with what it was given."""

    def __init__(self, value: int | None) -> None:
        self.value, self.calls = value, []  # type: int | None, list[tuple[Any, ...]]

    def read_mmio(self, physical: int, width: int) -> int | None:
        self.calls.append((physical, width))
        return self.value

    def write_mmio(self, physical: int, width: int, value: int) -> bool:
        self.calls.append((physical, width, value))
        return self.value is not None


def guest(code: bytes, cs: int = 0x61, physical: int | None = 0x100010) -> Any:
    registers = {name: 0x11112200 + 0x11 * at for at, name in enumerate(mmio.REGISTERS)}
    return SimpleNamespace(
        state=SimpleNamespace(mmio_end=WINDOW_END),
        frame=SimpleNamespace(cs=cs, eip=0xC0001000, **registers),
        tables=SimpleNamespace(register_address=lambda linear, write: physical),
        read_linear=lambda address, length: code[:length],
    )


CASES = [
    # Loads: (code, value of the register, which register, what is in it afterwards)
    ("8a00", 0xAB, "eax", 0x111122AB),
    ("668b00", 0xABCD, "eax", 0x1111ABCD),
    ("8b00", 0x89ABCDEF, "eax", 0x89ABCDEF),
    ("8a20", 0xAB, "eax", 0x1111AB00),  # AH
    ("8a38", 0xAB, "ebx", 0x1111AB33),  # BH
    ("8a4c2410", 0xAB, "ecx", 0x111122AB),
    ("0fb610", 0xAB, "edx", 0x000000AB),
    ("660fb610", 0xAB, "edx", 0x111100AB),
    ("0fbe10", 0xAB, "edx", 0xFFFFFFAB),
    ("660fbe10", 0xAB, "edx", 0x1111FFAB),
    ("0fbe10", 0x7B, "edx", 0x0000007B),
    ("0fbf38", 0x8001, "edi", 0xFFFF8001),
    ("0fb738", 0x8001, "edi", 0x00008001),
    ("a010201000", 0xAB, "eax", 0x111122AB),
    ("a110201000", 1, "eax", 1),
]


@pytest.mark.parametrize(("code", "value", "name", "expected"), CASES)
def test_loads(code: str, value: int, name: str, expected: int) -> None:
    machine = guest(bytes.fromhex(code) + b"\x90" * 10)
    before = dict(vars(machine.frame))
    assert mmio.emulate(machine, Recorder(value), LINEAR)
    assert getattr(machine.frame, name) & 0xFFFFFFFF == expected
    assert machine.frame.eip == 0xC0001000 + len(code) // 2
    for other in mmio.REGISTERS:
        assert other == name or getattr(machine.frame, other) == before[other]


@pytest.mark.parametrize(
    ("code", "width", "value"),
    [
        ("8802", 1, 0x00),
        ("668902", 2, 0x2200),
        ("8902", 4, 0x11112200),
        ("882a", 1, 0x22),  # CH
        ("88b244332211", 1, 0x22),  # DH
        ("c60237", 1, 0x37),
        ("66c7023713", 2, 0x1337),
        ("c70278563412", 4, 0x12345678),
        ("a210201000", 1, 0x00),
        ("a310201000", 4, 0x11112200),
    ],
)
def test_stores(code: str, width: int, value: int) -> None:
    machine, bus = guest(bytes.fromhex(code) + b"\x90" * 10), Recorder(0)
    assert mmio.emulate(machine, bus, LINEAR)
    assert bus.calls == [(0x100010, width, value)]
    assert machine.frame.eip == 0xC0001000 + len(code) // 2


@pytest.mark.parametrize(
    ("code", "cs", "physical", "value"),
    [
        pytest.param("0102", 0x61, 0x100010, 0, id="add"),
        pytest.param("8b00", 0x73, 0x100010, 0, id="user space"),
        pytest.param("8b00", 0x61, None, 0, id="no register there"),
        pytest.param("8b00", 0x61, 0x100010, None, id="no device there"),
        pytest.param("8902", 0x61, 0x100010, None, id="no device there to write"),
        pytest.param("8b00", 0x61, 0x100FFE, 0, id="across the end of a page"),
        pytest.param("", 0x61, 0x100010, 0, id="no instruction"),
    ],
)
def test_what_is_the_guests_own(code: str, cs: int, physical: int | None, value: int | None) -> None:
    machine = guest(bytes.fromhex(code), cs, physical)
    before = dict(vars(machine.frame))
    assert not mmio.emulate(machine, Recorder(value), LINEAR)
    assert vars(machine.frame) == before


@pytest.fixture
def tables() -> Iterator[ShadowTables]:
    """A two-level Guest that maps 0x5000 to the register page, 0x6000 read-only, 0x7000 behind the window."""
    with VmMemory() as memory:
        state = ffi.cast("struct kvmhost_guest *", memory.u8 + BLOCK)
        state.mem_base, state.limit_bytes, state.mmio_end = RAM, RAM_BYTES, WINDOW_END
        state.kernel_address = 0xC0000000
        made = ShadowTables(memory, BLOCK, state)
        words: Any = memory.u32
        words[(RAM + TOP) // 4] = LAST | 0x67
        for index, entry in ((5, 0x100023), (6, 0x101021), (7, 0x102023), (8, 0x3023), (9, 0x100022)):
            words[(RAM + LAST) // 4 + index] = entry
        yield made
        state = None


def test_registers_never_reach_the_shadow(tables: ShadowTables) -> None:
    tables.new_pgtable(TOP)
    assert not tables.demand_page(LINEAR, 2)
    assert tables.register_address(LINEAR, True) == 0x100010
    assert tables.register_address(0x6004, False) == 0x101004
    assert tables.register_address(0x6004, True) is None
    assert tables.register_address(0x8004, False) is None
    assert tables.register_address(0x9004, False) is None
    assert tables.register_address(0x12345678, False) is None
    assert tables.register_address(0xFFC00000, False) is None
    with pytest.raises(GuestBroke):
        tables.demand_page(0x7000, 0)
    assert tables.demand_page(0x8000, 0)
    tables.set_pte(TOP, 0x8000, 0x100063)
    with pytest.raises(GuestBroke):
        tables.set_pte(TOP, 0x8000, 0x102063)
    assert tables.audit() == []


def test_registers_in_linear_mode(tables: ShadowTables) -> None:
    assert not tables.demand_page(0x100010, 0)
    assert tables.register_address(0x100010, True) == 0x100010
    with pytest.raises(GuestBroke):
        tables.demand_page(WINDOW_END, 0)


def test_a_frame_above_4_gib_is_no_register(tables: ShadowTables) -> None:
    """PAE entries have 36 bits and more of a frame; the low 32 alone say nothing."""
    assert not tables.guest.is_register(0x1_0010_0063)
    assert tables.guest.is_register(0x8000_0000_0010_0063)


def test_device_memory_above_ram_is_memory(tables: ShadowTables) -> None:
    tables.state.mmio_end = 0
    tables.state.mem_bytes = RAM_BYTES - 0x10000
    tables.new_pgtable(TOP)
    tables.memory.u32[(RAM + LAST) // 4 + 5] = RAM_BYTES - 0x1000 | 0x23
    assert tables.demand_page(LINEAR, 2)
    assert tables.translate(LINEAR) == RAM_BYTES - 0x1000 + 0x10
