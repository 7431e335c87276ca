"""A selection that was laid out before: the same cases, the same bytes, and less where some are left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from kvmhost._native import ffi
from kvmhost.conformance import row, store
from kvmhost.conformance.case import Case, Event
from kvmhost.conformance.expand import expand
from kvmhost.conformance.row import Row, find
from kvmhost.conformance.runners import batch, compiled
from kvmhost.conformance.runners.base import unmet
from kvmhost.conformance.runners.compiled import KnownCase, Selection, batches_of
from kvmhost.conformance.switchers import under_test

ROWS = (find("SEN-010"), find("NMI-002"), find("KVM-017"), find("SW-ENT-001"), find("DBG-014"))
SWITCHERS = under_test()
MOST = 50


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiled, "WORTH_KEEPING", 1)
    return tmp_path / "kvmhost" / "conform"


def selection(drawn: str = "1", rows: Sequence[Row] = ROWS) -> Selection:
    made = Selection(rows, SWITCHERS, drawn, lambda each: expand(each, SWITCHERS))
    made.load()
    return made


def cases(made: Selection) -> list[Case]:
    return [case for each in ROWS for case in made.cases(each)]


def kept() -> tuple[list[Case], list[Case]]:
    """The cases as they are, and what stands for them the next time."""
    first = selection()
    whole = cases(first)
    first.keep(MOST)
    return whole, cases(selection())


def test_what_stands_for_a_case_has_all_that_it_has() -> None:
    whole, known = kept()
    assert len(whole) > 60 and not any(isinstance(case, KnownCase) for case in whole)
    names = [field.name for field in fields(Case)]
    properties = [name for name, value in vars(Case).items() if isinstance(value, property)]
    assert {"id", "external", "looks_inside", "meant"} <= set(properties)
    assert any(case.event and case.event.after for case in whole) and any(case.program for case in whole)
    for case, stands in zip(whole, known, strict=True):
        assert isinstance(stands, KnownCase)
        assert stands.watched() == case.watched() and unmet(stands, frozenset()) == unmet(case, frozenset())
        for name in (*names, *properties):
            assert getattr(stands, name) == getattr(case, name), (case.id, name)


def test_no_field_of_an_event_is_lost() -> None:
    """Each is set to something that is not its default, whichever there are."""
    special: dict[str, Any] = {"kind": "intr", "after": Event("nmi", steps=3), "left_out": ("tr", "cs")}
    told = {each.name: special.get(each.name, 77) for each in fields(Event)}
    event = Event(**told)
    assert all(getattr(event, each.name) != each.default for each in fields(Event))
    assert compiled._event(json.loads(json.dumps(compiled._told(event)))) == event


def test_a_run_asks_for_no_expansion() -> None:
    kept()

    def never(each: Row) -> list[Case]:
        raise AssertionError(f"{each.id} was expanded")

    again = Selection(ROWS, SWITCHERS, "1", never)
    again.load()
    known = cases(again)
    for case in known:
        assert case.id and case.kind and case.meant and isinstance(unmet(case, frozenset()), str)
    played = [case for case in known if case.program is None]
    assert sum(len(laid.cases) for laid in batches_of(played, MOST)) == len(played)
    with pytest.raises(AssertionError, match="was expanded"):
        assert known[0].patches


def test_the_batches_are_the_same() -> None:
    whole, known = kept()
    before = list(batches_of([case for case in whole if case.program is None], MOST))
    now = list(batches_of([case for case in known if case.program is None], MOST))
    assert len(before) > 1
    for one, other in zip(before, now, strict=True):
        assert [case.id for case in one.cases] == [case.id for case in other.cases]
        assert (one.data, one.results, one.end) == (other.data, other.results, other.end)
        assert one.header() == other.header()


def test_a_batch_without_some_of_its_cases() -> None:
    """What an engine cannot play falls out of the table; everything else stays where it is."""
    whole, known = kept()
    left = [case for place, case in enumerate(known) if case.program is None and place % 3]
    by_id = {case.id: case for case in whole}
    seen = []
    for laid in batches_of(left, MOST):
        memory = dict(laid.memory())[int(batch.lib.CONFORM_BATCH)]
        table = ffi.from_buffer("struct conform_case[]", memory[: len(laid.cases) * batch.CASE_BYTES])
        for entry, result, case in zip(table, laid.results, laid.cases, strict=True):
            seen.append(case.id)
            cpu = by_id[case.id].cpu
            assert cpu is not None
            assert (entry.result, entry.eip, entry.cs, entry.eax) == (result, cpu.eip, cpu.cs, cpu.eax)
            patches = by_id[case.id].patches
            assert entry.patch_count == len(patches)
            place = entry.patches - int(batch.lib.CONFORM_BATCH)
            rows = ffi.from_buffer("struct conform_patch[]", memory[place:][: entry.patch_count * 12])
            for told, patch in zip(rows, patches, strict=True):
                at = told.data - int(batch.lib.CONFORM_BATCH)
                assert (told.address, memory[at : at + told.size]) == (patch.address, patch.data)
    assert sorted(seen) == sorted(case.id for case in left)


@pytest.mark.parametrize("drawn", ["1", "2"])
def test_other_seeds_rows_and_switchers_are_other_selections(drawn: str) -> None:
    kept()
    found = selection(drawn).cases(ROWS[0])[0]
    assert isinstance(found, KnownCase) == (drawn == "1")
    assert not isinstance(selection("1", ROWS[:1]).cases(ROWS[0])[0], KnownCase)
    fewer = {layer: image for layer, image in SWITCHERS.items() if layer != "L3-seed"}
    other = Selection(ROWS, fewer, "1", lambda each: expand(each, fewer))
    other.load()
    assert not isinstance(other.cases(ROWS[0])[0], KnownCase)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}\n", b"no json\n", b'{"rows": {}, "batches": []}\n', b"[1]\n", b'{"rows": 3, "batches": 3}\n'],
)
def test_what_is_of_no_use_is_made_again(content: bytes, folder: Path) -> None:
    made = selection()
    whole = cases(made)
    made.keep(MOST)
    found = {path.name: store.read(path.name) or b"" for path in folder.iterdir()}
    (name,) = (name for name, kept in found.items() if kept.startswith(b'{"rows"'))
    good = found[name]
    store.write(name, content)
    again = selection()
    assert not isinstance(cases(again)[0], KnownCase)
    again.keep(MOST)
    assert store.read(name) == good
    assert cases(selection())[0].watched() == whole[0].watched()


def test_the_catalogue_is_read_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time no TOML is read, and the rows are the same; a changed file is read again."""
    before = row.catalogue()
    row.keep()
    monkeypatch.setattr(row.tomllib, "loads", lambda text: pytest.fail("TOML was read"))
    row.catalogue.cache_clear()
    assert row.catalogue() == before
    row.catalogue.cache_clear()
    monkeypatch.setattr(row, "paths", lambda: list(reversed([each.path for each in before])))
    with pytest.raises(pytest.fail.Exception, match="TOML was read"):
        row.catalogue()
    row.catalogue.cache_clear()


def test_little_is_not_worth_keeping(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "WORTH_KEEPING", 10_000)
    made = selection()
    assert cases(made)
    made.keep(MOST)
    assert not folder.exists() or not list(folder.iterdir())
