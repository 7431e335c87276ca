"""The run as JSON: nothing is lost on the way, and no file of somebody else's is believed."""

import json
from pathlib import Path

import pytest
from conformance.made_up import run

from kvmhost.conformance.errors import ReportError
from kvmhost.conformance.report import as_json


def test_there_and_back() -> None:
    assert as_json.parse(as_json.render(run()), "a report") == run()


def test_a_default_is_not_written() -> None:
    assert "interrupted" not in json.loads(as_json.render(run()))


def test_it_is_ascii_and_one_line() -> None:
    text = as_json.render(run())
    assert text.isascii() and text.count("\n") == 1 and text.endswith("\n")


def changed(**keys: object) -> str:
    return json.dumps(json.loads(as_json.render(run())) | keys)


@pytest.mark.parametrize(
    ("text", "message", "cause"),
    [
        ("", "not a whole JSON file", "Expecting value"),
        (as_json.render(run())[:-99], "not a whole JSON file", ""),
        ("[" * 100000, "not a whole JSON file", ""),
        ("\N{SNOWMAN}", "not a whole JSON file", ""),
        ("[]", "not a report of", ""),
        ('{"format": "junit"}', "not a report of", ""),
        (changed(schema=2), "another version", "its schema is 2"),
        (changed(schema=None), "another version", "its schema is None"),
        (changed(rows=3), "damaged", "rows is no list"),
        (changed(seed="7"), "damaged", "seed is '7', not of type int"),
        (changed(seed=True), "damaged", "seed is True, not of type int"),
        (changed(rows=[{"id": "A"}]), "damaged", "rows[0] lacks 'group'"),
        (changed(extra=1), "damaged", "unknown key 'extra'"),
        (changed(environments=[None]), "damaged", "environments[0] is no object"),
        (changed(matrix=4), "damaged", "matrix is no object"),
        (as_json.render(run()).replace('"XFAIL"', '"MAYBE"'), "damaged", "status is 'MAYBE'"),
    ],
)
def test_what_is_no_report_is_refused_by_name(text: str, message: str, cause: str) -> None:
    with pytest.raises(ReportError) as caught:
        as_json.parse(text, "base.json")
    assert message in caught.value.message and "base.json" in caught.value.message
    assert cause in caught.value.cause and caught.value.next_step


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(ReportError, match="not a whole JSON file"):
        as_json.parse(b"\xff\xfe\x00", "x")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="cannot read"):
        as_json.read(tmp_path / "none.json")
