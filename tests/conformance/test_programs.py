"""Programs and their controls: what rows name is there, and a control says something else than its row."""

from __future__ import annotations

import mmap
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from kvmhost.conformance import expand, row
from kvmhost.conformance.errors import RowError
from kvmhost.conformance.runners import kvm_worker, programs
from kvmhost.conformance.runners.programs import defects, gates, reach, trips
from kvmhost.host import segments
from kvmhost.host.host_area import SWITCHER_TEXT_AT

ROWS = [each for each in row.catalogue() if each.program]
HEAD = """
schema = 1
id = "SEC-028"
title = "t"
kind = "P"
core = true
layers = ["L3-seed", "L3-hardened"]
sources = [{ publication = "p", revision = "r", section = "s" }]
program = "sec-028"
[parameters]
seed = "here"
count = 3
stress = { count = 300 }
[expect]
values = { a = 1, b = 2 }
[deviation.AN]
dev = "DV-10"
expect = { values = { a = 5 } }
[deviation.TCG]
dev = "DV-10"
expect = { values = { b = 5 } }
"""
CONTROL = """
[[control]]
name = "broken"
plants = "machine-check"
values = { b = 3 }
"""


def written(tmp_path: Path, text: str) -> row.Row:
    path = tmp_path / "SEC-028.toml"
    path.write_text(text)
    return row.load(path)


@pytest.mark.parametrize("each", ROWS, ids=lambda each: each.id)
def test_a_rows_program_is_there(each: row.Row) -> None:
    if each.program in trips.HERE:
        return
    module = import_module(f"{programs.__name__}.{programs.PLACES[each.program]}")
    assert callable(getattr(module, each.program.replace("-", "_")))


def test_every_defect_has_a_row_that_must_see_it() -> None:
    assert {control["plants"] for each in ROWS for control in each.controls} == set(defects.DEFECTS)


@pytest.mark.parametrize("name", defects.DEFECTS)
def test_a_defect_changes_the_host_while_it_is_planted_and_no_longer(name: str) -> None:
    swaps = [(owner, attribute) for owner, attribute, _ in defects.DEFECTS[name]()]
    before = [getattr(owner, attribute) for owner, attribute in swaps]
    with defects.planted(name):
        assert all(
            getattr(owner, attribute) is not old
            for (owner, attribute), old in zip(swaps, before, strict=True)
        )
    assert [getattr(owner, attribute) for owner, attribute in swaps] == before


def test_what_a_good_host_found_out_is_forgotten_when_a_defect_is_planted() -> None:
    with defects.planted("machine-check"):
        assert segments.live_gate.cache_info().currsize == 0


def test_a_control_is_a_case_that_must_break(tmp_path: Path) -> None:
    seed, hardened, control = expand.expand(written(tmp_path, HEAD + CONTROL))
    assert [case.layer for case in (seed, hardened, control)] == ["L3-seed", "L3-hardened", "L3-hardened"]
    assert [case.kind for case in (seed, hardened, control)] == ["P", "P", "N"]
    assert seed.parameters == {"seed": "here", "count": 3, "switcher": "L3-seed", "planted": ""}
    assert control.parameters["planted"] == "machine-check"
    assert (seed.expect.values, control.expect.values) == ({"a": 1, "b": 2}, {"a": 1, "b": 3})
    # What TCG deviates in cannot be seen any more.
    assert set(seed.deviations) == {"AN", "TCG"} and set(control.deviations) == {"AN"}
    known = control.deviations["AN"].expect
    assert known is not None and known.values == {"a": 5, "b": 3}


def test_the_seed_and_the_amount_are_those_of_the_run(tmp_path: Path) -> None:
    found = written(tmp_path, HEAD + CONTROL)
    case, _, control = expand.expand(found, seed=7, stress=True)
    assert case.parameters == {"seed": "here/7", "count": 300, "switcher": "L3-seed", "planted": ""}
    assert (control.parameters["seed"], control.parameters["count"]) == ("here/7", 3)
    assert expand.expand(found)[0].parameters["seed"] == "here"


