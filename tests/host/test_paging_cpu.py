"""The same rules, asked of a CPU: Guests with tables of their own touch what they may and what they may not.

Each Guest is straight-line code whose every access is ten bytes long, so that a hook can step over one that
faults.  The hook asks demand_page() as the Host would, proves the tables after each answer, and writes down
what the CPU said (CR2 and error code) and what came of it.
"""

import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from host import tiny_guest as tiny

from kvmhost.host import Machine, OutcomeKind, Trap

pytestmark = pytest.mark.lab

P, RW, US, A, D, NX = 1, 2, 4, 32, 64, 1 << 63
FETCH = 16
SWITCHER, PAIRS = 0xFFC00000, (0xFFC01000, 0xFFC03000)
TEST = 0x40200000  # the second half of a 4 MiB entry
STEP = 10


class Tables:
    """Page tables that a test writes for its Guest, before it runs."""

    def __init__(self, guest: Any, pae: bool, first: int) -> None:
        self.ram, self.pae, self.width, self.next = guest.ram, pae, 8 if pae else 4, first
        self.top = self.frame()
        self.below: dict[tuple[int, int], int] = {}
        for page in (tiny.CODE_AT, tiny.DATA_AT, tiny.STACK_TOP - 0x1000):
            self.map(page, page, P | RW)

    def frame(self) -> int:
        self.next += 0x1000
        return self.next - 0x1000

    def child(self, table: int, index: int, flags: int) -> int:
        if (table, index) not in self.below:
            self.below[table, index] = self.frame()
            self.write(table, index, self.below[table, index] | flags)
        return self.below[table, index]

    def write(self, table: int, index: int, entry: int) -> None:
        self.ram.write(table + index * self.width, entry.to_bytes(self.width, "little"))

    def place(self, linear: int) -> tuple[int, int]:
        if self.pae:
            middle = self.child(self.top, linear >> 30, P)
            return self.child(middle, linear >> 21 & 511, 0x67), linear >> 12 & 511
        return self.child(self.top, linear >> 22, 0x67), linear >> 12 & 1023

    def map(self, linear: int, frame: int, flags: int) -> int:
        """Map a page; returns the Guest-physical address of its last entry."""
        table, index = self.place(linear)
        self.write(table, index, frame | flags)
        return table + index * self.width

    def entry(self, linear: int) -> int:
        table, index = self.place(linear)
        return int.from_bytes(self.ram.read(table + index * self.width, self.width), "little")


def read(address: int) -> bytes:
    """testl $0, address"""
    return b"\xf7\x05" + struct.pack("<II", address, 0)


write = tiny.store


def done() -> bytes:
    return b"\x0f\x0b"


def to_ring_3(code_at: int, stack: int) -> bytes:
    """User segments, and an iret to a user frame."""
    segments = tiny.hypercall(18, 14, 0x0000FFFF, 0x00CFFB00) + tiny.hypercall(18, 15, 0x0000FFFF, 0x00CFF300)
    words = (0x7B, stack, 0x202, 0x73, code_at)
    return segments + b"".join(b"\x68" + struct.pack("<I", word) for word in words) + b"\xcf"


class Run:
    """One Guest, run to its end (ud2); `faults` are (CR2, error code, fixed)."""

    def __init__(self, machine: Machine, code: bytes, prepare: Callable[[Any], None]) -> None:
        self.faults: list[tuple[int, int, bool]] = []
        self.findings: list[str] = []
        self.guest = tiny.boot(machine, tiny.init() + code + done())
        prepare(self.guest)
        self.guest.on(Trap.PAGE_FAULT)(self.page_fault)
        self.guest.on(Trap.INVALID_OPCODE)(lambda trap: trap.kill("done"))
        outcome = self.guest.run(timeout=60)
        assert (outcome.kind, outcome.reason) == (OutcomeKind.KILLED, "done"), outcome
        assert self.findings == []

    def page_fault(self, trap: Any) -> None:
        fixed = self.guest.tables.demand_page(trap.cr2, trap.error_code)
        self.findings += self.guest.tables.audit()
        self.faults.append((trap.cr2, trap.error_code, fixed))
        if not fixed and trap.error_code & FETCH:
            trap.kill("done")
        elif not fixed:
            trap.regs.eip += STEP

        (cpu,) = self.guest.cpus_seen
        self.pair, self.other_pair = PAIRS if cpu == 0 else PAIRS[::-1]

    def at(self, *addresses: int) -> list[tuple[int, int, bool]]:
        return [fault for fault in self.faults if fault[0] & ~0xFFF in addresses]


