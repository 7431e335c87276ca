"""What expects and what is tested know nothing of each other: only the runners may know kvmhost.

Read from the sources, so that an import inside of a function counts as well.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvmhost.conformance

ROOT = Path(kvmhost.conformance.__file__).parent
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
#: Who may use what is not in Python itself: a disassembler to show code, and what is a plugin of pytest's.
STRANGERS = {
    "families/states.py": {"hypothesis"},
    "listing.py": {"capstone"},
    "plugin.py": {"pytest"},
    "test_rows.py": {"pytest"},
}


def imported(source: str) -> Iterator[str]:
    """Every module that is imported from outside of the package that the file lies in."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def foreign(file: Path, source: str) -> list[str]:
    allowed = sys.stdlib_module_names | STRANGERS.get(str(file), set())
    return [
        module
        for module in imported(source)
        if module.partition(".")[0] not in allowed and not f"{module}.".startswith("kvmhost.conformance.")
    ]


@pytest.mark.parametrize("file", [file for file in FILES if file.parts[0] != "runners"], ids=str)
def test_nothing_but_python_itself_is_imported(file: Path) -> None:
    assert foreign(file, (ROOT / file).read_text()) == []


@pytest.mark.parametrize("file", [file for file in FILES if file.parts[0] == "runners"], ids=str)
def test_no_runner_knows_the_lab_and_only_programs_know_the_host(file: Path) -> None:
    """An engine plays whatever it is given; a program may be about what the product's Host does."""
    audits = file.parts[1] == "programs"
    rooms = ("lab", "cli", "doctor", *(() if audits else ("launcher", "host")))
    found = [
        module
        for module in imported((ROOT / file).read_text())
        if module.split(".")[1:2] and module.startswith("kvmhost.") and module.split(".")[1] in rooms
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import kvmhost.kvm",
        "from kvmhost.switcher import load",
        "def late():\n    from kvmhost import _native",
        "import numpy",
        "from capstone import Cs",
    ],
)
def test_the_wrong_way_is_noticed(source: str) -> None:
    assert len(foreign(Path("verdict.py"), source)) == 1
