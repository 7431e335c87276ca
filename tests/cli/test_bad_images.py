"""Images that are none and sizes that cannot be: refused here, with a reason, and nothing left open.

No virtual machine is made for any of these, so they need no KVM.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.elves import elf

from kvmhost.cli import main
from kvmhost.cli.failures import GUEST_FAILED, USAGE

HALT = b"\xf4"
GOOD = elf(HALT)

IMAGES = {
    "empty": (b"", GUEST_FAILED, "is empty"),
    "text": (b"#!/bin/sh\n", GUEST_FAILED, "is not an ELF file"),
    "truncated in the magic": (GOOD[:3], GUEST_FAILED, "is not an ELF file"),
    "truncated in the header": (GOOD[:40], GUEST_FAILED, "is truncated"),
    "truncated in the program headers": (GOOD[:70], GUEST_FAILED, "is truncated"),
    "truncated in the segment": (elf(b"\x90" * 64)[:-1], GUEST_FAILED, "is truncated"),
    "64-bit": (elf(HALT, elf_class=2, machine=62), GUEST_FAILED, "is a 64-bit kernel or program"),
    "for ARM": (elf(HALT, machine=40), GUEST_FAILED, "is for ARM, not for i386"),
    "x86-64 in a 32-bit file": (elf(HALT, machine=62), GUEST_FAILED, "is for x86-64, not for i386"),
    "an object file": (elf(HALT, kind=1), GUEST_FAILED, "never linked"),
    "a shared object": (elf(HALT, kind=3), GUEST_FAILED, "shared object"),
    "over the top of memory": (elf(HALT, memory_size=64 << 20), GUEST_FAILED, "does not fit into"),
    "far above memory": (elf(HALT, physical=0x80000000), GUEST_FAILED, "does not fit into"),
    "over the end of 32 bits": (elf(HALT, physical=0xFFFFF000, memory_size=0x2000), GUEST_FAILED, "32 bits"),
    "over the boot parameters": (elf(HALT, physical=0x1000), GUEST_FAILED, "overlaps the boot parameters"),
    "entered outside itself": (elf(HALT, entry=0x200000), GUEST_FAILED, "begins at 0x200000"),
}

MEMORY = {
    "0": "no memory",
    "0M": "no memory",
    "1": "too few",
    "4095K": "no whole number of pages|too few",
    "5G": "too many",
    "5120M": "too many",
    "4G": "too many",
    "-1": "",
    "64X": "is not a size",
    "": "is not a size",
    "99999999999999999999G": "too many",
}


def open_descriptors() -> list[str]:
    """The numbers of this process's open files, with that of the listing itself, before and after."""
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    """Every descriptor that a command opened is closed when it ends, however it ends."""
    before = open_descriptors()
    yield
    assert open_descriptors() == before


@pytest.mark.parametrize("what", IMAGES)
def test_a_bad_image(what: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data, code, reason = IMAGES[what]
    path = tmp_path / "guest.elf"
    path.write_bytes(data)
    assert main(["run", str(path)]) == code
    check_words(capfd, reason)


@pytest.mark.parametrize("size", MEMORY)
def test_a_bad_size(size: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "guest.elf"
    path.write_bytes(GOOD)
    assert main(["run", str(path), "--memory", size]) == USAGE
    check_words(capfd, *MEMORY[size].split("|"))


def test_a_missing_image(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tmp_path / "nothing.elf")]) == USAGE
    check_words(capfd, "there is no Guest called")


def test_a_folder_is_no_image(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tmp_path)]) == USAGE
    check_words(capfd, "is not a file")


def test_a_pipe_is_no_image_and_is_not_waited_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert main(["run", str(tmp_path / "pipe")]) == USAGE
    check_words(capfd, "is not a file")


def test_a_socket_is_no_image(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        assert main(["run", str(tmp_path / "s")]) == USAGE
    check_words(capfd, "is not a file")


def test_one_bad_image_among_good_ones(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.elf").write_bytes(GOOD)
    (tmp_path / "bad.elf").write_bytes(GOOD[:40])
    assert main(["run", str(tmp_path / "good.elf"), str(tmp_path / "bad.elf")]) == GUEST_FAILED
    check_words(capfd, "bad.elf is truncated")


def test_a_command_line_that_is_too_long(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.elf").write_bytes(GOOD)
    assert main(["run", str(tmp_path / "good.elf"), "--append", "x" * 100_000]) == USAGE
    check_words(capfd, "is too long")


def test_an_initrd_larger_than_memory(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.elf").write_bytes(GOOD)
    with (tmp_path / "initrd").open("wb") as file:
        file.truncate(5 << 20)
    line = ["run", str(tmp_path / "good.elf"), "--initrd", str(tmp_path / "initrd"), "--memory", "4M"]
    assert main(line) == GUEST_FAILED
    check_words(capfd, "the initrd takes 5 MiB")


def check_words(capfd: pytest.CaptureFixture[str], *reasons: str) -> None:
    """One of the reasons was given, with advice, on stderr; stdout stays the Guest's, and empty."""
    out, err = capfd.readouterr()
    assert out == ""
    assert any(reason in err for reason in reasons), err
    assert "Traceback" not in err
    assert "what to do: " in err or "usage: " in err, err
