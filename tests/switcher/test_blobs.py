"""A Blob is checked before a CPU may see it, and can name every place in its text."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from kvmhost.switcher import Blob, SwitcherError, blobs, load

BASE = 0xFFC00000


@pytest.mark.parametrize("name", ["seed", "hardened"])
def test_shipped(name: str) -> None:
    blob = load(name)
    assert 0 < len(blob.text) <= 4096
    assert len(blob.default_idt_entries) == 256
    assert blob.address("switch_to_guest") == BASE + blob.symbols["switch_to_guest"]
    gates = [blob.gate_address(vector) for vector in range(256)]
    assert all(one < other for one, other in pairwise(gates))
    assert gates[0] > BASE and gates[-1] < BASE + len(blob.text)


def test_generations() -> None:
    """The seed is of July 2007, hardened of the last kernels that had lguest."""
    assert (load("seed").layout.frame, load("seed").layout.descriptors) == ("2.6.23", 8)
    assert (load("hardened").layout.frame, load("hardened").layout.descriptors) == ("2.6.24", 6)


def test_an_unknown_name() -> None:
    with pytest.raises(SwitcherError, match="neither shipped nor a file; name one of seed, hardened"):
        load("soft")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"text": b"\x90" * 4097}, "takes 4097 bytes"),
        ({"text": b""}, "takes 0 bytes"),
        ({"symbols": {"start_switcher_text": 0}}, "no switch_to_guest"),
        ({"symbols": {"switch_to_guest": 0, "far_away": 9999}}, "far_away lies outside"),
        ({"default_idt_entries": tuple(range(255))}, "has 255 entries"),
        ({"default_idt_entries": (7,) * 256}, "entry 0 of its table is at 0x7, the next at 0x7"),
        ({"default_idt_entries": tuple(range(256, 0, -1))}, "entry 0 of its table"),
        ({"default_idt_entries": tuple(range(-1, 255))}, "entry 0 of its table is at -0x1"),
        ({"default_idt_entries": (*range(255), 5000)}, "the next at 0x1388"),
    ],
)
def test_what_no_cpu_may_see(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(SwitcherError, match=complaint):
        replace(load("seed"), **change)


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package data that a test may damage."""
    source = Path(blobs.__file__).parent.parent / "data" / "switcher"
    target = tmp_path / "data" / "switcher"
    target.mkdir(parents=True)
    for file in ("seed.bin", "seed.json"):
        (target / file).write_bytes((source / file).read_bytes())
    monkeypatch.setattr(blobs, "__file__", str(tmp_path / "switcher" / "blobs.py"))
    return target


def test_a_copy_of_the_installation_reads(installation: Path) -> None:
    assert blobs.read_data("seed")[0] == load("seed").text


def test_one_flipped_bit_is_noticed(installation: Path) -> None:
    text = bytearray((installation / "seed.bin").read_bytes())
    text[1000] ^= 1
    (installation / "seed.bin").write_bytes(text)
    with pytest.raises(SwitcherError, match=r"damaged.*install kvmhost again"):
        blobs.read_data("seed")


@pytest.mark.parametrize("damage", [None, b"", b"{", b"\xff\xfe"])
def test_missing_or_broken_facts(installation: Path, damage: bytes | None) -> None:
    facts = installation / "seed.json"
    facts.unlink() if damage is None else facts.write_bytes(damage)
    with pytest.raises(SwitcherError, match="cannot read the shipped text seed"):
        blobs.read_data("seed")


def test_facts_without_a_hash(installation: Path) -> None:
    facts = json.loads((installation / "seed.json").read_text())
    del facts["sha256"]
    (installation / "seed.json").write_text(json.dumps(facts))
    with pytest.raises(SwitcherError, match="damaged"):
        blobs.read_data("seed")


def small() -> Blob:
    """Labels at 0 and 4, stubs from 16 on."""
    labels = {
        "switch_to_guest": 0,
        "start_switcher_text": 0,
        "B02_first": 0,
        "B03_second": 4,
        "first_stub": 16,
    }
    entries = tuple(range(16, 16 + 4 * 256, 4))
    return Blob("small", bytes(1100), labels, entries, load("seed").layout, "")


@pytest.mark.parametrize(
    ("offset", "name"),
    [
        (0, "B02_first"),
        (4, "B03_second"),
        (5, "B03_second+1"),
        (15, "B03_second+11"),
        (16, "the stub of vector 0"),
        (18, "the stub of vector 0+2"),
        (16 + 4 * 255, "the stub of vector 255"),
        (1100, "outside the Switcher (0xffc0044c)"),
        (-1, "outside the Switcher (0xffbfffff)"),
    ],
)
def test_places_have_names(offset: int, name: str) -> None:
    assert small().locate(BASE + offset) == name


@pytest.mark.parametrize("name", ["seed", "hardened"])
def test_every_boundary_is_located_by_its_own_name(name: str) -> None:
    blob = load(name)
    for label, offset in blob.symbols.items():
        found = blob.locate(BASE + offset)
        assert "+" not in found
        if label[1:3].isdigit():
            assert found[1:3].isdigit(), f"{label} is located as {found}"


def test_an_unknown_symbol() -> None:
    with pytest.raises(SwitcherError, match=r"no symbol B99.*it has B02_first"):
        small().address("B99")
