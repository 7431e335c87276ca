"""The suite `switch` as data: what it says of a world switch is what the Switchers' own bytes say."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmhost._native import lib
from kvmhost.bench import rig
from kvmhost.bench.errors import WorkerBroke
from kvmhost.bench.suites.switch import BENCHMARKS, BODIES, PARTS, TRIPS
from kvmhost.switcher import load

HARDENED = load("hardened")
#: The parts that have hardened.S's own bytes: from this boundary up to that one.  The others name a place of
#: the rig's, or are the stub's and the Host's.
SAME_BYTES = {
    "save_host": ("E00", "E07"),
    "load_idt": ("E07", "E08"),
    "load_gdt": ("E08", "E09"),
    "load_cr3": ("E13", "E14"),
    "pop_registers": ("E14", "E21"),
    "pop_segments": ("E21", "E26"),
    "iret_out": ("E26", "R00"),
    "push_frame": ("R02", "R13"),
    "find_pair": ("R13", "R19"),
    "load_host_cr3": ("R19", "R20"),
    "load_host_gdt": ("R20", "R22"),
    "load_host_idt": ("R22", "R23"),
    "load_host_tr": ("R23", "R26"),
    "restore_host": ("R26", "R31"),
}


def boundaries() -> dict[str, int]:
    """Those that a trap passes on its way out and home, by their numbers."""
    return {
        name[:3]: at
        for name, at in HARDENED.symbols.items()
        if name[0] in "ER" and name[1:3].isdigit() and not name.endswith("_deliver")
    }


def body(name: str) -> bytes:
    """The bytes of a body."""
    text, at = rig.ring0()
    start = at[f"body_{name}"]
    end = min(place for symbol, place in at.items() if place > start and symbol.startswith(("body_", "end_")))
    return text[start - at["rig_text"] : end - at["rig_text"]]


def test_every_benchmark_is_told_and_can_be_done() -> None:
    names = [benchmark.name for benchmark in BENCHMARKS]
    assert len(set(names)) == len(names)
    assert {*BODIES, *TRIPS} == set(names)
    assert all(f"body_{each.name}" in rig.ring0()[1] for each in BODIES.values())
    assert len({benchmark.says for benchmark in BENCHMARKS}) == len(names)
    for benchmark in BENCHMARKS:
        assert len(benchmark.says) > 50
        assert {*benchmark.minus, benchmark.reference} - {""} <= set(names)
        assert benchmark.overhead or benchmark.minus


def test_the_parts_together_are_one_switch() -> None:
    """PUSHF and the far call, the trapping instruction, PUSH and JMP of its stub, and all of hardened.S."""
    assert sum(count for _, _, count, _ in PARTS) == 2 + 1 + 2 + len(boundaries())
    assert len(boundaries()) == 59


@pytest.mark.parametrize("name", SAME_BYTES)
def test_a_part_is_made_of_the_switchers_own_bytes(name: str) -> None:
    first, behind = SAME_BYTES[name]
    at = boundaries()
    instructions = next(count for _, part, count, _ in PARTS if part == name)
    between = [label for label in at if at[first] <= at[label] < at.get(behind, at[first] + 1)]
    lines = HARDENED.text[at[first] : at[behind]] if behind != "R00" else b"\xcf"  # IRET
    assert len(between) == instructions
    assert lines in body(name)


def test_the_rig_lies_where_nothing_else_is() -> None:
    _, at = rig.ring0()
    cpus_end = lib.HOST_AREA_BASE + lib.CPU_AREA_OFFSET + lib.MAX_CPUS * lib.CPU_AREA_SIZE
    assert cpus_end <= at["rig_text"] < at["rig_data"] < at["rig_end"] <= at["rig_pages"]
    assert at["rig_pages_end"] <= lib.HOST_AREA_BASE + lib.HOST_AREA_SIZE
    assert at["rig_pages_end"] - at["rig_pages"] == 64 * lib.PAGE_BYTES
    assert lib.GUEST_AREA_LIMIT <= at["rig_user"] < lib.SWITCHER_BASE
    used = {lib.LGUEST_CS, lib.LGUEST_DS, lib.HOST_CS, lib.HOST_DS, lib.TSS_SELECTOR, lib.USER_CS & ~7}
    own = {at["ring1_cs"] & ~7, at["ring1_ds"] & ~7, at["task_selector"]}
    assert len(own) == 3
    assert not own & used
    assert max(own) < 8 * lib.GDT_ENTRIES


def test_an_installation_without_the_text_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig, "__file__", str(tmp_path / "bench" / "rig.py"))
    with pytest.raises(WorkerBroke, match="ring-0 text cannot be read") as caught:
        rig.ring0.__wrapped__()
    assert "ring0.json" in caught.value.cause
    assert caught.value.next_step
