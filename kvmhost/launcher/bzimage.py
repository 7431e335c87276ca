"""Reads a bzImage the way lguest's Launcher did from 2.6.24 on: hardly at all.

The real-mode part is skipped, the rest is copied to 1 MiB, and the decompressor begins at code32_start.  The
image's own setup header is *not* copied: the Launcher writes a fresh one (abi 9.3).
"""

import struct
from typing import Final

from kvmhost._native import lib
from kvmhost.launcher.elf import BUILD_AGAIN, BUILD_I386
from kvmhost.launcher.errors import ImageError
from kvmhost.launcher.image import Image, Segment
from kvmhost.launcher.linux import Kernel

SECTOR: Final = 512
MAGIC: Final = b"HdrS"
DEFAULT_SETUP_SECTS: Final = 4
PROTOCOL_WITH_XLOADFLAGS: Final = 0x020C
XLF_KERNEL_64: Final = 1
LONGEST_RELEASE: Final = 64


def is_bzimage(data: bytes) -> bool:
    """Whether `data` has the magic word of Linux's boot protocol.

    >>> is_bzimage(bytes(0x202) + b"HdrS")
    True
    """
    return data[lib.BZIMAGE_MAGIC : lib.BZIMAGE_MAGIC + 4] == MAGIC


def parse(data: bytes, name: str) -> Image:
    """The decompressor in `data`, to be loaded at 1 MiB. Raises ImageError.

    >>> parse(bytes(0x202) + b"HdrS", "kernel")
    Traceback (most recent call last):
    ...
    kvmhost.launcher.errors.ImageError: kernel is truncated. Next: copy or build it again: its end is missing
    """
    if len(data) < 2 * SECTOR:
        raise ImageError(f"{name} is truncated", BUILD_AGAIN)
    version = int(struct.unpack_from("<H", data, lib.BOOT_VERSION)[0])
    if version < lib.BOOT_PROTOCOL_207:
        raise ImageError(
            f"{name} speaks boot protocol {version >> 8}.{version & 0xFF:02}, older than lguest's 2.07",
            "take a kernel of 2.6.24 or later, or its vmlinux",
        )
    if version >= PROTOCOL_WITH_XLOADFLAGS:
        (xloadflags,) = struct.unpack_from("<H", data, lib.BZIMAGE_XLOADFLAGS)
        if xloadflags & XLF_KERNEL_64:
            raise ImageError(f"{name} is a 64-bit kernel, and Guests are 32-bit", BUILD_I386)
    if not data[lib.BOOT_LOADFLAGS] & lib.BOOT_LOADED_HIGH:
        raise ImageError(f"{name} is a zImage, which loads below 1 MiB", "build a bzImage")
    skip = ((data[lib.BZIMAGE_SETUP_SECTS] or DEFAULT_SETUP_SECTS) + 1) * SECTOR
    content = data[skip:]
    if not content:
        raise ImageError(f"{name} is truncated", BUILD_AGAIN, "it has a real-mode part and nothing else")
    segment = Segment(int(lib.BZIMAGE_LOAD_ADDRESS), content, len(content))
    (entry,) = struct.unpack_from("<I", data, lib.BZIMAGE_CODE32_START)
    if not segment.physical <= entry < segment.end:
        raise ImageError(f"{name} begins at {entry:#x}, where nothing of it is loaded", "build it again")
    return Image(name, entry, (segment,), (), kernel=Kernel(release=_release(data)))


def _release(data: bytes) -> str | None:
    """The first word of the version string that the setup header points to, if there is one."""
    (pointer,) = struct.unpack_from("<H", data, lib.BZIMAGE_KERNEL_VERSION)
    start = pointer + SECTOR
    text = data[start : start + LONGEST_RELEASE].split(b"\0")[0].split(b" ")[0]
    return text.decode("ascii") if pointer and text.isascii() and text[:1].isdigit() else None
