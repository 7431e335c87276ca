"""Lays a Guest's memory out: boot parameters at 0, the command line, the image, the initrd at the top.

The parameters are the few that lguest's Launcher set, and one that it should have; every other byte stays
zero, which among much else switches off the VGA console and the BIOS scans of a Linux kernel (abi 9.3).
"""

import struct
from dataclasses import dataclass

from kvmhost._native import lib
from kvmhost.host.abi import DEFAULT, Abi
from kvmhost.launcher import needs, verdict
from kvmhost.launcher.errors import CommandLineError, ImageError
from kvmhost.launcher.image import Image, Segment


@dataclass(frozen=True, slots=True)
class Layout:
    """What to write where before the first instruction, and where that is (Guest-physical addresses)."""

    entry: int
    pieces: tuple[tuple[int, bytes], ...]


def lay_out(image: Image, memory: int, command_line: str = "", initrd: bytes | None = None) -> Layout:
    """Where everything goes in `memory` bytes of RAM.

    Raises ImageError when it does not fit, or when the image can be no Guest.

    >>> image = Image("x", 0x100000, (Segment(0x100000, b"x", 4096),), ())
    >>> [hex(address) for address, _ in lay_out(image, 1 << 24, "debug").pieces]
    ['0x0', '0x1000', '0x100000']
    """
    verdict.check(image)
    needs.check_arguments(image, command_line)
    initrd_size = _page_up(len(initrd)) if initrd is not None else 0
    needs.check_memory(image, memory, initrd_size)
    initrd_start = memory - initrd_size
    for segment in image.segments:
        _check_segment(image, segment)
    pieces = [
        (0, boot_params(memory, initrd_start, initrd_size, image.abi, image.init_size)),
        (int(lib.BOOT_COMMAND_LINE), _command_line(command_line)),
    ]
    pieces += [(segment.physical, segment.data) for segment in image.segments]
    if initrd:
        pieces.append((initrd_start, initrd))
    return Layout(image.entry, tuple(pieces))


def boot_params(
    memory: int, initrd_start: int = 0, initrd_size: int = 0, abi: Abi = DEFAULT, init_size: int = 0
) -> bytes:
    """The page at Guest-physical 0 for a kernel of `abi`. Sizes in bytes; `initrd_size` 0 means no initrd.

    init_size: what a bzImage says there about itself. Decompressors of 4.9 on move to the end of so much
    room before they unpack; without it they move below its beginning, where there must be room as well.

    >>> boot_params(64 << 20)[0x206:0x208].hex()
    '0702'
    """
    page = bytearray(lib.BOOT_PARAMS_BYTES)
    page[lib.BOOT_E820_ENTRIES] = 1
    struct.pack_into("<QQI", page, lib.BOOT_E820_TABLE, 0, memory, lib.BOOT_E820_RAM)
    struct.pack_into("<H", page, lib.BOOT_VERSION, lib.BOOT_PROTOCOL_207)
    page[lib.BOOT_LOADFLAGS] = lib.BOOT_KEEP_SEGMENTS
    struct.pack_into("<I", page, lib.BOOT_CMD_LINE_PTR, lib.BOOT_COMMAND_LINE)
    if abi.kernel_alignment:
        struct.pack_into("<I", page, lib.BOOT_KERNEL_ALIGNMENT, lib.BOOT_ALIGNMENT)
    struct.pack_into("<I", page, lib.BOOT_HARDWARE_SUBARCH, lib.BOOT_SUBARCH_LGUEST)
    struct.pack_into("<I", page, lib.BZIMAGE_INIT_SIZE, init_size)
    if initrd_size:
        page[lib.BOOT_TYPE_OF_LOADER] = lib.BOOT_LOADER_UNKNOWN
        struct.pack_into("<II", page, lib.BOOT_RAMDISK_IMAGE, initrd_start, initrd_size)
    return bytes(page)


def _command_line(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    if b"\0" in data:
        raise CommandLineError("the command line contains a NUL", "leave it out: it would end the line")
    if len(data) >= lib.BOOT_COMMAND_LINE_BYTES:
        raise CommandLineError(
            f"the command line of {len(data)} bytes is too long",
            f"a Guest's kernel reads {int(lib.BOOT_COMMAND_LINE_BYTES) - 1} bytes of it",
        )
    return data + b"\0"


def _check_segment(image: Image, segment: Segment) -> None:
    if segment.physical < lib.BOOT_LOW_END:
        raise ImageError(
            f"{image.name} overlaps the boot parameters",
            f"link it above {int(lib.BOOT_LOW_END):#x}, commonly to 0x100000",
            f"a segment lies at {segment.physical:#x} to {segment.end:#x}",
        )


def _page_up(size: int) -> int:
    page = int(lib.PAGE_BYTES)
    return -(-size // page) * page
