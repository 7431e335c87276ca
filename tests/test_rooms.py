"""The house has floors: a room imports only rooms below it, and what one room knows no other one repeats.

Read from the sources, not from what happens to be imported, so that an import inside a function or for type
checkers alone counts as well.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# What each room may import of kvmhost, besides itself: the floors from the ground up, and two that stand
# alone.  "kvmhost" is the package itself, which has the version.
FLOORS = ("kvm", "switcher", "host", "launcher")
BELOW: dict[str, set[str]] = {
    **{room: {"_native", *FLOORS[:floor]} for floor, room in enumerate(FLOORS)},
    "bench": {"_native", "_bench", *FLOORS, "kvmhost"},
    "conformance": {"_native", *FLOORS},
    "cli": {"_native", "lab", "doctor", *FLOORS, "bench", "conformance", "kvmhost"},
    "lab": {"kvmhost"},
    "doctor": {"kvmhost"},
}
# What of the conformance room must not know the product at all: all but this folder.  Whoever audits the
# product's Host must have one.
RUNNERS = ROOT / "kvmhost" / "conformance" / "runners"

# Names that belong to one room, and which.  The doctor has constants of its own, made from native/abi.
OWNED = {
    r"LHCALL_\w+": {"host"},
    r"KVM_(?:GET|SET|RUN|CREATE|CHECK|IOEVENTFD|IRQFD|SIGNAL|ENABLE)_?\w*": {"kvm", "doctor"},
    r"struct kvmhost_(?:state|frame)_\w+": {"switcher"},
    r"CPU_\w+_OFFSET|HOST_\w+_OFFSET": {"host"},
}


@cache
def sources(room: str) -> tuple[tuple[Path, ast.Module], ...]:
    folder = ROOT / "kvmhost" / room
    return tuple((path, ast.parse(path.read_text())) for path in sorted(folder.rglob("*.py")))


def imports(path: Path, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Each room (or "kvmhost" for the package itself) that a file imports, with the line."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (start, node.module) if part)
            modules = [f"{base}.{alias.name}" for alias in node.names] if base == "kvmhost" else [base]
        else:
            continue
        for module in modules:
            parts = module.split(".")
            if parts[0] == "kvmhost":
                inside = len(parts) > 1 and (
                    (ROOT / "kvmhost" / parts[1]).is_dir() or (ROOT / "kvmhost" / f"{parts[1]}.pyi").is_file()
                )
                yield node.lineno, parts[1] if inside else "kvmhost"


def strangers(room: str, path: Path, tree: ast.AST) -> list[str]:
    return [
        f"{path.name}:{line} imports {other}"
        for line, other in imports(path, tree)
        if other != room and other not in BELOW[room]
    ]


def code_strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Names and strings of the code; docstrings may speak of anything."""
    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield node.lineno, node.value


def test_every_room_has_its_floor() -> None:
    rooms = {path.parent.name for path in (ROOT / "kvmhost").glob("*/__init__.py")}
    assert rooms == set(BELOW)


@pytest.mark.parametrize("room", BELOW)
def test_a_room_imports_only_what_lies_below(room: str) -> None:
    assert sources(room)
    assert [text for path, tree in sources(room) for text in strangers(room, path, tree)] == []


def test_rows_and_what_judges_them_know_nothing_of_the_product() -> None:
    outside = [(path, tree) for path, tree in sources("conformance") if not path.is_relative_to(RUNNERS)]
    assert outside
    found = [(path.name, line, room) for path, tree in outside for line, room in imports(path, tree)]
    assert [each for each in found if each[2] != "conformance"] == []


@pytest.mark.parametrize("pattern", OWNED)
def test_what_a_room_knows_no_other_repeats(pattern: str) -> None:
    found = {
        room: [
            f"{path.name}:{line} {text}"
            for path, tree in sources(room)
            for line, text in code_strings(tree)
            if re.fullmatch(pattern, text)
        ]
        for room in BELOW
    }
    assert any(found[room] for room in OWNED[pattern])
    assert [text for room in found if room not in OWNED[pattern] for text in found[room]] == []


@pytest.mark.parametrize(
    ("room", "text", "seen"),
    [
        ("kvm", "from kvmhost.host import Machine", "host"),
        ("switcher", "def late():\n    import kvmhost.launcher.boot", "launcher"),
        ("host", "from ..launcher import boot", "launcher"),
        ("launcher", "from kvmhost import lab", "lab"),
        ("lab", "from kvmhost._native import lib", "_native"),
        ("doctor", "from ..kvm import Kvm", "kvm"),
    ],
)
def test_the_wrong_way_is_noticed(room: str, text: str, seen: str) -> None:
    path = ROOT / "kvmhost" / room / "new.py"
    (found,) = strangers(room, path, ast.parse(text))
    assert found.endswith(f"imports {seen}")
