"""The defects in the product's own source, and the tool that makes matrix.json anew:

    python tests/conformance/matrix.py

It plays on tcg: every defect against the rows that it names, and the CPU's own against the core set.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from kvmhost.conformance import matrix
from kvmhost.conformance.families.layered import LAYERED
from kvmhost.conformance.mutations import Mutation, mutations, of_product
from kvmhost.conformance.report.as_json import plain
from kvmhost.conformance.results import Mutant, MutationMatrix
from kvmhost.conformance.row import Row, catalogue
from kvmhost.conformance.runners import make
from kvmhost.conformance.switcher_image import SwitcherImage, from_facts
from kvmhost.conformance.switchers import under_test
from kvmhost.switcher.foreign import load as load_object

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
    """The rows of the core set, without the families that go through every boundary or vector."""
    return [row for row in catalogue() if row.core and row.written and row.family not in LAYERED]


def inert_line(found: Mapping[str, Mapping[str, tuple[str, ...]]]) -> Mutant:
    """The defect that is the CPU's own, as a line of the matrix."""
    rows = {row for layers in found[matrix.INERT].values() for row in layers}
    return Mutant(matrix.INERT, matrix.INERT_TITLE, "CPU", tuple(sorted(rows)))


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    images = under_test()
    references = {layer: image for layer, image in images.items() if layer.startswith("L2")}
    with make("tcg") as runner, TemporaryDirectory() as folder:
        l2 = matrix.seen(runner, matrix.planted(mutations(), references))
        l3 = matrix.seen(
            runner,
            {
                each.id: of_product(each, product_with(each, Path(folder)))
                for each in mutations()
                if each.source
            },
        )
        idle = {matrix.INERT: [case for row in core() for case in matrix.inert(row, references)]}
        cpu = matrix.seen(runner, idle)
        lines = (
            *matrix.mutants(l2, mutations(), "reference"),
            *matrix.mutants(l3, mutations(), "product"),
            inert_line(cpu),
        )
        made = MutationMatrix(runner.environment.engine, datetime.date.today().isoformat(), lines)
    TARGET.write_text(json.dumps(plain(made), indent=1) + "\n")


if __name__ == "__main__":
    main()
