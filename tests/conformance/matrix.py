"""The defects in the product's own source, and the tool that makes matrix.json anew:

    python tests/conformance/matrix.py [tcg] [bochs] [kvm]

It plays every defect against the rows that it names, each on its runner, the CPU's own against the core set,
and every negative control on the first runner that shows it.  With names only these runners' parts are made
anew; kvm is in the lab where the machine's own does not do.
"""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from kvmhost.conformance import matrix, proof
from kvmhost.conformance.case import Case
from kvmhost.conformance.defects import Defect, cases, defects
from kvmhost.conformance.expand import expand
from kvmhost.conformance.families.layered import LAYERED
from kvmhost.conformance.mutations import Mutation, mutations, of_product
from kvmhost.conformance.report.as_json import built, plain
from kvmhost.conformance.results import MatrixRun, Mutant, MutationMatrix
from kvmhost.conformance.row import Row, catalogue
from kvmhost.conformance.runners import make
from kvmhost.conformance.switcher_image import SwitcherImage, from_facts
from kvmhost.conformance.switchers import under_test
from kvmhost.switcher.foreign import load as load_object

RUNNERS = ("tcg", "bochs", "kvm")
TARGET = Path(__file__).parents[2] / "kvmhost" / "conformance" / "matrix.json"
GENERATION = {"seed": ("2.6.23", 8), "hardened": ("2.6.24", 6)}


def product_with(mutation: Mutation, folder: Path) -> dict[str, SwitcherImage]:
    """The product's Switchers that the defect can be in, assembled from their changed sources."""
    return {f"L3-{name}": assembled(name, folder, *changes) for name, changes in mutation.source.items()}


def assembled(name: str, folder: Path, *changes: tuple[str, str]) -> SwitcherImage:
    """A product's Switcher from its source with some words changed."""
    from switcher.build import variant

    frame, descriptors = GENERATION[name]
    place = folder / name
    place.mkdir(exist_ok=True)
    blob = load_object(variant(name, place, *changes), frame, descriptors)
    labels = {label: at for label, at in blob.symbols.items() if label[1:3].isdigit() and label[3:4] == "_"}
    facts = {
        "frame": frame,
        "descriptors": descriptors,
        "symbols": dict(blob.symbols),
        "default_idt_entries": list(blob.default_idt_entries),
        "boundaries": labels,
    }
    return from_facts(f"changed-{name}", blob.text, facts, f"{name}.S")


def core() -> list[Row]:
    """The rows of the core set that are written."""
    return [row for row in catalogue() if row.core and row.written]


def singly() -> list[Row]:
    """Those of them without the families that go through every boundary or vector."""
    return [row for row in core() if row.family not in LAYERED]


def references() -> dict[str, SwitcherImage]:
    return {layer: image for layer, image in under_test().items() if layer.startswith("L2")}


def on(name: str) -> list[Defect]:
    """The defects that are played on a runner."""
    return [defect for defect in defects() if defect.runner == name]


def of_machine(runner: matrix.Plays, played: Iterable[Defect]) -> list[Mutant]:
    """The lines of the defects beside the sixty."""
    planted = {defect.id: cases(defect, references()) for defect in played}
    found = matrix.seen(runner, planted, {defect.id: defect.symptom for defect in played})
    return [matrix.line(each, each.target, found[each.id], runner) for each in played]


def of_switchers(runner: matrix.Plays) -> list[Mutant]:
    """The lines of the sixty and of the CPU that does nothing."""
    l2 = matrix.seen(runner, matrix.planted(mutations(), references()))
    with TemporaryDirectory() as folder:
        changed = {each.id: product_with(each, Path(folder)) for each in mutations() if each.source}
        product = {each.id: of_product(each, changed[each.id]) for each in mutations() if each.source}
        l3 = matrix.seen(runner, product)
    inert = [case for row in singly() for case in matrix.inert(row, references())]
    rows = {
        row for layer in matrix.seen(runner, {matrix.INERT: inert})[matrix.INERT].values() for row in layer
    }
    return [
        *(matrix.line(each, "reference", l2[each.id], runner) for each in mutations() if l2[each.id]),
        *(matrix.line(each, "product", l3[each.id], runner) for each in mutations() if l3.get(each.id)),
        Mutant(matrix.INERT, matrix.INERT_TITLE, "CPU", tuple(sorted(rows)), "", runner.environment.runner),
    ]


def controls() -> list[Case]:
    """Every negative control of the catalogue."""
    return [
        case for row in catalogue() if row.written for case in expand(row, under_test()) if case.kind == "N"
    ]


def made(name: str, before: MutationMatrix | None) -> MutationMatrix:
    """The matrix with what one runner says anew; a control stays with the first runner that shows it."""
    others = set(RUNNERS) - {name}
    mutants = [one for one in before.mutants if one.runner in others] if before else []
    shown = [one for one in before.controls if one.runner in others] if before else []
    runs = [one for one in before.runs if one.runner in others] if before else []
    known = {(one.row, one.case) for one in shown}
    with make(name, backend="auto") as runner:
        lines = of_switchers(runner) if name == "tcg" else []
        lines += of_machine(runner, on(name))
        todo = [case for case in controls() if (case.row, case.name) not in known]
        shown += matrix.broken_controls(runner, todo)
        where = runner.environment
        engine = " ".join(filter(None, (where.engine, "in the lab" if where.backend == "lab" else "")))
        runs += [MatrixRun(name, engine, datetime.date.today().isoformat())]
        runs.sort(key=lambda one: RUNNERS.index(one.runner))
    return MutationMatrix(
        "; ".join(f"{one.runner}: {one.engine}" for one in runs),
        max(one.made for one in runs),
        tuple(
            sorted(
                (*mutants, *lines), key=lambda one: (one.id[0] == "C", one.id[0] != "M", one.id, one.target)
            )
        ),
        tuple(sorted(shown, key=lambda one: (one.row, one.case))),
        tuple(runs),
    )


def main(names: Sequence[str]) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    anew = set(names) == set(RUNNERS)
    found = None if anew else built(MutationMatrix, json.loads(TARGET.read_text()), TARGET.name)
    for name in names:
        begin = time.monotonic()
        found = made(name, found)
        TARGET.write_text(json.dumps(plain(found), indent=1) + "\n")
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
    assert found is not None
    rows = [row.id for row in core()]
    print("never seen to fail:", " ".join(proof.unproven(rows, found)) or "none")
    print(f"by {matrix.INERT} alone:", " ".join(proof.unproven(rows, found, (matrix.INERT,))) or "none")


if __name__ == "__main__":
    main(sys.argv[1:] or RUNNERS)
