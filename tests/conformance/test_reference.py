"""The reference Switchers are what their listings say, and are laid out as link() promises."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from kvmhost.conformance.reference import NAMES, Instruction, Linked, ReferenceFileError, image, link, load
from kvmhost.conformance.reference.reference import parse
from kvmhost.conformance.stage import ADDRESS, ARENA, SW, Stage

PUSH, PUSH_ZERO, JUMP = 0x68, b"\x6a\x00", 0xE9


def assemble(listings: list[str], folder: Path) -> list[bytes]:
    """Each line's bytes from GNU as, taken from its own listing so that lines cannot run together."""
    source, target = folder / "listing.s", folder / "listing.o"
    body = "\n".join(listings)
    source.write_text(f".intel_syntax noprefix\n{body}\n")
    done = subprocess.run(
        ["as", "--32", "-aln", "-o", str(target), str(source)], check=True, capture_output=True, text=True
    )
    found: dict[int, str] = {}
    for line in done.stdout.splitlines():
        if match := re.match(r"\s*(\d+) (?:[0-9a-f]{4} |     )\s?([0-9A-F]+)\b", line):
            number = int(match[1])
            found[number] = found.get(number, "") + match[2]
    return [bytes.fromhex(found[number]) for number in range(2, len(listings) + 2)]


@pytest.mark.parametrize("name", NAMES)
def test_the_hex_is_what_the_listing_assembles_to(name: str, tmp_path: Path) -> None:
    code = [i for part in load(name).parts for i in part.code]
    plain = [i for i in code if not i.target]
    for instruction, made in zip(plain, assemble([i.listing for i in plain], tmp_path), strict=True):
        assert made == instruction.code, instruction
    # A jump to something undefined takes the long form: its opcode, then room for the distance.
    jumps = [i for i in code if i.target]
    for instruction, made in zip(jumps, assemble([i.listing for i in jumps], tmp_path), strict=True):
        assert made[:-4] == instruction.code and instruction.listing.endswith(f" {instruction.target}")


def stub(linked: Linked, vector: int) -> tuple[bytes, int, int]:
    """What a stub pushes first, the number it pushes, and where it jumps: read from the bytes alone."""
    at = linked.entries[vector]
    zero = linked.text[at : at + 2] if linked.text[at] != PUSH else b""
    at += len(zero)
    assert linked.text[at] == PUSH and linked.text[at + 5] == JUMP
    number = int.from_bytes(linked.text[at + 1 : at + 5], "little")
    distance = int.from_bytes(linked.text[at + 6 : at + 10], "little", signed=True)
    return zero, number, at + 10 + distance


@pytest.mark.parametrize("name", NAMES)
def test_every_stub_pushes_and_jumps_as_the_catalogue_says(name: str) -> None:
    linked = link(load(name))
    pushed_by_cpu = {8, 10, 11, 12, 13, 14, 17} | ({21, 29, 30} if name == "hardened" else set())
    for vector in range(256):
        zero, number, target = stub(linked, vector)
        assert zero == (b"" if vector in pushed_by_cpu else PUSH_ZERO), vector
        assert number == vector
        home = "return_to_host" if vector < 32 or vector == 128 else "deliver_to_host"
        assert target == linked.symbols["handle_nmi" if vector == 2 else home], vector
    assert list(linked.entries) == sorted(set(linked.entries))


def test_the_seed_has_the_order_of_section_0_1() -> None:
    linked = link(load("seed"))
    assert linked.way() == tuple(f"B{n:02}" for n in range(2, 31))
    assert linked.way(13) == ("B41v13", "B42v13", *(f"B{n}" for n in range(43, 73)))
    assert linked.way(32) == ("B40v32", "B41v32", "B42v32", *(f"B{n}d" for n in range(43, 79)))


def test_inserted_bytes_come_just_before_their_instruction() -> None:
    plain, patched = link(load("seed")), link(load("seed"), {"B12": b"\xcd\x02"})
    at = plain.symbols["B12"]
    assert patched.symbols["B12"] == at
    assert patched.text[at : at + 2] == b"\xcd\x02"
    assert patched.text[at + 2 : at + 5] == plain.text[at : at + 3] == b"\x0f\x01\x98"
    assert patched.symbols["handle_nmi"] == plain.symbols["handle_nmi"] + 2
    for vector in range(256):
        _, _, target = stub(patched, vector)
        assert target == patched.symbols[patched.exits[vector]]


def test_an_edit_replaces_and_removes() -> None:
    halted = load("seed").edited({"B18": (Instruction("B18", b"\xf4", "hlt"),), "B16": ()})
    linked = link(halted)
    assert linked.text[linked.symbols["B18"]] == 0xF4
    assert "B16" not in linked.symbols
    with pytest.raises(KeyError):
        load("seed").edited({"B99": ()})


def test_what_cannot_be_laid_out_is_refused() -> None:
    seed = load("seed")
    with pytest.raises(ReferenceFileError, match="no boundary B99"):
        link(seed, {"B99": b"\x90"})
    with pytest.raises(ReferenceFileError, match="a page has 4096"):
        link(seed, {"B12": bytes(1000)})
    with pytest.raises(ReferenceFileError, match="there are seed, hardened"):
        load("other")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("schema = 2", "its schema is 2"),
        ("schema = 1", "KeyError: 'name'"),
        ("schema = [", "TOMLDecodeError"),
    ],
)
def test_a_broken_file_is_named(text: str, complaint: str) -> None:
    with pytest.raises(ReferenceFileError, match=f"reference Switcher seed: {complaint}"):
        parse("seed", text)


def test_a_jump_to_nowhere_is_refused() -> None:
    seed = load("seed")
    with pytest.raises(KeyError, match="nowhere"):
        link(replace(seed, stubs=replace(seed.stubs, exits=("nowhere",) * 256)))


@pytest.mark.parametrize("name", NAMES)
def test_on_the_stage_instructions_have_their_names(name: str) -> None:
    stage = Stage.of("pair", switcher=image(name))
    reference = load(name)
    named = [i for part in reference.parts for i in part.code if i.name]
    assert len(named) > 20
    for instruction in named:
        at = stage.symbols[f"SW.{instruction.name}"]
        assert at == stage.symbols[f"SW.{instruction.label}"]
        assert stage.template.image[ADDRESS["SW_TEXT"] - ARENA + at - SW :].startswith(instruction.code)
