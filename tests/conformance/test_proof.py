"""What made a row fail once: the proof that it can."""

from conformance.made_up import case

from kvmhost.conformance import proof
from kvmhost.conformance.results import Control, Mutant, MutationMatrix, Status

MATRIX = MutationMatrix(
    "tcg",
    "2026-11-22",
    (
        Mutant("M01", "a", "L2-seed", ("A-001",)),
        Mutant("M01", "a", "product", ("A-001", "A-002")),
        Mutant("M02", "b", "L2-seed", ("A-001",)),
    ),
    (Control("A-003", "no WP", "tcg"), Control("A-001", "no LIDT", "kvm")),
)


def test_mutants_first_each_once_then_controls() -> None:
    assert proof.seen_to_fail_by("A-001", ["no LIDT", "no LIDT", "no LGDT"], MATRIX) == (
        "M01: a",
        "M02: b",
        "control: no LIDT",
        "control: no LGDT",
    )
    assert proof.seen_to_fail_by("A-002", [], MATRIX) == ("M01: a",)
    assert proof.seen_to_fail_by("A-003", [], MATRIX) == ("control: no WP",)
    assert proof.seen_to_fail_by("A-003", [], None) == ()


def test_what_was_never_seen_to_fail_is_found() -> None:
    rows = ["A-001", "A-002", "A-003", "A-004"]
    assert proof.unproven(rows, MATRIX) == ["A-004"]
    assert proof.unproven(rows, MATRIX, ("M01",)) == ["A-002", "A-004"]


def test_only_a_control_that_broke_as_predicted_counts() -> None:
    kinds = {("L1", "bad"): "N", ("L1", "good"): "P", ("L1", "fails"): "N"}
    results = [case("bad", "kvm"), case("good", "kvm"), case("fails", "kvm", Status.FAIL)]
    assert list(proof.broken_controls(kinds, results)) == ["bad"]


def test_the_matrix_that_comes_along_can_be_read() -> None:
    found = proof.matrix()
    assert found is not None and len({one.id for one in found.mutants}) >= 60
    assert all(one.killed_by for one in found.mutants)
