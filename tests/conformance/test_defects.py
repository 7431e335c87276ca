"""The defects beside the sixty: each can be planted, changes something, and is seen by what was predicted."""

from collections.abc import Iterator, Mapping

import pytest
from conformance.matrix import of_machine, on, references

from kvmhost.conformance import matrix
from kvmhost.conformance.case import NO_ERROR, Case, Observation, Trap, TrapExpect
from kvmhost.conformance.defects import MOST, Defect, cases, defects, shows
from kvmhost.conformance.expand import expand
from kvmhost.conformance.proof import matrix as shipped
from kvmhost.conformance.results import Difference, Status
from kvmhost.conformance.row import find
from kvmhost.conformance.runners import make
from kvmhost.conformance.verdict import Compared

SEEN = Observation("trap", Trap(47, NO_ERROR, 0x416005, 0xA1, 0x202, 0xA9, 0x419000), values={"exits": 301})
FAILED = Compared(Status.FAIL, differences=(Difference("vector", "13", "47"), Difference("eip", "0", "5")))


def test_each_has_a_number_and_a_name_of_its_own() -> None:
    found = defects()
    assert sorted(each.id for each in found) == [f"D{number:02}" for number in range(1, len(found) + 1)]
    assert len({each.title for each in found}) == len(found)


@pytest.mark.parametrize("defect", defects(), ids=lambda defect: defect.id)
def test_each_changes_what_the_named_rows_play(defect: Defect) -> None:
    planted = cases(defect, references())
    sound = {case.id: case for name in defect.killed_by for case in expand(find(name), references())}
    assert {case.row for case in planted} == set(defect.killed_by)
    for name in defect.killed_by:
        of_row = [case for case in planted if case.row == name]
        assert len(of_row) <= MOST * len({case.layer for case in of_row})
        assert any(case != sound[case.id] for case in of_row), f"{defect.id} changes nothing of {name}"


@pytest.mark.parametrize("defect", defects(), ids=lambda defect: defect.id)
def test_each_has_a_symptom_that_what_was_expected_is_not(defect: Defect) -> None:
    """Else a row that fails in any way would show it."""
    assert set(defect.symptom) <= {"outcome", "vector", "error", "differs", "values", "detail"}
    if not {"differs", "detail"} & set(defect.symptom):
        assert any(not expected(case, defect.symptom) for case in cases(defect, references()))


def expected(case: Case, symptom: Mapping[str, object]) -> bool:
    """Whether the symptom is nothing but what a case expects."""
    trap = case.expect.trap or TrapExpect()
    wanted = {"outcome": case.expect.outcome, "vector": trap.vector, "error": trap.error}
    return all((case.expect.values if key == "values" else wanted[key]) == symptom[key] for key in symptom)


@pytest.mark.parametrize(
    ("symptom", "shown"),
    [
        ({"outcome": "trap", "vector": 47, "error": NO_ERROR}, True),
        ({"outcome": "shutdown"}, False),
        ({"vector": 13}, False),
        ({"error": 0}, False),
        ({"differs": ["eip", "vector"]}, True),
        ({"differs": ["eip", "eax"]}, False),
        ({"values": {"exits": 301}}, True),
        ({"values": {"exits": 1}}, False),
        ({"values": {"home": 300}}, False),
        ({"detail": "idt differ"}, False),
    ],
)
def test_a_symptom_is_what_was_seen_and_nothing_less(symptom: dict[str, object], shown: bool) -> None:
    assert shows(symptom, SEEN, FAILED) is shown


def test_without_a_trap_there_is_no_vector() -> None:
    assert not shows({"vector": 47}, Observation("shutdown"), FAILED)
    assert shows({"detail": "idt differ"}, Observation("broken", detail="set back, idt differ"), FAILED)


def test_a_failure_with_another_symptom_is_not_seen() -> None:
    (defect,) = (each for each in defects() if each.id == "D46")
    planted = {defect.id: cases(defect, references())}
    with make("tcg") as runner:
        as_foretold = matrix.seen(runner, planted, {defect.id: defect.symptom})
        otherwise = matrix.seen(runner, planted, {defect.id: {"vector": 6}})
    assert as_foretold == {"D46": {"L1": ("PGF-003",)}}
    assert otherwise == {"D46": {"L1": ()}}


@pytest.fixture(scope="module", params=["tcg", "bochs"])
def played(request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[str, tuple[str, ...]]]]:
    with make(request.param) as runner:
        yield request.param, {line.id: line.killed_by for line in of_machine(runner, on(request.param))}


def test_each_is_seen_by_every_row_that_it_names(played: tuple[str, dict[str, tuple[str, ...]]]) -> None:
    runner, seen = played
    assert seen == {each.id: tuple(sorted(each.killed_by)) for each in on(runner)}


def test_the_shipped_matrix_has_each_on_its_runner() -> None:
    there = shipped()
    assert there is not None
    lines = {(one.id, one.runner): one.killed_by for one in there.mutants if one.id.startswith("D")}
    assert lines == {(each.id, each.runner): tuple(sorted(each.killed_by)) for each in defects()}
