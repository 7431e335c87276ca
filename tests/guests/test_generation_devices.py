"""Devices as each generation drives them: console, disk, random numbers and network card, on both buses.

The Guest "generation" has drivers that do what those of its kernel did, and looks at what the devices answer.
What it wrote to its disk is checked here, by arithmetic of our own.
"""

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from guests.running import HANGS_AFTER, listen

from kvmhost import Machine
from kvmhost.launcher.devices.console import Console
from kvmhost.launcher.images import shipped_guests

pytestmark = pytest.mark.lab

NAMES = [guest.name for guest in shipped_guests() if guest.name.startswith("generation-")]
# One of either bus goes the whole way of a user's command; for the rest, starting Python would cost too much.
BY_COMMAND = ["generation-3.1", "generation-4.1"]
WORDS = "console block rng net"
SECTOR, REGION_SECTORS = 512, 64
DISK_BYTES = 8 << 20


def region(name: str) -> int:
    """Which region of the disk is this generation's; as in guests/generation/block.c."""
    _, release, *pae = name.split("-")
    numbers = [int(number) for number in release.split(".")]
    number = numbers[2] if numbers[0] == 2 else numbers[0] * 20 - 20 + numbers[1]
    return number + 100 * len(pae)


def check_disk(disk: Path, name: str) -> None:
    """Its region has the pattern, and nothing else has anything."""
    start, size = region(name) * REGION_SECTORS * SECTOR, REGION_SECTORS * SECTOR
    data = disk.read_bytes()
    words = struct.unpack(f"<{size // 4}I", data[start : start + size])
    assert list(words) == [(word * 2654435761 ^ region(name) << 16) & 0xFFFFFFFF for word in range(size // 4)]
    assert len(data) == DISK_BYTES
    assert not any(data[:start])
    assert not any(data[start + size :])


def check_words(words: str, typed: str) -> None:
    lines = words.splitlines()
    assert f"It has been read: {typed}" in lines, words
    assert any(line.startswith("block: 16384 sectors, 64 of them written and read") for line in lines), words
    assert "rng: twice 64 bytes." in lines, words
    assert any(line.startswith("net: ") and line.endswith(" is there.") for line in lines), words


def make_disk(folder: Path) -> Path:
    disk = folder / "disk.img"
    disk.touch()
    with disk.open("r+b") as file:
        file.truncate(DISK_BYTES)
    return disk


@pytest.mark.parametrize("name", BY_COMMAND)
def test_by_the_command_of_a_user(name: str, tmp_path: Path) -> None:
    disk = make_disk(tmp_path)
    devices = ["--block", str(disk), "--rng", "--net", "user", "--append", f"only {WORDS}"]
    command = [sys.executable, "-P", "-m", "kvmhost", "run", name, "--json", *devices]
    child = subprocess.run(
        command, input="one two three\n", capture_output=True, text=True, check=False, timeout=HANGS_AFTER
    )
    assert child.stdout, child.stderr
    report = json.loads(child.stdout)
    ((guest,),) = [machine["guests"] for machine in report["machines"]]
    assert (child.returncode, guest["reason"]) == (0, "Power down"), guest
    check_words(guest["words"], "one two three")
    if "4.1" in name:
        # Before there is a driver, a character at a time.
        assert guest["words"].startswith("Speaking as 4.1.0.\n")
    check_disk(disk, name)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in BY_COMMAND])
def test_in_a_machine(name: str, tmp_path: Path) -> None:
    disk = make_disk(tmp_path)
    console = Console()
    console.type(b"four five six\n")
    with Machine() as machine:
        guest = machine.load(
            name, f"only {WORDS}", console=console, block=[str(disk)], net=["user"], rng=True
        )
        words = listen(guest)
        outcome = guest.run(timeout=HANGS_AFTER)
    text = b"".join(words).decode()
    assert outcome.reason == "Power down", text
    check_words(text, "four five six")
    check_disk(disk, name)


def test_a_guest_without_the_device_it_is_to_drive_says_so() -> None:
    with Machine() as machine:
        outcomes = [machine.load(name, "only block").run(timeout=HANGS_AFTER) for name in BY_COMMAND]
    assert [outcome.reason for outcome in outcomes] == ["FAILED: there is no disk"] * 2
