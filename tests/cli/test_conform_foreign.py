"""`kvmhost conform --switcher FILE --offsets FILE`: somebody else's Switcher goes through the rows.

It is assembled here from the source that the loader's tests have, which follows the ABI and nothing else of
ours: other registers, the other order of LIDT and LGDT, and the Host's segments pushed the other way round.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from switcher.build import assemble
from switcher.test_foreign import GENERATIONS, SOURCE, build

from kvmhost.cli import main
from kvmhost.cli.failures import DONE, USAGE
from kvmhost.switcher import load

CHECK_FAILED = 1
# The rows that say how the seed's way in is written: nothing else may notice this Switcher.
OTHER_ORDER = {"SW-ENT-001", "SW-ENT-006", "SW-SEG-001", "SW-STK-001"}


def conform(*words: object) -> int:
    return main(["conform", *map(str, words)])


def offsets(folder: Path, said: object) -> Path:
    path = folder / "offsets.json"
    path.write_text(said if isinstance(said, str) else json.dumps(said))
    return path


def bare(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The text of the object alone, and everything that must be said of it then."""
    blob = load(str(build(folder)))
    text = folder / "switcher.bin"
    text.write_bytes(blob.text)
    return text, {
        "frame": "2.6.24",
        "descriptors": 6,
        "symbols": dict(blob.symbols),
        "default_idt_entries": list(blob.default_idt_entries),
        "sha256": blob.sha256,
    }


def statuses(report: Path, row: str) -> Counter[str]:
    """How the cases of the foreign Switcher came out."""
    rows = json.loads(report.read_text())["rows"]
    cases = [case for each in rows if each["id"] == row or not row for case in each["cases"]]
    return Counter(case["status"] for case in cases if case["layer"] == "L3-foreign")


