"""The model against worked examples: each is a sentence or a figure of the manual, with numbers by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvmhost.conformance.case import Case, Observation
from kvmhost.conformance.expand import expand
from kvmhost.conformance.model import paging
from kvmhost.conformance.model.faults import DF, GP, NP, PF, SS, TS, UD, Fault, Unknown, second
from kvmhost.conformance.model.machine import Machine
from kvmhost.conformance.model.paging import Access, Mode, translate
from kvmhost.conformance.model.play import play
from kvmhost.conformance.model.segments import check_data, check_stack, decode
from kvmhost.conformance.results import Status
from kvmhost.conformance.row import catalogue, find
from kvmhost.conformance.runners import make
from kvmhost.conformance.scene import Scene
from kvmhost.conformance.stage import ADDRESS, Stage
from kvmhost.conformance.switchers import under_test
from kvmhost.conformance.verdict import compare

# Descriptors as an assembler would write them: flat code and data of each ring, and special ones.
FLAT_CODE_0, FLAT_DATA_0, FLAT_DATA_3 = "ffff0000009bcf00", "ffff00000093cf00", "ffff000000f3cf00"
CONFORMING_0, EXECUTE_ONLY_3, ABSENT_DATA_3 = "ffff0000009fcf00", "ffff000000f9cf00", "ffff00000073cf00"


@pytest.mark.parametrize(
    ("raw", "base", "limit", "dpl"),
    [
        (FLAT_CODE_0, 0, 0xFFFFFFFF, 0),
        ("3412cdab89930f67", 0x6789ABCD, 0xF1234, 0),
        ("01007856340080 12".replace(" ", ""), 0x12345678, 0x1FFF, 0),
    ],
)
def test_base_and_limit_lie_in_pieces(raw: str, base: int, limit: int, dpl: int) -> None:
    found = decode(bytes.fromhex(raw))
    assert (found.base, found.limit, found.dpl) == (base, limit, dpl)


@pytest.mark.parametrize(
    ("raw", "selector", "cpl", "fault"),
    [
        (FLAT_DATA_3, 0x7B, 3, None),
        (FLAT_DATA_3, 0x78, 0, None),
        (FLAT_DATA_0, 0x58, 1, (GP, 0x58)),
        (FLAT_DATA_0, 0x5B, 0, (GP, 0x58)),  # the RPL counts too
        (CONFORMING_0, 0x5B, 3, None),  # but not for conforming code
        (EXECUTE_ONLY_3, 0x7B, 3, (GP, 0x78)),
        (ABSENT_DATA_3, 0x7B, 3, (NP, 0x78)),
    ],
)
def test_what_a_data_segment_register_takes(
    raw: str, selector: int, cpl: int, fault: tuple[int, int] | None
) -> None:
    assert outcome(lambda: check_data(selector, decode(bytes.fromhex(raw)), cpl)) == fault


@pytest.mark.parametrize(
    ("raw", "selector", "cpl", "fault"),
    [
        (FLAT_DATA_3, 0x7B, 3, None),
        (FLAT_DATA_3, 0x78, 3, (GP, 0x78)),
        (FLAT_DATA_3, 0x7B, 1, (GP, 0x78)),
        (FLAT_CODE_0, 0x50, 0, (GP, 0x50)),
        (ABSENT_DATA_3, 0x7B, 3, (SS, 0x78)),
    ],
)
def test_what_ss_takes(raw: str, selector: int, cpl: int, fault: tuple[int, int] | None) -> None:
    assert outcome(lambda: check_stack(selector, decode(bytes.fromhex(raw)), cpl)) == fault


def outcome(run: object) -> tuple[int, int | None] | None:
    try:
        run()  # type: ignore[operator]
    except Fault as fault:
        return fault.vector, fault.error
    return None


def test_limits_of_segments_that_grow_up_and_down() -> None:
    up, down = decode(bytes.fromhex("ff0f000000930000")), decode(bytes.fromhex("ff0f000000974000"))
    assert up.holds(0xFFC, 4) and not up.holds(0xFFD, 4)
    assert down.holds(0x1000, 1) and not down.holds(0xFFF, 1) and down.holds(0xFFFFFFFC, 4)


class Ram:
    """Physical memory of any place."""

    def __init__(self, **words: int) -> None:
        self.bytes: dict[int, int] = {}
        for name, value in words.items():
            self.physical_write(int(name[1:], 16), 8 if value >> 32 else 4, value)

    def physical_read(self, address: int, size: int) -> int:
        return sum(self.bytes.get(address + place, 0) << 8 * place for place in range(size))

    def physical_write(self, address: int, size: int, value: int) -> None:
        self.bytes.update({address + place: value >> 8 * place & 0xFF for place in range(size)})


LEGACY = Mode(0x1000, pae=False, pse=True, write_protect=True, no_execute=False, smep=False, smap=False)


def test_a_walk_of_two_levels_sets_what_it_used() -> None:
    # Linear 0x00403123: directory entry 1, table entry 3, offset 0x123.
    ram = Ram(x1004=0x2007, x200C=0x9007)
    assert translate(ram, LEGACY, 0x00403123, Access()) == 0x9123
    assert (ram.physical_read(0x1004, 4), ram.physical_read(0x200C, 4)) == (0x2027, 0x9027)
    translate(ram, LEGACY, 0x00403123, Access(write=True))
    assert (ram.physical_read(0x1004, 4), ram.physical_read(0x200C, 4)) == (0x2027, 0x9067)


def test_a_page_of_4_mb_and_its_high_bits() -> None:
    ram = Ram(x1004=0x00C02087)  # bits 20:13 are bits 39:32 of the address
    assert translate(ram, LEGACY, 0x00412345, Access()) == 0x1_00C12345
    assert reserved_fault(Ram(x1004=0x00E00087), LEGACY, 0x00400000) == 9  # bit 21 is reserved


def test_a_walk_of_three_levels() -> None:
    # Linear 0xC0201008: PDPTE 3, PDE 1, PTE 1.
    pae = Mode(0x1000, pae=True, pse=False, write_protect=True, no_execute=True, smep=False, smap=False)
    ram = Ram(x1018=0x2001, x2008=0x3007, x3008=0x80000000_00009007)
    assert translate(ram, pae, 0xC0201008, Access()) == 0x9008
    assert ram.physical_read(0x1018, 4) == 0x2001  # a PDPTE has no accessed bit
    assert reserved_fault(ram, pae, 0xC0201008, fetch=True) == 0x11
    without = Mode(0x1000, pae=True, pse=False, write_protect=True, no_execute=False, smep=False, smap=False)
    assert reserved_fault(ram, without, 0xC0201008) == 9


def reserved_fault(ram: Ram, mode: Mode, linear: int, **access: bool) -> int | None:
    with pytest.raises(Fault) as caught:
        translate(ram, mode, linear, Access(**access))
    assert caught.value.vector == PF and caught.value.cr2 == linear
    return caught.value.error


@pytest.mark.parametrize(
    ("pde", "pte", "access", "error"),
    [
        (0, 0, {}, 0),
        (0x2007, 0, {"write": True}, 2),
        (0x2007, 0, {"user": True}, 4),
        (0x2007, 0x9005, {"write": True}, 3),
        (0x2007, 0x9005, {"write": True, "user": True}, 7),
        (0x2003, 0x9007, {"user": True}, 5),  # the directory's rights count too
        (0x2005, 0x9007, {"write": True, "user": True}, 7),
        (0x2007, 0x9003, {"user": True, "fetch": True}, 5),  # no I/D bit without NXE or SMEP
    ],
)
def test_the_error_code_tells_of_the_access(pde: int, pte: int, access: dict[str, bool], error: int) -> None:
    assert reserved_fault(Ram(x1004=pde, x200C=pte), LEGACY, 0x00403000, **access) == error


def test_write_protect_smep_and_smap() -> None:
    ram = Ram(x1004=0x2007, x200C=0x9005)
    free = Mode(0x1000, pae=False, pse=False, write_protect=False, no_execute=False, smep=True, smap=True)
    assert translate(ram, free, 0x00403000, Access(write=True, ac=True)) == 0x9000
    assert reserved_fault(ram, free, 0x00403000) == 1
    assert reserved_fault(ram, free, 0x00403000, fetch=True) == 0x11


def test_pdptes_with_reserved_bits_cannot_be_loaded() -> None:
    paging.check_pdptes(Ram(x1000=0x2001), 0x1000)
    assert outcome(lambda: paging.check_pdptes(Ram(x1000=0x2003), 0x1000)) == (GP, 0)


@pytest.mark.parametrize(
    ("first", "then", "becomes"),
    [(GP, TS, DF), (GP, PF, PF), (PF, GP, DF), (PF, PF, DF), (UD, PF, PF), (PF, UD, UD), (DF, PF, None)],
)
def test_the_table_of_double_faults(first: int, then: int, becomes: int | None) -> None:
    assert second(first, then) == becomes


def played(code: str, start: str = "ring1", **gate: object) -> Observation:
    """A few bytes at a start; `gate` changes gate 0x21."""
    stage = Stage.of("L1")
    scene, cpu = Scene(stage), stage.cpu(start)  # type: ignore[arg-type]
    scene.write(cpu.eip, bytes.fromhex(code))
    if gate:
        scene.gate(0x21, **gate)  # type: ignore[arg-type]
    return play(Case("R", "c", "L1", "P", stage.template, cpu, patches=scene.patches()))


def test_a_trap_to_an_inner_ring_pushes_six_words() -> None:
    found = played("cd2f")
    assert found.trap is not None and found.outcome == "trap"
    eip = ADDRESS["G_CODE"]
    assert found.stack[:6] == (0x2F, eip + 2, 0xA1, 0x202, ADDRESS["G_STACK"] + 4096, 0xA9)
    assert found.regs["esp"] == ADDRESS["G_STACK"] + 4096 and found.regs["handler_eflags"] == 2


def test_a_trap_in_the_same_ring_pushes_three() -> None:
    found = played("cd2f", "ring0")
    assert found.stack[:4] == (0x2F, ADDRESS["HOST_CODE"] + 2, 0x60, 2)
    assert found.regs["esp"] == ADDRESS["HOST_STACK"] + 4096


@pytest.mark.parametrize(
    ("code", "gate", "vector", "error", "rf"),
    [
        ("cd21", {"dpl": 0}, GP, 0x21 * 8 + 2, True),
        ("cd21", {"dpl": 3, "p": 0}, NP, 0x21 * 8 + 2, True),
        ("cd21", {"dpl": 3, "selector": 0}, GP, 0, True),
        ("cd21", {"dpl": 3, "selector": 0xF8}, NP, 0xF8, True),
        ("0f0b", {}, UD, -1, True),
        ("fa", {}, GP, 0, True),
        ("f4", {}, GP, 0, True),
        ("0f20c0", {}, GP, 0, True),
        ("8ed0", {}, GP, 0xA0A0, True),
        ("cd2f", {}, 0x2F, -1, False),
    ],
)
def test_what_comes_of_an_instruction_at_ring_1(
    code: str, gate: dict[str, object], vector: int, error: int, rf: bool
) -> None:
    found = played(code, **gate).trap
    assert found is not None
    if gate.get("selector") == 0xF8:  # an empty descriptor is no code segment
        vector = GP
    assert (found.vector, found.error) == (vector, error) and bool(found.eflags & 0x10000) == rf
    assert found.eip == ADDRESS["G_CODE"] + (0 if rf else 2)


def test_popf_at_ring_1_keeps_if_and_iopl() -> None:
    found = played("6800300000 9d cd2f".replace(" ", ""))  # push 0x3000; popf: IOPL 3, IF 0
    assert found.trap is not None and found.trap.eflags == 0x202


def test_iret_to_an_outer_ring_forgets_the_inner_segments() -> None:
    stack = ADDRESS["U_STACK"] + 0x800
    esp, eip = (value.to_bytes(4, "little").hex() for value in (stack, ADDRESS["U_CODE"]))
    code = f"6a7b 68{esp} 6802020000 6a73 68{eip} cf"
    stage = Stage.of("L1")
    scene, cpu = Scene(stage), stage.cpu("ring0")
    scene.write(cpu.eip, bytes.fromhex(code))
    scene.write(ADDRESS["U_CODE"], bytes.fromhex("cd2f"))
    found = play(Case("R", "c", "L1", "P", stage.template, cpu, patches=scene.patches()))
    assert found.trap is not None
    assert (found.trap.cs, found.trap.ss, found.trap.esp) == (0x73, 0x7B, stack)
    assert (found.segs["ds"], found.segs["es"]) == (0, 0)


def test_a_machine_that_cannot_be_built_says_so() -> None:
    stage = Stage.of("L1")
    cpu = replace(stage.cpu("ring0"), ds=0xF8)
    found = play(Case("R", "c", "L1", "P", stage.template, cpu))
    assert found.outcome == "setup" and "vector 13, error 248" in found.detail


@pytest.mark.parametrize(
    ("code", "eax", "flags"),
    [
        ("b8ffffffff 83c001", 0, 0x55),  # CF PF AF ZF
        ("b800000080 83e801", 0x7FFFFFFF, 0x814),  # OF AF PF
        ("b80f000000 83c001", 0x10, 0x10),
        ("b8f0000000 250f000000", 0, 0x44),
        ("b801000000 c1e01f", 0x80000000, 0x84),
        ("b805000000 83f806", 5, 0x95),  # CMP keeps EAX: CF PF AF SF
        ("31c0 7402 0f0b 40", 1, 0),
        ("31c0 7502 7400 48", 0xFFFFFFFF, 0x94),
    ],
)
def test_arithmetic_and_its_flags(code: str, eax: int, flags: int) -> None:
    found = played(code.replace(" ", "") + "cd2f")
    assert found.trap is not None and found.trap.vector == 0x2F
    assert (found.regs["eax"], found.trap.eflags & 0x8D5) == (eax, flags)


def test_a_fetch_that_faults_says_which_byte() -> None:
    found = played("ea 10000080 a100".replace(" ", ""))
    assert found.trap is not None and (found.trap.vector, found.trap.error) == (PF, 0)
    assert found.cr["cr2"] == found.trap.eip == 0x80000010


def test_a_whole_round_trip_through_a_switcher() -> None:
    cases = [case for case in expand(find("SW-RET-001"), under_test()) if not case.external]
    assert {case.layer for case in cases} == {"L2-seed", "L2-hardened", "L3-seed", "L3-hardened"}
    with make("model") as runner:
        for case in cases:
            assert runner.unmet(case) == ""
            assert compare(case, play(case), runner.environment).status is Status.PASS


@pytest.mark.parametrize("code", ["0fa2", "d9e8", "f00fb10b"])
def test_what_it_has_no_rule_for_is_no_opinion(code: str) -> None:
    with pytest.raises(Unknown):
        played(code)


def test_lar_and_lsl_of_an_inner_descriptor_say_no() -> None:
    (case, *_) = expand(find("SEN-010"))
    machine = Machine.of(case)
    assert machine.cpl == 1
    found = play(case)
    assert found.trap is not None and not found.trap.eflags & 0x40


def test_it_agrees_with_the_rows_wherever_it_has_an_opinion() -> None:
    """A second reading of the manuals: who changes a row or the model must look at both."""
    rows = [row for row in catalogue() if row.group in ("SEN", "R1P", "DBF", "IOP", "DIR", "SW-TSS")]
    wrong, judged = [], 0

    def heard(case: Case, seen: Observation) -> None:
        nonlocal judged
        judged += 1
        if compare(case, seen, runner.environment).status is not Status.PASS:
            wrong.append(case.id)

    with make("model") as runner:
        cases = [case for row in rows if not row.program for case in expand(row)]
        runner.run([case for case in cases if not runner.unmet(case)], heard)
    assert wrong == [] and judged > 500
