"""Sixty defects are planted in the references and in the product, and the rows named for each see it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conformance.matrix import assembled, controls, core, product_with

from kvmhost.conformance import matrix, proof
from kvmhost.conformance.expand import expand
from kvmhost.conformance.families import boundaries, spec
from kvmhost.conformance.mutations import Mutation, mutations, of_product
from kvmhost.conformance.proof import matrix as shipped
from kvmhost.conformance.results import Status
from kvmhost.conformance.row import find
from kvmhost.conformance.runners import make
from kvmhost.conformance.switcher_image import SwitcherImage
from kvmhost.conformance.switchers import under_test
from kvmhost.conformance.verdict import compare

Failed = dict[str, dict[str, tuple[str, ...]]]
# Defects that only an NMI inside the product's Switcher meets: where INT 2 goes in its source.
PLACES = {
    "M13": {"hardened": "E08_load_guest_gdt:"},
    "M14": {"seed": "B63_load_host_idt_\\name:", "hardened": "R22_load_host_idt_\\name:"},
    "M26": {"seed": "B18_pop_ebx:", "hardened": "E14_pop_eax:"},
    "M27": {"seed": "B18_pop_ebx:", "hardened": "E14_pop_eax:"},
}


@pytest.fixture(scope="module")
def runner() -> Iterator[matrix.Plays]:
    with make("tcg") as entered:
        yield entered  # type: ignore[misc]


@pytest.fixture(scope="module")
def in_references(runner: matrix.Plays) -> Failed:
    images = {layer: image for layer, image in under_test().items() if layer.startswith("L2")}
    return matrix.seen(runner, matrix.planted(mutations(), images))


@pytest.fixture(scope="module")
def in_product(runner: matrix.Plays, tmp_path_factory: pytest.TempPathFactory) -> Failed:
    folder = tmp_path_factory.mktemp("changed")
    changed = {each.id: product_with(each, folder) for each in mutations() if each.source}
    return matrix.seen(
        runner, {each.id: of_product(each, changed[each.id]) for each in mutations() if each.source}
    )


@pytest.mark.parametrize("mutation", mutations(), ids=lambda mutation: mutation.id)
def test_a_defect_of_a_reference_is_seen(mutation: Mutation, in_references: Failed) -> None:
    layers = in_references[mutation.id]
    assert set(layers) == {f"L2-{name}" for name in mutation.references() or ("seed", "hardened")}
    for layer, rows in layers.items():
        assert rows, f"{mutation.title}: no row sees it on {layer}"
        assert set(rows) <= set(mutation.killed_by)


@pytest.mark.parametrize("mutation", [m for m in mutations() if m.source], ids=lambda mutation: mutation.id)
def test_a_defect_of_the_product_is_seen(mutation: Mutation, in_product: Failed) -> None:
    elsewhere = {f"L3-{name}" for name in PLACES.get(mutation.id, ())}
    for name in mutation.source:
        layer = f"L3-{name}"
        if layer not in elsewhere:
            assert in_product[mutation.id][layer], f"{mutation.title}: no row sees it in {name}.S"


@pytest.mark.parametrize(("number", "name"), [(n, name) for n in PLACES for name in PLACES[n]])
def test_a_defect_that_only_an_nmi_meets_is_seen_by_int_2(
    number: str, name: str, runner: matrix.Plays, tmp_path: Path
) -> None:
    mutation = next(each for each in mutations() if each.id == number)
    place = PLACES[number][name]
    int2 = (place, f"\tint\t$2\n{place}")
    sound = assembled(name, tmp_path, int2)
    changed = assembled(name, tmp_path, *mutation.source[name], int2)
    assert status(runner, f"L3-{name}", sound) is Status.PASS
    assert status(runner, f"L3-{name}", changed) is Status.FAIL


def status(runner: matrix.Plays, layer: str, image: SwitcherImage) -> Status:
    """What a hypercall's trip through a Switcher with INT 2 in it comes to."""
    row = find("NMI-001")
    way = boundaries.TRAP
    trip = spec(row, "INT 2", "trip", layers=(layer,), code=(way.code(),), expect=way.end())
    (case,) = expand(replace(row, family="", cases=(trip,)), {layer: image})
    found: list[Status] = []
    runner.run([case], lambda it, seen: found.append(compare(it, seen, runner.environment).status))
    (only,) = found
    return only


def test_the_shipped_matrix_is_what_comes_out_here(in_references: Failed, in_product: Failed) -> None:
    there = shipped()
    assert there is not None
    by_target = {
        (each.id, each.target.partition(":")[0]): set(each.killed_by)
        for each in there.mutants
        if each.runner == "tcg"
    }
    for kind, failed in (("reference", in_references), ("product", in_product)):
        for each in mutations():
            here = {row for rows in failed.get(each.id, {}).values() for row in rows}
            assert by_target.get((each.id, kind), set()) == here, (each.id, kind)


def test_every_core_row_was_seen_to_fail_by_something_of_its_own() -> None:
    """A defect or a case that breaks on purpose; the CPU that does nothing is none."""
    there = shipped()
    assert there is not None
    rows = [row.id for row in core()]
    assert len(rows) > 150
    assert proof.unproven(rows, there, (matrix.INERT,)) == []


def test_a_core_row_that_nothing_was_seen_to_break_is_found() -> None:
    there = shipped()
    assert there is not None
    less = replace(
        there,
        mutants=tuple(
            replace(one, killed_by=tuple(row for row in one.killed_by if row != "PGF-003"))
            for one in there.mutants
        ),
        controls=tuple(one for one in there.controls if one.row != "MSR-002"),
    )
    assert proof.unproven([row.id for row in core()], less, (matrix.INERT,)) == ["MSR-002", "PGF-003"]


def test_the_matrix_says_where_and_when_each_part_was_made() -> None:
    there = shipped()
    assert there is not None
    assert [one.runner for one in there.runs] == ["tcg", "bochs", "kvm"]
    assert {one.runner for one in there.mutants} == {"tcg", "bochs", "kvm"}
    assert {one.runner for one in there.controls} <= {"tcg", "bochs", "kvm"}
    for one in there.runs:
        assert one.engine in there.runner and one.made <= there.made


def test_every_control_of_the_matrix_is_in_the_catalogue() -> None:
    there = shipped()
    assert there is not None
    known = {(case.row, case.name) for case in controls()}
    assert {(one.row, one.case) for one in there.controls} <= known


def test_the_matrix_is_one_line_a_defect_and_target() -> None:
    text = json.loads((Path(matrix.__file__).parent / "matrix.json").read_text())
    keys = [(each["id"], each["target"].partition(":")[0]) for each in text["mutants"]]
    assert len(keys) == len(set(keys))
    sixty = {key for key, target in keys if target in ("reference", "product") and key.startswith("M")}
    assert sixty == {m.id for m in mutations()}
