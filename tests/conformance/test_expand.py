"""Rows become numbers: symbols are resolved, overrides are laid over, and errors have a place."""

from pathlib import Path

import pytest

from kvmhost.conformance import expand, row, stage
from kvmhost.conformance.case import NO_ERROR, Case
from kvmhost.conformance.errors import RowError
from kvmhost.conformance.reference import image

HEAD = """
schema = 1
id = "SEN-010"
title = "t"
kind = "P"
core = true
layers = ["L1"]
requires = ["sse"]
sources = [{ publication = "p", revision = "r", section = "s" }]
"""
CASE = """
[[case]]
name = "one"
start = "ring1"
requires = ["nx"]
code = [{ at = "G_CODE+4", listing = "nop\\nfault: hlt", hex = "90f4", labels = { fault = 1 } }]
gdt = [{ selector = "D22", type = "call32", target = "LCS", offset = "X1", dpl = 3 }]
memory = [{ at = "X0", u32 = [1, "X1|3"] }, { at = "X2", fill = 0xCC, size = 3 }]
[case.cpu]
ebx = "D22|1"
cr4_set = ["UMIP"]
cr0_clear = ["WP"]
efer_set = ["NXE"]
msr = { SYSENTER_CS = 8 }
dr7 = 1
[case.expect]
trap = { vector = 13, error = 0, eip = "fault", eflags = 0x10202 }
kept = true
regs = { eax = 5, ecx = 0, ecx_mask = 0 }
cr = { cr2 = "X0", dr6 = 1, dr6_mask = 15 }
memory = [{ at = "X0", u32 = [1], mask = 0xFF }]
changed = ["X0"]
[[case.any_of]]
reason = "r"
expect = { trap = { vector = 6, error = "none" } }
[case.deviation.TCG]
dev = "DV-02"
expect = { trap = { eflags = 0x202 } }
[case.deviation.BX]
dev = "DV-05"
demonstrable = false
"""


def expanded(tmp_path: Path, text: str) -> list[Case]:
    path = tmp_path / "SEN-010.toml"
    path.write_text(HEAD + text)
    return expand.expand(row.load(path))


def test_a_case_is_all_numbers(tmp_path: Path) -> None:
    (case,) = expanded(tmp_path, CASE)
    symbols = stage.Stage.of("L1").symbols
    assert case.cpu is not None and case.expect.trap is not None
    assert case.id == "SEN-010/one@L1"
    assert case.requires == {"sse", "nx"}
    assert (case.cpu.ebx, case.cpu.cr4, case.cpu.cr0) == (22 * 8 | 1, 1 << 11, stage.CR0 & ~(1 << 16))
    assert case.cpu.msrs == ((0x174, 8), (0xC0000080, 0x800))
    assert case.cpu.dr == ((7, 1),)
    assert case.expect.trap.eip == symbols["G_CODE"] + 5
    assert case.expect.regs["eax"].value == 5
    assert case.expect.regs["ecx"].mask == 0
    assert case.expect.regs["ebx"].value == 22 * 8 | 1
    assert "esp" not in case.expect.regs
    assert case.expect.dr["dr6"].mask == 15
    assert case.expect.changed == {stage.page_number(symbols["X0"])}
    assert (case.expect.memory[0].data, case.expect.memory[0].mask) == (b"\1\0\0\0", b"\xff\0\0\0")


def test_bytes_lie_where_the_row_says(tmp_path: Path) -> None:
    (case,) = expanded(tmp_path, CASE)
    laid = {patch.address + place: byte for patch in case.patches for place, byte in enumerate(patch.data)}
    symbols = stage.Stage.of("L1").symbols

    def at(name: str, offset: int, size: int) -> bytes:
        return bytes(laid.get(symbols[name] + offset + place, 0) for place in range(size))

    assert at("G_CODE", 4, 2) == b"\x90\xf4"
    assert at("X0", 0, 8) == (1).to_bytes(4, "little") + (symbols["X1"] | 3).to_bytes(4, "little")
    assert at("X2", 0, 4) == b"\xcc\xcc\xcc\0"
    # A call gate: offset 15:0, selector, count, type and DPL, offset 31:16.
    low = (symbols["X1"] & 0xFFFF).to_bytes(2, "little") + (0x50).to_bytes(2, "little")
    assert at("HOST_GDT", 22 * 8, 8) == low + b"\x00\xec" + (symbols["X1"] >> 16).to_bytes(2, "little")


