"""Taking files out of a Debian package without installing it: an ar archive that holds a
tar archive, compressed in one of three ways. The standard library reads all of it but
Zstandard, which Python has from 3.14 on and which a small program does everywhere else."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from kvmhost.lab.apt import install_line
from kvmhost.lab.errors import LabError

AR_MAGIC = b"!<arch>\n"
AR_HEADER_SIZE = 60

XZ_MAGIC = b"\xfd7zXZ\0"
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
LZMA_MAGIC = b"\x5d\0\0"


def decompress(data: bytes) -> bytes:
    """Returns what `data` holds, by the magic number it starts with; other data as it is.

    Bytes behind the end of an xz or gzip stream are ignored (a kernel image has its own
    size there). Raises LabError when nothing on this machine reads Zstandard.

    >>> import gzip
    >>> decompress(gzip.compress(b"a module") + b"1234"), decompress(b"plain")
    (b'a module', b'plain')
    """
    if data.startswith((XZ_MAGIC, LZMA_MAGIC)):
        import lzma

        return lzma.LZMADecompressor().decompress(data)
    if data.startswith(GZIP_MAGIC):
        import zlib

        return zlib.decompressobj(wbits=31).decompress(data)
    if data.startswith(ZSTD_MAGIC):
        return _zstd(data)
    return data


def _zstd(data: bytes) -> bytes:
    program = shutil.which("zstd")
    if program is None:
        raise LabError(
            "the kernel is compressed with Zstandard and nothing here reads that",
            next_step=install_line("zstd"),
        )
    # Told by its exit code alone: trailing bytes make it complain after all is written.
    done = subprocess.run([program, "-dc"], input=data, capture_output=True, check=False)
    if not done.stdout:
        raise LabError(
            f"zstd cannot read the kernel: {done.stderr.decode(errors='replace').strip()}",
            next_step="delete the package and fetch it again",
        )
    return done.stdout


def _data_member(package: IO[bytes]) -> IO[bytes]:
    """The package's data.tar.*, positioned at its start."""
    if package.read(len(AR_MAGIC)) != AR_MAGIC:
        raise ValueError("not an ar archive")
    while header := package.read(AR_HEADER_SIZE):
        name, size = header[:16].rstrip(b" /"), int(header[48:58])
        if name.startswith(b"data.tar"):
            data = package.read(size)
            if len(data) < size:
                raise ValueError("cut short")
            return io.BytesIO(_zstd(data) if data.startswith(ZSTD_MAGIC) else data)
        package.seek(size + size % 2, io.SEEK_CUR)
    raise ValueError("no data.tar in it")


def files_of_package(package: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yields (path, open file) of each regular file in a .deb, in the archive's order.

    Paths are relative to /, as in "boot/vmlinuz-6.1.0". A file is only readable until the
    next one is asked for. Raises LabError when the package is damaged.
    Format: deb(5), ar(5).
    """
    import lzma

    try:
        with (
            package.open("rb") as outer,
            tarfile.open(fileobj=_data_member(outer), mode="r|*") as inner,
        ):
            for member in inner:
                content = inner.extractfile(member) if member.isfile() else None
                if content is not None:
                    yield member.name.removeprefix("./"), content
    except (ValueError, EOFError, tarfile.TarError, lzma.LZMAError) as error:
        raise LabError(
            f"{package} is no usable Debian package ({error})",
            next_step=f"rm {package} and fetch it again",
        ) from error
