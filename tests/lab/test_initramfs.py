"""The initramfs reads back as what was put in."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmhost.lab import Kernel, LabError, initramfs
from kvmhost.lab.initramfs import build, cpio, memory_file


def entries(archive: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Reads a newc archive as the kernel's documentation describes it."""
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name = archive[at + 110 : at + 110 + fields[11]]
        assert name.endswith(b"\0")
        content = (at + 110 + fields[11] + 3) & ~3
        at = (content + fields[6] + 3) & ~3
        if name == b"TRAILER!!!\0":
            assert at == len(archive)
            return
        yield name[:-1].decode(), fields[1], archive[content : content + fields[6]]


@pytest.mark.parametrize("size", range(6))
def test_every_alignment(size: int) -> None:
    content = [("n" * (size + 1), stat.S_IFREG | 0o644, b"x" * size), ("f", stat.S_IFDIR | 0o755, b"")]
    assert list(entries(cpio(content))) == content


def test_what_is_in_it(tmp_path: Path) -> None:
    modules = [tmp_path / f"{name}.ko" for name in "zab"]
    for module in modules:
        module.write_bytes(module.name.encode())
    content = {
        name: (mode, data) for name, mode, data in entries(build(Kernel("x", tmp_path, tuple(modules))))
    }
    assert content["modules/order"][1] == b"z.ko\na.ko\nb.ko\n"
    assert content["modules/z.ko"][1] == b"z.ko"
    mode, init = content["init"]
    assert mode == stat.S_IFREG | 0o755
    # A program for this machine that needs no other file: static, 64-bit, x86-64.
    assert init[:6] == b"\x7fELF\x02\x01"
    assert init[16:20] == bytes([2, 0, 62, 0])
    assert b"ld-linux" not in init


def test_the_memory_file_can_be_opened_by_another_process() -> None:
    with memory_file(b"content") as fd:
        assert Path(f"/proc/self/fd/{fd}").read_bytes() == b"content"


def test_a_build_without_pid_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(initramfs, "INIT", tmp_path / "init")
    with pytest.raises(LabError, match="first process is missing"):
        build(Kernel("x", tmp_path, ()))