@pytest.fixture(params=["seed", "hardened"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    # Two CPUs, so that there is another pair; and slices without end, so that a Guest stays where it started.
    with Machine(8 << 20, cpus=2, switcher=request.param, slice_seconds=3600) as machine:
        yield machine


@pytest.fixture(params=[False, True], ids=["two-level", "pae"])
def pae(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_a_page_is_read_then_written(machine: Machine, pae: bool) -> None:
    made: list[Tables] = []

    def prepare(guest: Any) -> None:
        made.append(Tables(guest, pae, 0x200000))
        made[0].map(TEST, 0x300000, P | RW)

    code = (
        tiny.hypercall(4, 0x200000)
        + read(TEST)
        + read(TEST + 4)
        + write(TEST + 8, 0x1234)
        + write(TEST + 12, 5)
    )
    run = Run(machine, code, prepare)
    assert run.at(TEST) == [(TEST, 0, True), (TEST + 8, 3, True)]
    assert made[0].entry(TEST) == 0x300000 | P | RW | A | D
    assert run.guest.ram.read(0x300008, 8) == struct.pack("<II", 0x1234, 5)
    assert run.guest.state.pae == pae


def test_write_protection_binds_ring_1(machine: Machine, pae: bool) -> None:
    def prepare(guest: Any) -> None:
        Tables(guest, pae, 0x200000).map(TEST, 0x300000, P)

    code = (
        tiny.hypercall(4, 0x200000)
        + read(TEST)
        + write(TEST, 1)
        + read(TEST + 0x1000)
        + write(TEST + 0x1000, 1)
    )
    run = Run(machine, code, prepare)
    assert run.at(TEST) == [(TEST, 0, True), (TEST, 3, False)]
    assert run.at(TEST + 0x1000) == [(TEST + 0x1000, 0, False), (TEST + 0x1000, 2, False)]
    assert run.guest.ram.read(0x300000, 4) == bytes(4)


def test_set_pte_and_flushes_reach_the_cpu(machine: Machine, pae: bool) -> None:
    entries: list[int] = []

    def prepare(guest: Any) -> None:
        tables = Tables(guest, pae, 0x200000)
        entries.append(tables.map(TEST, 0x300000, P | RW))
        tables.map(0x50000000, entries[0] & ~0xFFF, P | RW)

    table = 0x50000000
    with_entry = table + (TEST >> 12 & (511 if pae else 1023)) * (8 if pae else 4)
    code = (
        tiny.hypercall(4, 0x200000)
        + write(TEST, 1)
        + write(with_entry, 0x301000 | P | RW | A | D)
        + tiny.hypercall(14, 0x200000, TEST, 0x301000 | P | RW | A | D, 0)
        + write(TEST + 4, 2)
        + tiny.hypercall(5, 0)
        + write(TEST + 8, 3)
        + tiny.hypercall(5, 1)
        + write(TEST + 12, 4)
        + write(with_entry, 0)
        + tiny.hypercall(14, 0x200000, TEST, 0, 0)
        + write(TEST + 16, 5)
    )
    run = Run(machine, code, prepare)
    assert run.at(TEST) == [
        (TEST, 2, True),
        (TEST + 8, 2, True),
        (TEST + 12, 2, True),
        (TEST + 16, 2, False),
    ], "the replaced page was there without a fault"
    assert run.guest.ram.read(0x300000, 8) == struct.pack("<II", 1, 0)
    assert run.guest.ram.read(0x301000, 20) == struct.pack("<5I", 0, 2, 3, 4, 0)


def test_six_address_spaces_take_turns(machine: Machine, pae: bool) -> None:
    tops = [0x200000 + index * 0x10000 for index in range(6)]

    def prepare(guest: Any) -> None:
        for index, top in enumerate(tops):
            Tables(guest, pae, top).map(TEST, 0x300000 + index * 0x1000, P | RW)

    order = [0, 1, 2, 3, 0, 1, 2, 3, 4, 3, 5, 0, 1, 5]
    code = b"".join(
        tiny.hypercall(4, tops[space]) + write(TEST + 4 * turn, space + 100)
        for turn, space in enumerate(order)
    )
    run = Run(machine, code, prepare)
    for space in range(6):
        expected = [space + 100 if space == turn else 0 for turn in order]
        page = run.guest.ram.read(0x300000 + space * 0x1000, 4 * len(order))
        assert list(struct.unpack(f"<{len(order)}I", page)) == expected
    assert 6 <= len(run.at(TEST)) < len(order), "some address spaces were still there when they came back"


def test_the_switchers_range_as_ring_1_sees_it(machine: Machine, pae: bool) -> None:
    def prepare(guest: Any) -> None:
        tables = Tables(guest, pae, 0x200000)
        for address in (SWITCHER, *PAIRS, 0xFFFFF000):
            tables.map(address, 0x300000, P | RW | US)

    pages = range(SWITCHER, 1 << 32, 0x20000)
    near = [SWITCHER + 0x1000 * index for index in range(8)]
    probes = sorted({*near, *pages, 0xFFFFF000})
    code = tiny.hypercall(4, 0x200000) + b"".join(read(page) + write(page + 0x20, 0) for page in probes)
    run = Run(machine, code, prepare)
    readable = {SWITCHER, run.pair, run.pair + 0x1000}
    writable = {run.pair}
    expected = []
    for page in probes:
        if page not in readable:
            expected.append((page, 0, False))
        if page not in writable:
            expected.append((page + 0x20, 3 if page in readable else 2, False))
    assert run.at(*probes) == expected


def test_ring_3_sees_user_pages_and_nothing_of_the_switcher(machine: Machine, pae: bool) -> None:
    user_code, user_stack = 0x40300000, 0x40302000
    load_ds = b"\x66\xb8\x7b\x00\x8e\xd8"
    probes = (
        load_ds
        + write(user_stack - 8, 7)
        + read(TEST)
        + read(tiny.CODE_AT)
        + write(tiny.CODE_AT, 0)
        + read(SWITCHER)
        + b"".join(read(pair) + write(pair, 0) + read(pair + 0x1000) for pair in PAIRS)
        + write(TEST, 0)
        + done()
    )

    def prepare(guest: Any) -> None:
        tables = Tables(guest, pae, 0x200000)
        tables.map(user_code, 0x302000, P | US)
        tables.map(user_stack - 0x1000, 0x303000, P | RW | US)
        tables.map(TEST, 0x300000, P | US)
        guest.ram.write(0x302000, probes)

    code = tiny.hypercall(4, 0x200000) + to_ring_3(user_code, user_stack)
    run = Run(machine, code, prepare)
    assert run.at(user_stack - 0x1000) == [(user_stack - 8, 6, True)]
    assert run.at(TEST) == [(TEST, 4, True), (TEST, 7, False)]
    assert run.at(tiny.CODE_AT)[-2:] == [(tiny.CODE_AT, 5, False), (tiny.CODE_AT, 7, False)]
    there = {SWITCHER: 1, run.pair: 1, run.pair + 0x1000: 1}
    expected = [
        (SWITCHER, 4),
        *((pair + at, error) for pair in PAIRS for at, error in ((0, 4), (0, 6), (0x1000, 4))),
    ]
    assert run.at(*(address for address, _ in expected)) == [
        (address, error | there.get(address, 0), False) for address, error in expected
    ]
    assert run.guest.ram.read(0x303FF8, 4) == struct.pack("<I", 7)


def test_nx_binds_a_pae_guest(machine: Machine) -> None:
    def prepare(guest: Any) -> None:
        tables = Tables(guest, True, 0x200000)
        tables.map(TEST, 0x300000, P | RW | NX)
        tables.map(TEST + 0x1000, 0x301000, P)
        guest.ram.write(0x300000, b"\xc3")
        guest.ram.write(0x301000, b"\xc3")

    call = tiny.mov("eax", TEST + 0x1000) + b"\xff\xd0" + tiny.mov("eax", TEST) + b"\xff\xd0"
    run = Run(machine, tiny.hypercall(4, 0x200000) + call, prepare)
    assert run.at(TEST + 0x1000) == [(TEST + 0x1000, 16, True)]
    assert run.at(TEST) == [(TEST, 16, False)]
