"""The bytes of the rows' listings, made by the GNU assembler, and the tool that writes them into a row file.

In a row the hex is what runs and the listing is what a person reads; test_listings.py holds the two together.
Whoever writes a listing lets this file fill in the rest:

    python tests/conformance/assemble.py kvmhost/conformance/rows/SEN/*.toml
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

from kvmhost.conformance import stage
from kvmhost.conformance.expression import evaluate

# What a listing may name.  A Switcher's own symbols are not among them: it may be any Switcher.
SYMBOLS = stage.Stage.of("L1").symbols
LABEL = re.compile(r"^\s*([a-z_]\w*):", re.MULTILINE)
ENTRY = re.compile(
    r"""(listing\s*=\s*(?:'''.*?'''|\"\"\".*?\"\"\"|"(?:[^"\\]|\\.)*")\s*),\s*hex\s*=\s*"[^"]*\""""
    r"""(?:\s*,\s*labels\s*=\s*\{[^}]*\})?""",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Listing:
    """Text to be assembled for an address; symbols are the stage's that it may name."""

    where: str
    address: int
    text: str
    symbols: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Assembled:
    """The bytes, and the offset of each label in them."""

    data: bytes
    labels: Mapping[str, int]


class ListingError(Exception):
    """The assembler or the linker did not take a listing; has its words."""


def assemble(listings: Sequence[Listing]) -> list[Assembled]:
    """All of them in one run of as and one of ld, each at its own address; ListingError with as's message."""
    # GCS and GDS are not the same in the two worlds, and one source has one value for a symbol.
    worlds: dict[int, list[int]] = {}
    for number, each in enumerate(listings):
        worlds.setdefault(each.symbols.get("GCS", 0), []).append(number)
    found: dict[int, Assembled] = {}
    for numbers in worlds.values():
        found |= dict(zip(numbers, _assemble([listings[number] for number in numbers]), strict=True))
    return [found[number] for number in range(len(listings))]


def _assemble(listings: Sequence[Listing]) -> list[Assembled]:
    source = [".intel_syntax noprefix"]
    script = ["SECTIONS {"]
    symbols: dict[str, int] = {}
    for number, each in enumerate(listings):
        words = set(re.findall(r"[\w.]+", each.text))
        symbols |= {name: value for name, value in each.symbols.items() if name in words}
        text = each.text
        for label in LABEL.findall(text):
            text = re.sub(rf"(?<![\w.]){label}\b", f"c{number}_{label}", text)
        # An empty listing has a section too, so that the numbers stay in step.
        source += [f'.section .c{number},"ax",@progbits', f"c{number}__start:", text]
        script += [f".c{number} {each.address:#x} : {{ KEEP(*(.c{number})) }}"]
    source[1:1] = [f".set {name}, {value:#x}" for name, value in symbols.items()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "rows.s").write_text("\n".join(source) + "\n")
        (path / "rows.ld").write_text("\n".join([*script, "}"]))
        _run(["as", "--32", "-o", "rows.o", "rows.s"], path)
        _run(["ld", "-melf_i386", "--no-check-sections", "-e0", "-Trows.ld", "-o", "rows", "rows.o"], path)
        with (path / "rows").open("rb") as file:
            return _read(ELFFile(file), len(listings))


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ListingError(done.stderr)


def _read(elf: Any, count: int) -> list[Assembled]:
    labels: list[dict[str, int]] = [{} for _ in range(count)]
    starts: dict[int, int] = {}
    table = [(s.name, s["st_value"]) for s in elf.get_section_by_name(".symtab").iter_symbols()]
    matches = [(re.fullmatch(r"c(\d+)_(\w+)", name), value) for name, value in table]
    for match, value in matches:
        if match and match[2] == "_start":
            starts[int(match[1])] = value
    for match, value in matches:
        if match and match[2] != "_start":
            labels[int(match[1])][match[2]] = value - starts[int(match[1])]
    sections = [elf.get_section_by_name(f".c{number}") for number in range(count)]
    return [Assembled(s.data() if s else b"", names) for s, names in zip(sections, labels, strict=True)]


def listings_of(path: Path) -> list[Listing]:
    """Every listing of a row file, with its address; the file need not have its hex yet."""
    found = []
    for case in tomllib.loads(path.read_text()).get("case", ()):
        world = case.get("world", "pair" if case["start"] == "trip" else "L1")
        symbols = {**SYMBOLS, "GCS": stage.GCS[world], "GDS": stage.GDS[world]}
        for code in case.get("code", ()):
            where = f"{path.stem} {case['name']!r}"
            found.append(Listing(where, evaluate(code["at"], symbols), code["listing"], symbols))
    return found


def fill_in(paths: Iterable[Path]) -> None:
    """Writes hex and labels behind every listing of these files."""
    files = [(path, listings_of(path)) for path in paths]
    done = iter(assemble([each for _, listings in files for each in listings]))
    for path, listings in files:
        text = path.read_text()
        if len(ENTRY.findall(text)) != len(listings):
            raise ListingError(f"{path}: not every listing is followed by its hex")
        path.write_text(ENTRY.sub(lambda match: _entry(match[1].rstrip(), next(done)), text))


def _entry(listing: str, assembled: Assembled) -> str:
    labels = ", ".join(f"{name} = {offset}" for name, offset in assembled.labels.items())
    return f'{listing}, hex = "{assembled.data.hex()}"' + (f", labels = {{ {labels} }}" if labels else "")


if __name__ == "__main__":
    fill_in(Path(name) for name in sys.argv[1:])
