"""What the README promises a newcomer: commands that parse, Guests that exist, an example that runs."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import pytest

from kvmhost.cli.commentary import PARTS
from kvmhost.cli.entry import parser
from kvmhost.launcher.images import SHIPPED

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
COMMAND = re.compile(
    r"(?:`|^ {4}(?:sudo )?)(?:\$PWD/\.venv/bin/)?(kvmhost (?:run|doctor|journey)[^`#\n]*)", re.M
)


def test_it_fits_on_a_screen() -> None:
    assert len(README.splitlines()) <= 60
    assert max(map(len, README.splitlines())) <= 120


def test_its_commands_parse() -> None:
    commands = [shlex.split(found) for found in COMMAND.findall(README)]
    assert len(commands) >= 6
    for _, *words in commands:
        assert callable(parser().parse_args(words).command), words
        if words[0] == "journey":
            assert set(words[1:]) <= set(PARTS)


def test_the_guests_it_names_are_shipped() -> None:
    names = set(re.findall(r"kvmhost run ([a-z]+)", README))
    assert {"hello", "pair"} <= names
    assert [name for name in names if not (SHIPPED / f"{name}.elf").is_file()] == []


def test_the_two_commands_exist_and_can_be_executed() -> None:
    for command in re.findall(r"^ {4}(\./ci/\w+)", README, re.M):
        assert (REPOSITORY / command).stat().st_mode & 0o111, command
    assert "./ci/demo" in README
    assert "./ci/test" in README


@pytest.mark.lab
def test_its_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    block = re.search(r"^ {4}from kvmhost import.*?(?=^\S)", README, re.M | re.S)
    assert block is not None
    exec(compile(textwrap.dedent(block[0]), "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert re.search(r"^0x[0-9a-f]+ from 0x[0-9a-f]+$", out, re.M)
    assert "POWERED_OFF" in out
