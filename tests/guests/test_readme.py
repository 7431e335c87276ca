"""What guests/README.md tells a person who builds a kernel is what kvmhost looks for in one."""

import re
import shlex
from pathlib import Path

import pytest

from kvmhost.cli.entry import parser
from kvmhost.host.abi import ABIS, Abi
from kvmhost.launcher.hints import HINTS
from kvmhost.launcher.linux import UNPACKERS
from kvmhost.launcher.verdict import driver_options, guest_options

README = (Path(__file__).parents[2] / "guests" / "README.md").read_text()
RANGES = {"2.6.24 to 3.9": "3.9", "3.10 to 3.19": "3.19", "4.0 to 4.13": "4.13"}


def row(start: str) -> str:
    return next(line for line in README.splitlines() if line.startswith(f"| {start}"))


@pytest.mark.parametrize(("title", "release"), RANGES.items())
def test_the_options_of_a_release(title: str, release: str) -> None:
    told = row(title)
    if "the same" in told:
        told += row("3.10 to 3.19")
    assert set(re.findall(r"CONFIG_(\w+)", told)) == set(guest_options(release))
    first = title.split()[0]
    assert guest_options(first) == guest_options(release)


@pytest.mark.parametrize("abi", ABIS, ids=lambda abi: abi.name)
def test_the_drivers(abi: Abi) -> None:
    for option in driver_options(abi):
        assert f"`CONFIG_{option}`" in README


def test_how_initrds_are_packed() -> None:
    told = row("`CONFIG_RD_GZIP`")
    for first, option, _ in UNPACKERS.values():
        if first <= (4, 13, 0):
            assert f"`{option}`" in told or f"`CONFIG_{option}`" in told
        if (2, 6, 30) < first <= (4, 13, 0):
            assert f"`{option}` ({'.'.join(map(str, first)).removesuffix('.0')})" in told


def test_its_commands_parse() -> None:
    commands = re.findall(r"(?:`|^    )(kvmhost (?:run|inspect) [^`\n]+)", README, re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        assert callable(parser().parse_args(shlex.split(command)[1:]).command)


def test_the_panics_it_explains_are_known() -> None:
    quoted = [line for line in README.splitlines() if line.startswith('| "')]
    assert len(quoted) >= 3
    for text in re.findall(r'"(Unable[^"]*|No [^"]*|Failed[^"]*)"', "\n".join(quoted)):
        assert any(pattern.search(f"{text} ".encode()) for pattern, _ in HINTS), text
