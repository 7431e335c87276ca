"""The defects can be planted where they say; what the rows make of them is in test_matrix.py."""

from pathlib import Path

import pytest

from kvmhost.conformance.expand import expand
from kvmhost.conformance.mutations import Mutation, cases, mutations
from kvmhost.conformance.reference import link, load
from kvmhost.conformance.row import find
from kvmhost.conformance.switchers import under_test

SOURCES = Path(__file__).parents[2] / "native" / "switcher"
PLANTS = [(mutation, name) for mutation in mutations() for name in mutation.references()]


def test_there_are_sixty() -> None:
    assert [mutation.id for mutation in mutations()] == [f"M{number:02}" for number in range(1, 61)]
    assert len({mutation.title for mutation in mutations()}) == 60


@pytest.mark.parametrize("mutation", mutations(), ids=lambda mutation: mutation.id)
def test_each_is_planted_somewhere_and_names_written_rows(mutation: Mutation) -> None:
    assert mutation.references() or mutation.setup
    assert mutation.killed_by
    for name in mutation.killed_by:
        assert find(name).written, name


@pytest.mark.parametrize(("mutation", "name"), PLANTS, ids=lambda it: getattr(it, "id", it))
def test_a_planted_reference_is_another_text_of_the_same_symbols(mutation: Mutation, name: str) -> None:
    sound, planted = link(load(name)), link(mutation.planted(name))
    assert planted.text != sound.text
    assert {symbol for symbol in sound.symbols if symbol not in planted.symbols} <= {
        symbol for symbol in sound.symbols if symbol.startswith("B40v")
    }


@pytest.mark.parametrize(
    "mutation", [each for each in mutations() if each.setup], ids=lambda mutation: mutation.id
)
def test_a_disturbed_set_up_changes_what_the_cases_start_from(mutation: Mutation) -> None:
    images = {"L2-seed": under_test()["L2-seed"]}
    sound = {case.id: case for name in mutation.killed_by for case in expand(find(name), images)}
    made = cases(mutation, images)
    assert made
    assert all((case.patches, case.cpu) != (sound[case.id].patches, sound[case.id].cpu) for case in made)


def test_the_wrong_order_of_tables_is_played_at_the_boundary_between() -> None:
    order = next(each for each in mutations() if each.title == "the Guest's GDT is loaded before its IDT")
    between = [case for case in cases(order) if case.name.startswith("B12 ")]
    assert [case.layer for case in between] == ["L2-hardened"]
    assert between[0].template is not None and between[0].expect.outcome == "trap"
    text = between[0].template.image[17 * 4096 :]
    linked = link(order.planted("hardened"), {"B12": b"\xcd\x02"})
    assert text.startswith(linked.text)


@pytest.mark.parametrize("mutation", mutations(), ids=lambda mutation: mutation.id)
def test_the_text_it_changes_occurs_once_in_the_product(mutation: Mutation) -> None:
    stubs = (SOURCES / "stubs.S").read_text()
    for name, changes in mutation.source.items():
        text = (SOURCES / f"{name}.S").read_text().replace('#include "stubs.S"', stubs)
        for old, new in changes:
            assert text.count(old) == 1, old
            assert new != old
