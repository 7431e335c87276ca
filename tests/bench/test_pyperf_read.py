"""Files that are no results of ours: each is told for what it is, and what to do about it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyperf
import pytest
from bench.reports import NATIVE, report
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmhost.bench import pyperf_file
from kvmhost.bench.errors import ResultFileError
from kvmhost.bench.pyperf_read import read

GOOD = pyperf_file.text(report(NATIVE))


def refused(path: Path) -> str:
    with pytest.raises(ResultFileError) as caught:
        read(path)
    assert caught.value.cause and caught.value.next_step
    return f"{caught.value.message}: {caught.value.cause}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"\xff\xfe{}", "not text"),
        (b"name,unit\nswitch/a,ns\n", "not JSON: .* in line 1, column 1"),
        (b"[]", "an array"),
        (b"3", "a number"),
        (b"{}", "no file of pyperf's"),
        (b'{"benchmarks": [], "results": 1}', "no file of pyperf's"),
        (b'{"benchmarks": [], "version": "2.0"}', "version '2.0'"),
        (b'{"benchmarks": [], "version": [1]}', "version"),
        (b'{"benchmarks": {}, "version": "1.0"}', "no list of benchmarks"),
        (b'{"benchmarks": [3], "version": "1.0"}', "benchmark 0 is a number"),
        (b'{"benchmarks": [], "version": "1.0", "metadata": null}', "metadata is null"),
        (b'{"benchmarks": [], "version": "1.0"}', "not of kvmhost bench: it has other benchmarks: none"),
        (b'{"version": NaN}', "NaN where a number"),
        (b"[" * 100_000, "not JSON"),
        (b"1" * 10_000, "not JSON"),
        (GOOD[:-2].encode(), "cut off"),
        (GOOD[: len(GOOD) // 2].encode(), "cut off"),
        (GOOD[:1].encode(), "cut off"),
        ((GOOD + GOOD).encode(), "not JSON"),
    ],
)
def test_what_is_no_result_is_told_as_that(tmp_path: Path, text: bytes, said: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(text)
    assert re.search(said, refused(path))


def test_a_file_of_pyperfs_own_names_its_benchmarks(tmp_path: Path) -> None:
    runs = [
        pyperf.Run([1.0, 1.5], metadata={"name": name}, collect_metadata=True)
        for name in ("json_dumps", "nbody", "pickle", "telco")
    ]
    path = tmp_path / "theirs.json"
    pyperf.BenchmarkSuite([pyperf.Benchmark([run]) for run in runs]).dump(str(path))
    assert "it has other benchmarks: json_dumps, nbody, pickle, ..." in refused(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none.json")
    assert "directory" in refused(tmp_path)
    assert "larger than any result" in refused(Path("/dev/zero"))


def test_a_pipe_can_be_read(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    with os.fdopen(theirs, "w") as writer:
        writer.write(GOOD)
    assert read(Path(f"/dev/fd/{ours}")).provenance == NATIVE
    os.close(ours)


def changed(tmp_path: Path, change: Callable[[Any], object]) -> Path:
    whole = json.loads(GOOD)
    change(whole)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(whole))
    return path


def run(whole: Any) -> Any:
    """The first run of "switch/round-trip"."""
    return whole["benchmarks"][1]["runs"][0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda whole: whole["metadata"].update(kvmhost_format=2),
            "another kvmhost: its own part has format 2",
        ),
        (lambda whole: whole["metadata"].update(kvmhost_format="x"), "format 'x'"),
        (lambda whole: whole["metadata"].pop("kvmhost_results"), "lack kvmhost_results"),
        (lambda whole: whole["metadata"].update(kvmhost_results="{}"), "kvmhost_results is no list"),
        (lambda whole: whole["metadata"].update(kvmhost_results="[]"), "list of results lacks boot/traps"),
        (lambda whole: whole["metadata"].update(kvmhost_results="[[1]]"), "an entry that is none"),
        (lambda whole: whole["metadata"].update(kvmhost_results='[["a", "s", ""]]'), "no unit of ours"),
        (lambda whole: whole["metadata"].update(kvmhost_results="["), "cut off"),
        (lambda whole: whole["metadata"].update(kvmhost_spoilers='[["a"]]'), "list of spoilers"),
        (lambda whole: whole["metadata"].update(kvmhost_interrupted=999), "999, which is no signal"),
        (lambda whole: whole["metadata"].update(kvmhost_seconds=[]), "its seconds is an array"),
        (lambda whole: whole["benchmarks"][1].pop("runs"), "round-trip .value. has no list of runs"),
        (lambda whole: whole["benchmarks"][1].pop("metadata"), "benchmark 1 lacks kvmhost_benchmark"),
        (lambda whole: whole["benchmarks"][1]["metadata"].pop("kvmhost_kind"), "lacks kvmhost_kind"),
        (lambda whole: whole["benchmarks"][1]["metadata"].update(kvmhost_unit="m"), "'m', which is no unit"),
        (lambda whole: whole["benchmarks"][1]["metadata"].update(kvmhost_shift="1"), "shift .* a string"),
        (lambda whole: whole["benchmarks"][1]["runs"].append(3), "a run of .* is a number"),
        (lambda whole: run(whole).pop("values"), "no list of values"),
        (lambda whole: run(whole)["values"].append("9"), "value of .* is a string"),
        (lambda whole: run(whole)["values"].append(True), "is a truth value"),
        (lambda whole: run(whole)["values"].append(10**400), "too large a number"),
        (lambda whole: run(whole).update(warmups=[[1, None]]), "warm-up of .* is null"),
        (lambda whole: run(whole).update(warmups=5), "no list of warmups"),
        (lambda whole: run(whole)["metadata"].pop("loops"), "lacks loops"),
        (lambda whole: run(whole)["metadata"].update(loops=1.5), "lacks loops, or it is no count"),
        (lambda whole: run(whole)["metadata"].update(kvmhost_run=-1), "lacks kvmhost_run"),
    ],
)
def test_what_is_missing_or_wrong_is_named(
    tmp_path: Path, change: Callable[[Any], object], said: str
) -> None:
    assert re.search(said, refused(changed(tmp_path, change)))


def test_a_number_beyond_all_numbers(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    path.write_text(GOOD.replace("815.5", "1e999"))
    assert "too large a number" in refused(path)


def test_what_is_not_known_of_the_machine_is_unknown(tmp_path: Path) -> None:
    def forget(whole: Any) -> None:
        for key in ("cpu_model_name", "platform", "kvmhost_microcode", "kvmhost_backend", "kvmhost_tsc_hz"):
            del whole["metadata"][key]

    found = read(changed(tmp_path, forget)).provenance
    assert (found.cpu, found.kernel, found.microcode, found.backend, found.tsc_hz) == ("unknown",) * 4 + (0,)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_anything_in_any_place_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole: Any = json.loads(GOOD)
    place, key = whole, data.draw(st.sampled_from(sorted(whole)))
    while isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
    place[key] = data.draw(JSON)
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(whole))
    try:
        assert read(path).results is not None
    except ResultFileError as error:
        assert error.cause and error.next_step
