"""How much memory a Guest gets, from what a person typed."""

import re
from typing import Final

from kvmhost._native import lib
from kvmhost.launcher.errors import MemorySizeError

UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
# Images lie at 1 MiB, and a Guest's memory is mapped in 2 MiB pieces.
SMALLEST: Final = 2 << 20
# What the Host area and the Guest's own block leave of the memory below the I/O APIC.
LARGEST: Final = int(lib.GUEST_AREA_LIMIT - lib.GUEST_AREA_BASE - lib.GUEST_BLOCK_SIZE)
HOW: Final = "give a size such as 64M or 1G"


def parse_memory(text: str | int) -> int:
    """Bytes of Guest memory from "64M", "1G", "262144K" or a plain number of bytes. Raises MemorySizeError.

    Units are powers of 1024. The result is a multiple of 4096, at least 2 MiB, and fits below 0xFE000000.

    >>> parse_memory("64M")
    67108864
    >>> parse_memory("0")
    Traceback (most recent call last):
    ...
    kvmhost.launcher.errors.MemorySizeError: a Guest cannot live in no memory. Next: ...
    """
    found = re.fullmatch(r"\s*([0-9]{1,20})\s*([kmg]?)(?:i?b)?\s*", str(text), re.IGNORECASE | re.ASCII)
    if found is None:
        raise MemorySizeError(f"{str(text)!r:.40} is not a size", next_step=HOW)
    size = int(found[1]) * UNITS[found[2].lower()]
    if size == 0:
        raise MemorySizeError("a Guest cannot live in no memory", next_step=HOW)
    if size < SMALLEST:
        raise MemorySizeError(
            f"{size} bytes are too few for a Guest",
            cause="images are loaded at 1 MiB",
            next_step="give at least 2M",
        )
    if size > LARGEST:
        raise MemorySizeError(
            f"{size} bytes are too many for a Guest",
            cause=f"Guests live below {int(lib.GUEST_AREA_LIMIT):#X}, beside the Host".replace("X", "x", 1),
            next_step=f"give at most {LARGEST >> 20}M",
        )
    if size % lib.PAGE_BYTES:
        raise MemorySizeError(
            f"{size} bytes are no whole number of pages",
            next_step=f"give a multiple of 4096, for example {-(-size // 4096) * 4096}",
        )
    return size