def test_a_frame_that_is_kept_is_that_of_the_start_but_for_what_the_row_says(tmp_path: Path) -> None:
    told = """
[[case]]
name = "trip"
start = "trip"
layers = ["L2-seed"]
frame = { fs = "UDS" }
[case.expect]
trap = { vector = 0x2F }
frame_kept = true
frame = { trapnum = 13, eax = 5, edx = 0, edx_mask = 0 }
"""
    path = tmp_path / "SEN-010.toml"
    path.write_text(HEAD.replace('["L1"]', '["L2-seed"]') + told)
    (case,) = expand.expand(row.load(path), {"L2-seed": image("seed")})
    found = {one.what: (int.from_bytes(one.data, "little"), one.mask) for one in case.expect.memory}
    every, low = b"\xff\xff\xff\xff", b"\xff\xff\0\0"
    assert found == {
        "regs.trapnum": (13, every),
        "regs.eax": (5, every),
        "regs.edx": (0, b"\0\0\0\0"),
        **{f"regs.{name}": (stage.DEFAULT_GPRS[name], every) for name in ("ebx", "ecx", "esi", "edi", "ebp")},
        "regs.esp": (stage.ADDRESS["G_STACK"] + 4096, every),
        **{f"regs.{name}": (stage.GDS["pair"], low) for name in ("ss", "ds", "es")},
        "regs.cs": (stage.GCS["pair"], low),
        "regs.fs": (stage.UDS, low),
        "regs.gs": (0, low),
    }


def test_overrides_are_laid_over_what_is_expected(tmp_path: Path) -> None:
    (case,) = expanded(tmp_path, CASE)
    (other,) = case.any_of
    assert other.expect.trap is not None and case.expect.trap is not None
    assert (other.expect.trap.vector, other.expect.trap.error) == (6, NO_ERROR)
    assert other.expect.trap.eip == case.expect.trap.eip
    assert other.expect.regs == case.expect.regs
    tcg = case.deviations["TCG"].expect
    assert tcg is not None and tcg.trap is not None and tcg.trap.eflags == 0x202
    assert case.deviations["BX"].expect is None


def test_an_expectation_that_ends_in_another_way_stands_alone(tmp_path: Path) -> None:
    told = CASE.replace("expect = { trap = { eflags = 0x202 } }", 'expect = { outcome = "shutdown" }')
    (case,) = expanded(tmp_path, told)
    other = case.deviations["TCG"].expect
    assert other is not None
    assert (other.outcome, other.trap, other.changed) == ("shutdown", None, None)
    assert case.expect.trap is not None


@pytest.mark.parametrize(
    ("old", "new", "key", "problem"),
    [
        ('"X1|3"', '"X77|3"', "memory.u32", "no symbol X77"),
        ('eip = "fault"', 'eip = "faults"', "trap.eip", "no symbol faults"),
        ('at = "G_CODE+4"', "at = 4", "scene", "not in the arena"),
        ('selector = "D22"', "selector = 0x800", "scene", "descriptors 1 to 31"),
        (', u32 = [1, "X1|3"]', "", "memory", "nothing to put at X0"),
        ('changed = ["X0"]', "changed = [0]", "expect.changed", "not in the arena"),
    ],
)
def test_what_cannot_be_resolved_is_told(tmp_path: Path, old: str, new: str, key: str, problem: str) -> None:
    assert old in CASE
    with pytest.raises(RowError, match=problem) as caught:
        expanded(tmp_path, CASE.replace(old, new))
    assert caught.value.key.startswith("case 'one'") and caught.value.key.endswith(key)


def test_a_family_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(RowError, match="family: 'nobody'"):
        expanded(tmp_path, 'family = "nobody"')


def test_a_row_that_is_not_written_has_no_case(tmp_path: Path) -> None:
    assert expanded(tmp_path, 'waits_for = "an engine"') == []


def test_the_whole_catalogue_expands_and_every_case_has_its_own_name() -> None:
    seen: set[str] = set()
    for each in row.catalogue():
        cases = expand.expand(each)
        assert not seen & {case.id for case in cases}
        seen |= {case.id for case in cases}
        on_one_layer = not each.family and set(each.layers) == {"L1"} and not each.program
        assert len(cases) == len(each.cases) or not on_one_layer
    assert len(seen) > 600
