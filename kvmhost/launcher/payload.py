"""Unpacks what kernels and initrds are packed with, as far as the standard library can and was asked to.

What comes in was written by anybody: a few bytes may claim to be gigabytes.  So everything here has a limit,
in bytes that come out and in memory that is needed for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from bz2 import BZ2Decompressor
    from lzma import LZMADecompressor

METHODS: Final = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x5d\0\0": "lzma",
    b"\x89LZO\0": "lzo",
    b"\x02\x21L\x18": "lz4",
    b"\x28\xb5\x2f\xfd": "zstd",
}
READABLE: Final = ("gzip", "bzip2", "xz", "lzma")
# Kernels and initrds are packed with dictionaries of at most 64 MiB.
DICTIONARY_LIMIT: Final = 96 << 20


class PayloadError(Exception):
    """What is packed is damaged, too large, or packed in a way that cannot be read here."""


def method(data: bytes) -> str | None:
    """How `data` is packed, by its first bytes; None if it is not, or nobody knows how.

    >>> method(bytes.fromhex("1f8b08")), method(b"070701")
    ('gzip', None)
    """
    return next((name for magic, name in METHODS.items() if data.startswith(magic)), None)


def decompress(data: bytes, limit: int, *, cut: bool = False) -> bytes:
    """What the first packed stream in `data` holds; what follows it is ignored.

    At most `limit` bytes: more of them are an error, or are left out with `cut`.  Raises PayloadError.

    >>> import gzip
    >>> decompress(gzip.compress(b"kernel") + b"size", 100)
    b'kernel'
    """
    how = method(data)
    if how not in READABLE:
        raise PayloadError(f"it is packed with {how}" if how else "it is packed in a way nobody knows")
    try:
        text, finished = {"gzip": _gunzip, "bzip2": _bunzip2}.get(how, _unxz)(data, limit + 1)
    except (OSError, EOFError, ValueError, MemoryError) as error:
        raise PayloadError(f"its {how} stream is damaged ({error})") from error
    if len(text) > limit:
        if cut:
            return text[:limit]
        raise PayloadError(f"its {how} stream unpacks to more than {limit >> 20} MiB")
    if not finished:
        raise PayloadError(f"its {how} stream has no end")
    return text


def _gunzip(data: bytes, limit: int) -> tuple[bytes, bool]:
    """At most `limit` bytes, and whether the stream ended there. Each is imported when it is met."""
    import zlib

    stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        return stream.decompress(data, limit), stream.eof
    except zlib.error as error:
        raise ValueError(str(error)) from error


def _bunzip2(data: bytes, limit: int) -> tuple[bytes, bool]:
    import bz2

    stream = bz2.BZ2Decompressor()
    return _drain(stream, data, limit), stream.eof


def _unxz(data: bytes, limit: int) -> tuple[bytes, bool]:
    import lzma

    form = lzma.FORMAT_XZ if method(data) == "xz" else lzma.FORMAT_ALONE
    stream = lzma.LZMADecompressor(form, memlimit=DICTIONARY_LIMIT)
    try:
        return _drain(stream, data, limit), stream.eof
    except lzma.LZMAError as error:
        raise ValueError(str(error)) from error


def _drain(stream: BZ2Decompressor | LZMADecompressor, data: bytes, limit: int) -> bytes:
    """These two may return before the limit although there is more."""
    pieces = [stream.decompress(data, limit)]
    size = len(pieces[0])
    while size < limit and not (stream.eof or stream.needs_input):
        pieces.append(stream.decompress(b"", limit - size))
        size += len(pieces[-1])
    return b"".join(pieces)
