"""Reads a bzImage the way lguest's Launcher did from 2.6.24 on: hardly at all.

The real-mode part is skipped, the rest is copied to 1 MiB, and the decompressor begins at code32_start.  The
image's own setup header is *not* copied: the Launcher writes a fresh one (abi 9.3).  Beside that the kernel
inside is looked at, because only it tells what a person should hear before it runs.
"""

import re
import struct
from dataclasses import dataclass, replace
from typing import Final

from kvmhost._native import lib
from kvmhost.launcher import elf, payload
from kvmhost.launcher.elf import BUILD_AGAIN, BUILD_I386
from kvmhost.launcher.errors import ImageError
from kvmhost.launcher.image import Image, Segment
from kvmhost.launcher.linux import UNKNOWN, Kernel, examine, guess_page_offset

SECTOR: Final = 512
MAGIC: Final = b"HdrS"
DEFAULT_SETUP_SECTS: Final = 4
PROTOCOL_WITH_XLOADFLAGS: Final = 0x020C
XLF_KERNEL_64: Final = 1
LONGEST_RELEASE: Final = 64
RELEASE: Final = re.compile(rb"\d+\.\d[\x21-\x7e]*")
PROTOCOL_WITH_PAYLOAD: Final = 0x0208
PROTOCOL_WITH_INIT_SIZE: Final = 0x020A
GZIP: Final = b"\x1f\x8b\x08"
# How often what looks like a packed kernel is followed up.
MOST_PLACES: Final = 32
# No kernel that fits into the memory of a 32-bit machine without highmem is larger.
LARGEST_KERNEL: Final = 128 << 20


def is_bzimage(data: bytes) -> bool:
    """Whether `data` has the magic word of Linux's boot protocol.

    >>> is_bzimage(bytes(0x202) + b"HdrS")
    True
    """
    return data[lib.BZIMAGE_MAGIC : lib.BZIMAGE_MAGIC + 4] == MAGIC


def parse(data: bytes, name: str) -> Image:
    """The decompressor in `data`, to be loaded at 1 MiB, and what the kernel in it tells. Raises ImageError.

    The kernel is unpacked only to be looked at: what runs is the image's own decompressor.

    >>> parse(bytes(0x202) + b"HdrS", "kernel")
    Traceback (most recent call last):
    ...
    kvmhost.launcher.errors.ImageError: kernel is truncated. Next: copy or build it again: its end is missing
    """
    if len(data) < 2 * SECTOR:
        raise ImageError(f"{name} is truncated", BUILD_AGAIN)
    header = _header(data, name)
    content = data[header.skip :]
    if len(content) <= 16 * (header.syssize - 1):
        raise ImageError(
            f"{name} is truncated",
            BUILD_AGAIN,
            f"{len(content)} of {16 * header.syssize} bytes are left behind its real-mode part",
        )
    segment = Segment(int(lib.BZIMAGE_LOAD_ADDRESS), content, len(content))
    if not segment.physical <= header.entry < segment.end:
        raise ImageError(
            f"{name} begins at {header.entry:#x}, where nothing of it is loaded", "build it again"
        )
    inner = _inner(header, content, name)
    kernel = inner.kernel if inner.kernel.release else replace(inner.kernel, release=header.release)
    return Image(
        name,
        header.entry,
        (segment,),
        (),
        page_offset=inner.page_offset,
        kernel=kernel,
        format=f"bzImage, packed with {inner.packing}" if inner.packing else "bzImage",
        runs_to=_end_of_kernel(header, inner),
        init_size=header.init_size,
    )


@dataclass(frozen=True, slots=True)
class _Header:
    """The fields of a setup header that matter here; zero where its protocol is older than the field."""

    version: int
    release: str | None
    entry: int
    skip: int
    syssize: int
    relocatable: bool
    alignment: int
    payload_offset: int
    payload_length: int
    pref_address: int
    init_size: int


@dataclass(frozen=True, slots=True)
class _Inner:
    """The kernel in a bzImage as far as it could be looked at, and where it lies when it runs.

    One that is packed as ELF says where that is, with its zeroed data.  Up to 2.6.25 it is packed without its
    headers, so that only its length is known: start and end are then the least they can be.
    """

    packing: str | None = None
    kernel: Kernel = UNKNOWN
    page_offset: int | None = None
    start: int = 0
    end: int = 0