@pytest.mark.parametrize(
    ("old", "new", "key", "allowed"),
    [
        ("b = 3", "b = 2", "control[0].values", "not as there"),
        ("b = 3", "c = 3", "control[0].values", "not as there"),
        ("{ b = 3 }", "{}", "control[0].values", "not as there"),
        ('"broken"', '"sec-028"', "control[0].name", "no other case"),
        ('"machine-check"', '"Machine"', "control[0].plants", "the name of a defect"),
        ("plants", "plant", "control[0].plant", "name, plants, values"),
    ],
)
def test_a_control_that_shows_nothing_is_refused(
    tmp_path: Path, old: str, new: str, key: str, allowed: str
) -> None:
    with pytest.raises(RowError) as caught:
        written(tmp_path, HEAD + CONTROL.replace(old, new))
    assert caught.value.key == key
    assert allowed in caught.value.allowed


def test_gates_are_read_bit_by_bit() -> None:
    gate = gates.Gate.of(0x00611234, 0xC010EF00)
    assert gate == gates.Gate(0xC0101234, 0x61, 15, 3)


class Memory:
    """VM memory of which only some pages hold anything."""

    def __init__(self, **pages: dict[int, int]) -> None:
        self.pages = {int(name[1:], 16): entries for name, entries in pages.items()}

    def read(self, at: int, length: int) -> bytes:
        entries = self.pages.get(at, {})
        return b"".join(entries.get(n, 0).to_bytes(8, "little") for n in range(length // 8))


def test_the_walk_notes_whose_frames_can_be_reached_and_how() -> None:
    """Rights are those of all levels together; an entry that is not present leads nowhere."""
    memory = Memory(
        x1000={0: 0x2001},
        x2000={0: 0x3003, 1: 0x600083, 2: 0x4007},
        x3000={0: SWITCHER_TEXT_AT | 7, 1: 0x7002},
        x4000={0: 1 << 63 | 0x800007},
    )
    walker: Any = object.__new__(reach.Walker)
    owned = {"text": range(SWITCHER_TEXT_AT, SWITCHER_TEXT_AT + 4096), "its": range(0x600000, 0x800000)}
    walker.memory, walker.owned, walker.known, walker.roots, walker.walks = memory, owned, {}, {0x1000}, 0
    walker.found = reach.defaultdict(set)
    walker.mailbox = walker.guest = type("None", (), {"root": 0, "tables": type("None", (), {"root": 0})})
    walker.walk()
    assert walker.rights() == {"text": "rwx", "its": "rwx", "somebody-elses": "rwu"}
    memory.pages[0x4000][1] = 0x600007
    walker.walk()
    assert walker.rights()["its"] == "rwxu"


def test_a_worker_says_that_a_program_is_at_work_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kvm_worker, "BEAT_SECONDS", 0)
    monkeypatch.setattr(kvm_worker, "BEATS", 3)
    others = set(threading.enumerate())
    with kvm_worker.alive():
        for teller in set(threading.enumerate()) - others:
            teller.join()
    assert capsys.readouterr().out.splitlines() == ['{"alive": true}'] * 3
    before = threading.active_count()
    monkeypatch.setattr(kvm_worker, "BEAT_SECONDS", 3600)
    with kvm_worker.alive():
        assert threading.active_count() == before + 1
    assert (threading.active_count(), capsys.readouterr().out) == (before, "")


def test_a_snapshot_leaves_nothing_behind_to_go_on_in() -> None:
    """All that is in use is in the new memory, and gone from the old."""
    player: Any = object.__new__(kvm_worker.Player)
    end = int(kvm_worker.lib.CONFORM_BATCH) + 100
    player.order = {"pieces": [[kvm_worker.USED[0][0], 8], [end - 100, 100], [kvm_worker.CURRENT, 4]]}
    player.memory, player.spare = mmap.mmap(-1, end + 4096), None
    marks = [begin for begin, _ in kvm_worker.USED] + [last - 1 for _, last in kvm_worker.USED] + [end - 1]
    for count in range(2):
        for mark in marks:
            player.memory[mark] = 7 + count
        old = player.memory
        player._move()
        assert player.memory is not old
        assert [player.memory[mark] for mark in marks] == [7 + count] * len(marks)
        assert {old[mark] for mark in marks} == {kvm_worker.SPOILED[0]}
