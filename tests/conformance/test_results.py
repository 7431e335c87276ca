"""One word for many cases, and where engines disagree: the rules, on a run that never was."""

from dataclasses import replace

import pytest
from conformance.made_up import FAILURE, case, row, run

from kvmhost.conformance.results import Status, disagreements, overall


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ("", "NOT_WRITTEN"),
        ("PASS PASS", "PASS"),
        ("PASS SKIP", "PASS"),
        ("PASS XFAIL NOT_DEMONSTRABLE", "XFAIL"),
        ("PASS NOT_DEMONSTRABLE", "NOT_DEMONSTRABLE"),
        ("SKIP UNSUPPORTED", "UNSUPPORTED"),
        ("PASS XFAIL FAIL", "FAIL"),
        ("SKIP NOT_WRITTEN", "SKIP"),
    ],
)
def test_one_status_stands_for_several(statuses: str, expected: str) -> None:
    assert overall(map(Status, statuses.split())) is Status(expected)


def test_a_row_is_judged_for_each_runner() -> None:
    found = row("VEC-002", FAILURE, case("int 3 from ring 1", "tcg"))
    assert (found.status("kvm"), found.status("tcg"), found.status()) == ("FAIL", "PASS", "FAIL")


def test_disagreements_are_explained_by_name_or_not_at_all() -> None:
    found = {one.row: one for one in disagreements(run())}
    assert {name: one.explained for name, one in found.items()} == {
        "VEC-002": (),
        "SEN-010": ("DV-02",),
        "SW-CR3-006": ("the entry was still cached", "DV-05"),
    }
    assert found["VEC-002"].seen[0] == ("kvm", "FAIL", "vector: 0xd instead of 0x3 and 1 more")


def test_two_that_fail_otherwise_disagree() -> None:
    other = replace(FAILURE, runner="tcg", because="in other words")
    assert disagreements(run(rows=(row("A", FAILURE, other),))) == ()
    other = replace(other, differences=FAILURE.differences[:1])
    (found,) = disagreements(run(rows=(row("A", FAILURE, other),)))
    assert found.explained == ()


def test_runners_that_ran_nothing_do_not_disagree() -> None:
    both = row("KVM-001", case("c", "kvm"), case("c", "tcg", Status.SKIP, because="kvm"))
    assert disagreements(run(rows=(both,))) == ()
