"""What `hardened` costs over the seed, instruction by instruction: nothing that is not explained.

Each path through it is laid beside the seed's path for the same event.  An
instruction that the seed has no counterpart for must carry `_extra` in its label
and stand under a comment that explains it; what merely replaces something is
listed here by hand, with what it replaces.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from switcher import reference
from switcher.build import SOURCES, variant
from switcher.walk import Step, walk

from kvmhost.switcher import Blob, load

BOUNDARY = re.compile(r"[A-Z]\d\d_")
EXPLAINED = re.compile(r"\bextra\b", re.IGNORECASE)


class Way(NamedTuple):
    """A way through both texts; taken are the branches of hardened, vector None is the entry."""

    vector: int | None
    taken: tuple[bool, ...]
    seed_vector: int | None
    extras: int
    replaced: dict[str, tuple[str, ...]]


PATHS = {
    "entry": Way(None, (), None, 0, {"lea": ("mov", "add", "mov")}),
    "trap": Way(14, (False,), 14, 2, {"and": ("sub",)}),
    "hypercall": Way(31, (), 31, 0, {"and": ("sub",)}),
    "syscall": Way(128, (False,), 128, 2, {"and": ("sub",)}),
    "interrupt": Way(0xF0, (), 0xF0, 0, {"and": ("sub",), "mov": ("movzx",)}),
    "nmi in the Guest": Way(2, (True,), 0xF0, 2, {"and": ("sub",), "mov": ("movzx",)}),
    "nmi in the Switcher": Way(2, (False,), 2, 16, {}),
    "fault in the Switcher": Way(13, (True,), None, 3, {}),
}


def path_of(blob: Blob, vector: int | None, taken: tuple[bool, ...] = ()) -> list[Step]:
    if vector is None:
        return walk(blob, blob.symbols["switch_to_guest"])
    return walk(blob, blob.default_idt_entries[vector], taken)


def is_extra(step: Step) -> bool:
    return any("_extra" in label for label in step.labels)


def unexplained(hardened: Blob, name: str) -> list[str]:
    """What a path has too much, in words."""
    way = PATHS[name]
    path = path_of(hardened, way.vector, way.taken)
    plain = [step for step in path if not is_extra(step)]
    extras = len(path) - len(plain)
    found = [] if extras == way.extras else [f"{extras} extra instructions, not {way.extras}"]
    if name == "fault in the Switcher":
        return found
    seed = path_of(load("seed"), way.seed_vector)
    if len(plain) > len(seed):
        found.append(f"{len(path)} instructions with {extras} extra ones, the seed has {len(seed)}")
    surplus = Counter(step.mnemonic for step in plain) - Counter(step.mnemonic for step in seed)
    return found + [f"{mnemonic} replaces nothing" for mnemonic in surplus if mnemonic not in way.replaced]


@pytest.mark.parametrize("name", PATHS)
def test_every_extra_instruction_is_marked(name: str) -> None:
    assert unexplained(load("hardened"), name) == []


def test_what_it_saves() -> None:
    hardened, seed = load("hardened"), load("seed")
    assert len(path_of(seed, None)) - len(path_of(hardened, None)) == 2
    assert len(path_of(seed, 0xF0)) - len(path_of(hardened, 0xF0)) == 3
    assert len(path_of(hardened, 31)) == len(path_of(seed, 31))


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("entry", ("E06_move_stack:", "\tnop\nE06_move_stack:"), "nop replaces nothing"),
        ("entry", ("E09_tss_selector:", "E09_tss_extra: nop\nE09_tss_selector:"), "1 extra instructions"),
        ("trap", ("R01_if_ours_extra:", "R01_if_ours:"), "1 extra instructions, not 2"),
        ("interrupt", ("D03_jump:", "\tcld\nD03_jump:"), "cld replaces nothing"),
    ],
)
def test_the_count_catches(name: str, change: tuple[str, str], complaint: str, tmp_path: Path) -> None:
    blob = load(str(variant("hardened", tmp_path, change)))
    assert any(complaint in line for line in unexplained(blob, name)), unexplained(blob, name)


def comment_over(label: str, source: str) -> str:
    """The comment nearest above a label."""
    before = source[: source.index(f"\n{label}:")]
    return before[before.rindex("/*") : before.rindex("*/")]


def test_every_extra_instruction_stands_under_its_reason() -> None:
    source = (SOURCES / "hardened.S").read_text()
    labels = re.findall(r"^(\w+_extra\w*):", source, re.MULTILINE)
    assert len(labels) >= 16
    silent = [label for label in labels if not EXPLAINED.search(comment_over(label, source))]
    assert silent == []


def test_idt_changes_before_gdt_on_the_way_in_and_after_it_on_the_way_out() -> None:
    hardened = load("hardened")
    entry = [step.mnemonic for step in path_of(hardened, None)]
    home = [step.mnemonic for step in path_of(hardened, 31)]
    assert entry.index("lidt") + 1 == entry.index("lgdt")
    assert home.index("lgdt") + 1 == home.index("lidt")


def test_stubs() -> None:
    for vector in range(256):
        assert reference.compare_stub(load("hardened"), vector, reference.ERROR_CODES_TODAY) == []


def test_encodings() -> None:
    assert reference.opcode_faults(load("hardened")) == []


def test_routing() -> None:
    """Where each vector goes, by the first instruction behind its stub's jump."""
    hardened = load("hardened")
    ends = {}
    for vector in range(256):
        taken = (True,) if vector == 2 else (False,) if vector < 32 or vector == 128 else ()
        ends[vector] = path_of(hardened, vector, () if vector == 31 else taken)[-1].mnemonic
    delivered = {vector for vector, end in ends.items() if end == "jmp"}
    assert delivered == reference.DELIVERED | {2}
    assert {vector for vector, end in ends.items() if end == "iretd"} == set(range(256)) - delivered


@pytest.mark.parametrize("name", PATHS)
def test_every_boundary_has_a_name(name: str) -> None:
    """A report names the boundary, so each instruction behind the stubs is labelled."""
    hardened, way = load("hardened"), PATHS[name]
    start = hardened.default_idt_entries[0]
    path = [step for step in path_of(hardened, way.vector, way.taken) if step.offset < start]
    assert path
    assert [str(step) for step in path if not any(map(BOUNDARY.match, step.labels))] == []


def test_boundaries_are_numbered_without_a_gap() -> None:
    """E00 to the entry's IRET, R00 to the end of the common part, and so on, in order of place."""
    places: dict[str, dict[int, set[int]]] = {}
    for label, offset in load("hardened").symbols.items():
        if BOUNDARY.match(label):
            places.setdefault(label[0], {}).setdefault(int(label[1:3]), set()).add(offset)
    assert set(places) == {"E", "R", "D", "N", "F"}
    for numbers in places.values():
        assert sorted(numbers) == list(range(len(numbers)))
        assert all(min(numbers[one]) < min(numbers[two]) for one, two in pairwise(sorted(numbers)))
