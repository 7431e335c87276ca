"""Files come out of a Debian package as they went in, whatever compressed them; damage is told."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest
from lab.things import debian_package, program

from kvmhost.lab import LabError
from kvmhost.lab.archive import decompress, files_of_package

FILES = {"boot/vmlinuz-1": b"odd", "lib/modules/1/a.ko": bytes(range(256)) * 1000}


def unpack(package: Path) -> dict[str, bytes]:
    return {name: content.read() for name, content in files_of_package(package)}


@pytest.mark.parametrize("kind", ["xz", "gz", ""])
def test_files_of_a_package(tmp_path: Path, kind: str) -> None:
    assert unpack(debian_package(tmp_path / "a.deb", FILES, kind)) == FILES


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"<html>not found</html>" + data, id="no archive"),
        pytest.param(lambda data: data[: len(data) // 2], id="cut short"),
        pytest.param(lambda data: data[:-200] + b"\xff" * 100 + data[-100:], id="damaged inside"),
        pytest.param(lambda data: data.replace(b"data.tar.xz", b"nota.tar.xz"), id="no data"),
    ],
)
def test_a_damaged_package(tmp_path: Path, spoil: object) -> None:
    package = debian_package(tmp_path / "a.deb", FILES)
    assert callable(spoil)
    package.write_bytes(spoil(package.read_bytes()))
    with pytest.raises(LabError) as caught:
        unpack(package)
    assert str(package) in caught.value.cause
    assert caught.value.next_step.startswith(f"rm {package}")


@pytest.mark.parametrize(
    "compress",
    [
        pytest.param(gzip.compress, id="gzip"),
        pytest.param(lzma.compress, id="xz"),
        pytest.param(lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE), id="lzma"),
        pytest.param(lambda data: lzma.compress(data, check=lzma.CHECK_CRC32), id="xz as kernels use it"),
    ],
)
def test_what_follows_a_compressed_stream_is_ignored(compress: object) -> None:
    assert callable(compress)
    assert decompress(compress(b"kernel" * 1000) + b"\x00\x01\x02\x03") == b"kernel" * 1000


ZSTD = bytes.fromhex("28b52ffd0458410000") + b"a kernel" + bytes.fromhex("00000000")


def test_zstandard_is_read_by_a_program(programs: Path) -> None:
    # A stand-in that shows what it was given: whether zstd itself is right is not ours to test.
    program(programs, "zstd", '[ "$*" = -dc ] && exec /usr/bin/tail -c 12')
    assert decompress(ZSTD) == ZSTD[-12:]


def test_zstandard_without_that_program(programs: Path) -> None:
    with pytest.raises(LabError, match="Zstandard") as caught:
        decompress(ZSTD)
    assert caught.value.next_step.endswith("apt-get install --no-install-recommends zstd")


def test_zstandard_that_is_damaged(programs: Path) -> None:
    program(programs, "zstd", "echo 'stdin: corrupted' >&2; exit 1")
    with pytest.raises(LabError, match="corrupted"):
        decompress(ZSTD)