def _header(data: bytes, name: str) -> _Header:
    """The setup header of a kernel that may be a Guest. Raises ImageError."""

    def field(form: str, at: int, since: int = 0) -> int:
        return int(struct.unpack_from(form, data, at)[0]) if version >= since else 0

    version = int(struct.unpack_from("<H", data, lib.BOOT_VERSION)[0])
    release = _release(data)
    called = f"{name} (Linux {release})" if release else name
    if version < lib.BOOT_PROTOCOL_207:
        raise ImageError(
            f"{called} speaks boot protocol {version >> 8}.{version & 0xFF:02}, older than lguest's 2.07",
            "take a kernel of 2.6.24 or later, or its vmlinux",
        )
    if field("<H", lib.BZIMAGE_XLOADFLAGS, PROTOCOL_WITH_XLOADFLAGS) & XLF_KERNEL_64:
        raise ImageError(f"{called} is a 64-bit kernel, and Guests are 32-bit", BUILD_I386)
    if not data[lib.BOOT_LOADFLAGS] & lib.BOOT_LOADED_HIGH:
        raise ImageError(f"{called} is a zImage, which loads below 1 MiB", "build a bzImage")
    skip = ((data[lib.BZIMAGE_SETUP_SECTS] or DEFAULT_SETUP_SECTS) + 1) * SECTOR
    if len(data) <= skip:
        raise ImageError(f"{name} is truncated", BUILD_AGAIN, "it has a real-mode part and nothing else")
    return _Header(
        version=version,
        release=release,
        entry=field("<I", lib.BZIMAGE_CODE32_START),
        skip=skip,
        syssize=field("<I", lib.BZIMAGE_SYSSIZE),
        relocatable=bool(data[lib.BZIMAGE_RELOCATABLE]),
        alignment=field("<I", lib.BOOT_KERNEL_ALIGNMENT),
        payload_offset=field("<I", lib.BZIMAGE_PAYLOAD_OFFSET, PROTOCOL_WITH_PAYLOAD),
        payload_length=field("<I", lib.BZIMAGE_PAYLOAD_LENGTH, PROTOCOL_WITH_PAYLOAD),
        pref_address=field("<Q", lib.BZIMAGE_PREF_ADDRESS, PROTOCOL_WITH_INIT_SIZE),
        init_size=field("<I", lib.BZIMAGE_INIT_SIZE, PROTOCOL_WITH_INIT_SIZE),
    )


def _release(data: bytes) -> str | None:
    """The first word of the version string that the setup header points to, if there is one."""
    (pointer,) = struct.unpack_from("<H", data, lib.BZIMAGE_KERNEL_VERSION)
    start = pointer + SECTOR
    text = data[start : start + LONGEST_RELEASE].split(b"\0")[0].split(b" ")[0]
    return text.decode("ascii") if pointer and RELEASE.fullmatch(text) else None


def _inner(header: _Header, content: bytes, name: str) -> _Inner:
    """The kernel that the decompressor would unpack. Raises ImageError if it could not."""
    packed = _packed(header, content, name)
    how = payload.method(packed)
    if how not in payload.READABLE:
        return _Inner(how)
    try:
        data = payload.decompress(packed, LARGEST_KERNEL)
    except payload.PayloadError as error:
        raise ImageError(f"the kernel packed in {name} is damaged", BUILD_AGAIN, str(error)) from error
    if not data.startswith(elf.MAGIC):
        start = int(lib.BZIMAGE_LOAD_ADDRESS)
        return _Inner(how, examine(data), guess_page_offset(data), start, start + len(data))
    image = elf.parse(data, f"the kernel in {name}")
    start = min(segment.physical for segment in image.segments)
    return _Inner(how, image.kernel, image.page_offset, start, image.end)


def _packed(header: _Header, content: bytes, name: str) -> bytes:
    """The packed kernel in the protected-mode part; before protocol 2.08 it has to be searched for."""
    if header.payload_length:
        end = header.payload_offset + header.payload_length
        if end > len(content):
            raise ImageError(
                f"{name} is truncated", BUILD_AGAIN, f"its kernel ends at {end} of {len(content)} bytes"
            )
        return content[header.payload_offset : end]
    at = -1
    for _ in range(MOST_PLACES):
        at = content.find(GZIP, at + 1)
        if at < 0:
            break
        try:
            payload.decompress(content[at:], SECTOR, cut=True)
        except payload.PayloadError:
            continue
        return content[at:]
    return b""


def _end_of_kernel(header: _Header, inner: _Inner) -> int:
    """The first address behind the kernel when it runs, as far as that is known; 0 where nobody knows."""
    size = header.init_size or inner.end - inner.start
    if not size:
        return 0
    start = header.pref_address or inner.start
    if header.relocatable:
        # Kernels read the alignment from boot_params since 2.10; before, it was built in.
        alignment = int(lib.BOOT_ALIGNMENT) if header.init_size else header.alignment or 1
        start = -(-int(lib.BZIMAGE_LOAD_ADDRESS) // alignment) * alignment
    return start + size