def of_the_help(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The offsets that --help names as enough for an object."""
    assert conform("--help") == DONE
    found = re.search(r"An object .* than (\{.*?\})\.", capsys.readouterr().out)
    assert found is not None
    said: dict[str, Any] = json.loads(found[1])
    return said


def test_the_example_of_the_help_is_enough_for_an_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = offsets(tmp_path, of_the_help(capsys))
    report = tmp_path / "r.json"
    words = ("SW-RET", "SW-POP", "--runner", "tcg", "--json", report)
    assert conform(*words, "--switcher", build(tmp_path), "--offsets", said) == DONE
    assert set(statuses(report, "")) == {"PASS"} and statuses(report, "").total() > 10
    # It looks for its pages by rounding: the hazard of the seed is not there, and that is said.
    (hazard,) = (row for row in json.loads(report.read_text())["rows"] if row["id"] == "SW-POP-005")
    reasons = {case.get("alternative", "") for case in hazard["cases"] if case["layer"] == "L3-foreign"}
    assert len(reasons) == 1 and "rounding" in reasons.pop()


@pytest.mark.parametrize(("frame", "size"), GENERATIONS)
def test_only_its_way_in_is_noticed(frame: str, size: int, tmp_path: Path) -> None:
    said, report = offsets(tmp_path, {"frame": frame, "descriptors": size}), tmp_path / "r.json"
    switcher = build(tmp_path, frame, size)
    words = ("SW-ENT", "SW-SEG", "SW-STK", "SW-CR3", "--runner", "tcg", "--json", report)
    assert conform(*words, "--switcher", switcher, "--offsets", said) == CHECK_FAILED
    rows = json.loads(report.read_text())["rows"]
    failed = {row["id"] for row in rows for case in row["cases"] if case["status"] == "FAIL"}
    assert failed == OTHER_ORDER


def test_a_bare_text_with_everything_said(tmp_path: Path) -> None:
    text, said = bare(tmp_path)
    report = tmp_path / "r.json"
    words = ("SW-RET-001", "--runner", "tcg", "--json", report, "--switcher", text)
    assert conform(*words, "--offsets", offsets(tmp_path, said)) == DONE
    assert statuses(report, "SW-RET-001")["PASS"] > 0


def test_a_place_that_is_not_known_is_no_verdict(tmp_path: Path) -> None:
    """With labels that name no instruction, what goes through one is skipped and says why."""
    text, said = bare(tmp_path)
    said["boundaries"] = {"E00": said["symbols"]["switch_to_guest"]}
    report = tmp_path / "r.json"
    words = ("SW-RET-001", "SNP-001", "SW-IRT", "--runner", "tcg", "--json", report, "--switcher", text)
    assert conform(*words, "--offsets", offsets(tmp_path, said)) == DONE
    found = statuses(report, "")
    assert found["SKIP"] > 0 and found["PASS"] > 0 and set(found) == {"SKIP", "PASS"}
    cases = [case for row in json.loads(report.read_text())["rows"] for case in row["cases"]]
    reasons = {case.get("because", "") for case in cases if case["layer"] == "L3-foreign"}
    assert any("among the offsets of switcher" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"frame": "2.6.24"}, "descriptors missing"),
        ({"frame": "2.6.24", "descriptors": 6, "frmae": 1, "x": 2}, "nobody knows 'frmae', 'x'; there are"),
        ({"frame": "2.6.25", "descriptors": 6}, "frame is '2.6.25'; it may be '2.6.23' or '2.6.24'"),
        ({"frame": ["2.6.24"], "descriptors": 6}, "frame is ['2.6.24']; it may be"),
        ({"frame": "2.6.24", "descriptors": 6.0}, "descriptors is 6.0; it may be 6 or 8"),
        ({"frame": "2.6.24", "descriptors": 8}, "it was built for 6-byte descriptors, not 8"),
        ({"frame": "2.6.23", "descriptors": 6}, "it was built for the frame order 2.6.24"),
        ({"frame": "2.6.24", "descriptors": 6, "follows": "linux"}, "it may be 'seed' or 'hardened'"),
        ({"frame": "2.6.24", "descriptors": 6, "symbols": {}}, "an object file says that itself"),
        ({"frame": "2.6.24", "descriptors": 6, "boundaries": {"E00": -1}}, "boundaries.E00 is -1"),
        ({"frame": "2.6.24", "descriptors": 6, "boundaries": [1]}, "boundaries must be an object"),
        ({"frame": "2.6.24", "descriptors": 6, "size": 1}, "size is 1, and that of the text is"),
        ([], "an object is expected"),
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        (" " * (1 << 20) + "{}", "more than 1048576 bytes"),
    ],
)
def test_offsets_that_are_wrong(
    said: object, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("SW-ENT-001", "--runner", "tcg", "--switcher", build(tmp_path))
    assert conform(*words, "--offsets", offsets(tmp_path, said)) == USAGE
    said_of_it = capsys.readouterr().err
    assert complaint in said_of_it and "what to do: " in said_of_it


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert conform("SW-ENT-001", "--runner", "tcg", *words) == USAGE
    said = capsys.readouterr().err
    assert "what to do: " in said
    return said


def test_an_object_without_symbols(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from elftools.elf.elffile import ELFFile

    path, said = build(tmp_path), offsets(tmp_path, {"frame": "2.6.24", "descriptors": 6})
    with path.open("rb") as file:
        elf = ELFFile(file)
        names = [section.name for section in elf.iter_sections()]
        at = elf["e_shoff"] + names.index(".symtab") * elf["e_shentsize"]
    data = bytearray(path.read_bytes())
    data[at : at + 4] = bytes(4)  # its name: there is no section .symtab any more
    path.write_bytes(data)
    assert "it has no symbols" in refused(capsys, "--switcher", path, "--offsets", said)


def test_an_object_that_is_no_switcher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = tmp_path / "other.S"
    changed.write_text(SOURCE.read_text().replace("\nswitch_to_guest:", "\nstart_guest:"))
    path = assemble(changed, tmp_path / "other.o", "-DFRAME=2624", "-DDESC=6")
    said = offsets(tmp_path, {"frame": "2.6.24", "descriptors": 6})
    assert "does not define switch_to_guest" in refused(capsys, "--switcher", path, "--offsets", said)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"symbols": None}, "it is no ELF file, and"),
        ({"default_idt_entries": None}, "it is no ELF file, and"),
        ({"symbols": {}}, "no symbol switch_to_guest"),
        ({"symbols": {"switch_to_guest": 5000}}, "symbols.switch_to_guest is 5000"),
        ({"default_idt_entries": [0] * 255}, "255 stub addresses"),
        ({"default_idt_entries": [True] * 256}, "must be offsets below"),
        ({"sha256": "0"}, "sha256 is '0', and that of the text is"),
    ],
)
def test_a_bare_text_of_which_too_little_is_known(
    change: Mapping[str, Any], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, said = bare(tmp_path)
    said = {key: value for key, value in {**said, **change}.items() if value is not None}
    assert complaint in refused(capsys, "--switcher", text, "--offsets", offsets(tmp_path, said))


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    switcher, said = build(tmp_path), offsets(tmp_path, {"frame": "2.6.24", "descriptors": 6})
    gone = tmp_path / "gone"
    assert "No such file" in refused(capsys, "--switcher", gone, "--offsets", said)
    assert "No such file" in refused(capsys, "--switcher", switcher, "--offsets", gone)
    assert "directory" in refused(capsys, "--switcher", tmp_path, "--offsets", said)
    assert "belong together" in refused(capsys, "--switcher", switcher)
    assert "belong together" in refused(capsys, "--offsets", said)
    empty, large = tmp_path / "empty", tmp_path / "large"
    empty.touch()
    large.write_bytes(bytes(5000))
    assert "no ELF file" in refused(capsys, "--switcher", empty, "--offsets", said)
    assert "more than 4096 bytes" in refused(capsys, "--switcher", large, "--offsets", said)
