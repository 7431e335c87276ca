"""The catalogue is whole, and a row file that is wrong says where and what would be right."""

import re
from collections import Counter
from pathlib import Path

import pytest

from kvmhost.conformance import row
from kvmhost.conformance.errors import RowError

# How many lines each group of the catalogue has, and which of them are the core set (its section 2).
GROUPS = dict(
    [
        *[("SW-ENT", 7), ("SW-SEG", 10), ("SW-STK", 9), ("SW-DTR", 10), ("SW-TSS", 13), ("SW-ROG", 9)],
        *[("SW-CR3", 15), ("SW-POP", 9), ("SW-IRT", 17), ("SW-STB", 8), ("SW-RET", 7), ("SW-DLV", 9)],
        *[("R1P", 20), ("SEN", 23), ("SEC", 28), ("PGF", 18), ("VEC", 19), ("DIR", 11), ("DBF", 9)],
        *[("NMI", 15), ("DBG", 14), ("FPU", 7), ("MSR", 10), ("IOP", 6), ("SGM", 13), ("INT", 13)],
        *[("PRP", 10), ("KVM", 22), ("SNP", 6)],
    ]
)
CORE = {
    "SW-ENT": "1-4",
    "SW-SEG": "1-6",
    "SW-STK": "1-5",
    "SW-DTR": "1 3 6-9",
    "SW-TSS": "1-6 12 13",
    "SW-ROG": "1 2 5-9",
    "SW-CR3": "1-6 12-14",
    "SW-POP": "1-7",
    "SW-IRT": "1-4 6-10 14 15",
    "SW-STB": "1-6",
    "SW-RET": "1-6",
    "SW-DLV": "1-5 9",
    "R1P": "1-10",
    "SEN": "1-8 15 18",
    "SEC": "1-11 14 15 24-28",
    "PGF": "1-4 6 9 10",
    "VEC": "1-7 12 13",
    "DIR": "1-4 9",
    "DBF": "1 4 6",
    "NMI": "1 2 6",
    "INT": "1-4 6",
    "MSR": "1-3",
    "IOP": "1 5",
    "FPU": "1 4",
    "PRP": "1 2 4",
    "KVM": "1 3 4 17",
    "SNP": "1",
}


def numbers(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split():
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def test_every_line_of_the_catalogue_has_its_file() -> None:
    expected = {f"{group}-{number:03}" for group, count in GROUPS.items() for number in range(1, count + 1)}
    assert len(expected) == 367
    assert {each.id for each in row.catalogue()} == expected
    assert Counter(each.group for each in row.catalogue()) == GROUPS
    assert all(each.path.parent.name == each.group for each in row.catalogue())


def test_the_core_set_is_section_2() -> None:
    expected = {f"{group}-{number:03}" for group, text in CORE.items() for number in numbers(text)}
    assert len(expected) == 166
    assert {each.id for each in row.catalogue() if each.core} == expected


def test_each_row_runs_something_or_says_what_it_waits_for() -> None:
    for each in row.catalogue():
        ways = [each.cases, each.family, each.program, each.waits_for]
        assert sum(map(bool, ways)) == 1, each.id


def test_deviations_that_rows_name_are_known() -> None:
    known = row.deviations()
    named = {
        (each.id, deviation["dev"])
        for each in row.catalogue()
        for holder in (each, *each.cases)
        for deviation in holder.deviation.values()
    }
    assert [pair for pair in named if pair[1] not in known] == []
    assert all(re.fullmatch(r"DV-\d\d", name) for name in known)


GOOD = """
schema = 1
id = "SEN-010"
title = "t"
kind = "P"
core = true
layers = ["L1"]
sources = [{ publication = "p", revision = "r", section = "s" }]
[[case]]
name = "one"
start = "ring1"
gdt = [{ selector = "D22", type = "data-rw", dpl = 1 }]
code = [{ at = "G_CODE", listing = "int 0x2f", hex = "cd2f" }]
[case.expect]
trap = { vector = 0x2F, eip = "G_CODE+2" }
"""


def written(tmp_path: Path, text: str, name: str = "SEN-010") -> Path:
    path = tmp_path / f"{name}.toml"
    path.write_text(text)
    return path


def test_a_good_row_is_read(tmp_path: Path) -> None:
    found = row.load(written(tmp_path, GOOD))
    assert (found.group, found.written, found.cases[0].world) == ("SEN", True, "L1")
    assert found.cases[0].code[0].bytes == b"\xcd\x2f"
    assert found.cases[0].kind == "P"


@pytest.mark.parametrize(
    ("old", "new", "key", "allowed"),
    [
        ('kind = "P"', 'kind = "X"', "kind", "one of P, E, K, S, N"),
        ("core = true\n", "", "core", "it is needed"),
        ("core = true", "core = 1", "core", "true or false"),
        ("schema = 1", "schema = 2", "schema", "one of 1"),
        ('title = "t"', 'title = " "', "title", "a text that is not empty"),
        ('title = "t"', 'titel = "t"', "titel", "case, control, core"),
        ('id = "SEN-010"', 'id = "SEN-011"', "id", "the file's own name"),
        ('id = "SEN-010"', 'id = "sen-10"', "id", "like SW-ENT-001"),
        ('["L1"]', '["L4"]', "layers[0]", "one of L1, L2-seed"),
        ('["L1"]', "[]", "layers", "a list of at least 1"),
        ('section = "s"', 'page = "s"', "sources[0].page", "publication, revision, section"),
        ('start = "ring1"', 'start = "ring2"', "case[0].start", "one of ring0, ring1, ring3, trip"),
        ('"data-rw"', '"data"', "case[0].gdt[0].type", "data-ro, data-rw"),
        ('hex = "cd2f"', 'hex = "cd2"', "case[0].code[0].hex", "hexadecimal digits"),
        ('"G_CODE+2"', '"G_CODE+"', "case[0].expect.trap.eip", "or an expression"),
        ("vector = 0x2F", "vektor = 0x2F", "case[0].expect.trap.vektor", "cs, eflags"),
        ("vector = 0x2F", "vector = true", "case[0].expect.trap.vector", "a number or"),
        ("[case.expect]", "[case.cpu]", "case[0].cpu.trap", "cr0, cr0_clear"),
        ("[[case]]", "[[fall]]", "fall", "case, control, core"),
        (
            "schema = 1",
            'schema = 1\nwaits_for = "x"',
            "case",
            "exactly one of case, family, program, waits_for",
        ),
        ("schema = 1", "schema = 1\nprogram = 1", "program", "the name of a program"),
        ("schema = 1", "schema == 1", "file", "TOML 1.0"),
        ("[case.expect]", "[case.deviation.XY]", "case[0].deviation.XY", "one of IU, IN"),
    ],
)
def test_a_bad_row_says_file_key_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, key: str, allowed: str
) -> None:
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(RowError) as caught:
        row.load(path)
    assert caught.value.file == str(path)
    assert caught.value.key == key
    assert allowed in caught.value.allowed


def test_two_cases_of_one_name_are_refused(tmp_path: Path) -> None:
    cases = GOOD.partition("[[case]]")[2]
    with pytest.raises(RowError, match=re.escape("case[1].name: 'one'; allowed: a name that no")):
        row.load(written(tmp_path, GOOD + "[[case]]" + cases))


def test_a_row_that_does_not_exist_is_told() -> None:
    with pytest.raises(RowError, match="no row is called SEN-999"):
        row.find("SEN-999")


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "SEN-010.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RowError, match="file: is not TOML"):
        row.load(path)
