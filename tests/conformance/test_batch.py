"""How cases lie in the monitor's memory, and how its results are read."""

from dataclasses import replace

import pytest
from conformance.hand_made import case, stop

from kvmhost._native import ffi, lib
from kvmhost.conformance import stage
from kvmhost.conformance.case import NO_ERROR, Case, Event, Watch
from kvmhost.conformance.errors import MachineryBroke
from kvmhost.conformance.runners import batch
from kvmhost.conformance.runners.base import unmet

OUTER = (0x416000, 0xA1, 0x10202, 0x419000, 0xA9)


def test_the_header_and_the_stage_say_the_same_of_the_arena() -> None:
    """They are written apart from each other: the stage judges, the header serves."""
    assert lib.CONFORM_ARENA == stage.ARENA and len(stage.PAGES) == lib.CONFORM_ARENA_PAGES
    assert stage.ADDRESS["COLLECT2"] == lib.CONFORM_COLLECT and stage.ADDRESS["SAVE"] == lib.CONFORM_SAVE
    assert (stage.HCS, stage.HDS, stage.TSEL) == (lib.CONFORM_CS, lib.CONFORM_DS, lib.CONFORM_TSS)
    assert batch.monitor().symbols["collect"] == stage.ADDRESS["COLLECT2"]
    assert batch.monitor().symbols["monitor_start"] == lib.CONFORM_TEXT
    assert len(batch.monitor().rom) == 0x10000


@pytest.mark.parametrize(
    ("stack", "error", "eip", "esp"),
    [
        ((13, 0x6A, *OUTER, 0), 0x6A, OUTER[0], OUTER[3]),
        ((47, *OUTER, 0, 0), NO_ERROR, OUTER[0], OUTER[3]),
        ((13, *OUTER, 0, 0), NO_ERROR, OUTER[0], OUTER[3]),
        ((14, 3, 0x40D000, 0x60, 0x10002, 0, 0, 0), 3, 0x40D000, 0x1014),
        ((8, 0x40D002, 0x60, 0x2, 0, 0, 0, 0), NO_ERROR, 0x40D002, 0x1010),
        ((13, 0, 0x10, 0xC3, 0x202, 0x41D000, 0xBB, 0), 0, 0x10, 0x41D000),
        ((6, 0x40D002, 0x60, 0x2), NO_ERROR, 0x40D002, 0x1010),
    ],
    ids=[
        *("fault from ring 1", "int n from ring 1", "int 13 from ring 1", "fault from ring 0"),
        *("int 8 from ring 0", "small EIP and a selector like flags", "a frame that ends its page"),
    ],
)
def test_frames_with_and_without_an_error_code(
    stack: tuple[int, ...], error: int, eip: int, esp: int
) -> None:
    trap, before = batch.frame(stack, 0x1000)
    assert (trap.vector, trap.error, trap.eip, before) == (stack[0], error, eip, esp)
    assert (trap.ss is None) == (trap.cs & 3 == 0)


def test_selectors_in_a_frame_have_sixteen_bits() -> None:
    """What is above them need not be written (DV-11)."""
    trap, _ = batch.frame((47, 0x416000, 0xDEAD00A1, 0x202, 0x419000, 0xBEEF00A9, 0, 0), 0)
    assert (trap.cs, trap.ss) == (0xA1, 0xA9)


def test_cases_of_one_template_come_together_and_batches_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [case(str(n), "cd2f", paging="pae" if n % 2 else "legacy") for n in range(6)]
    (one,) = batch.batches(cases)
    assert [each.name for each in one.cases] == ["0", "2", "4", "1", "3", "5"]
    assert len(one.data) > 2 * stage.ARENA_SIZE
    monkeypatch.setattr(batch, "BATCH_CASES", 4)
    assert [len(each.cases) for each in batch.batches(cases)] == [4, 2]
    monkeypatch.setattr(batch, "BATCH_BYTES", stage.ARENA_SIZE + 5000)
    assert [[each.name for each in laid.cases] for laid in batch.batches(cases)] == [
        ["0", "2", "4"],
        ["1", "3", "5"],
    ]


def test_a_case_lies_in_memory_as_the_header_says() -> None:
    one = case(
        "c", "cd2f", dr=((0, 0x1234), (7, 0x401)), msrs=((0x174, 1 << 32 | 5),), watches=[Watch(0x417000, 6)]
    )
    laid = batch.build([one, stop()])
    memory = dict(laid.memory())
    data = memory[lib.CONFORM_BATCH]
    first = ffi.from_buffer("struct conform_case *", data)
    assert (first.eip, first.cs, first.eflags, first.tr) == (0x416000, 0xA1, 0x202, 0x80)
    assert (first.gdt.limit, first.gdt.base_low, first.gdt.base_high) == (0xFF, 0xA000, 0x40)
    assert (first.dr[0], first.dr6, first.dr7) == (0x1234, 0xFFFF0FF0, 0x401)
    at = first.msrs - lib.CONFORM_BATCH
    msr = ffi.from_buffer("struct conform_msr *", data[at:])
    assert (first.msr_count, msr.number, msr.low, msr.high) == (1, 0x174, 5, 1)
    at = first.patches - lib.CONFORM_BATCH
    patch = ffi.from_buffer("struct conform_patch *", data[at:])
    at = patch.data - lib.CONFORM_BATCH
    assert (patch.address, data[at : at + patch.size].hex()) == (0x416000, "cd2f")
    assert laid.results[1] > laid.result_end(0) == laid.results[0] + ffi.sizeof("struct conform_result") + 6


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({}, ""),
        ({"requires": frozenset({"pae"})}, ""),
        ({"requires": frozenset({"pae", "smap"})}, "smap"),
        ({"event": Event("nmi", at=1)}, "nmi-injection"),
        ({"event": Event("snapshot", at=1)}, "kvm"),
        ({"template": None, "program": "kvm-001"}, "kvm"),
    ],
)
def test_what_a_case_needs(change: dict[str, object], missing: str) -> None:
    assert unmet(replace(stop(), **change), frozenset({"pae"})) == missing  # type: ignore[arg-type]


def test_hidden_registers_need_a_runner_that_sees_them() -> None:
    one = stop()
    hidden = replace(one, expect=replace(one.expect, hidden={"tr": {"type": 11}}))
    assert unmet(hidden, frozenset()) == "hidden-state" and hidden.external


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (case("c", "cd2f", "ring0", eflags=0x10002), "no TF, RF or VM"),
        (case("c", "cd2f", "ring3", eflags=0x20202), "virtual-8086"),
        (case("c", "cd2f", watches=[Watch(0x427FFF, 2)]), "not in the arena"),
        (case("c", "cd2f", watches=[Watch(0x400000, 0)]), "not in the arena"),
        (Case("R", "c", "L1", "K", None, None), "it has no machine"),
    ],
)
def test_what_the_monitor_cannot_play_is_refused_before_it_starts(wrong: Case, why: str) -> None:
    with pytest.raises(MachineryBroke, match=why):
        list(batch.batches([stop(), wrong]))
