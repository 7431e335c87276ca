"""How much memory a Guest must have, and how much it can use: both are told before it boots.

Too little, and a kernel dies before it can print; too much, and one without highmem looks for its devices
where its own memory ends for it, and not where the machine's does (abi 10.2).
"""

from __future__ import annotations

from typing import Final

from kvmhost._native import lib
from kvmhost.host.abi import BootTables, BusKind
from kvmhost.launcher.errors import ImageError
from kvmhost.launcher.image import Image
from kvmhost.launcher.memory import LARGEST

MIB: Final = 1 << 20
ADDRESS_END: Final = 1 << 32
# What a kernel without highmem leaves for vmalloc, the fixmap and the Switcher above its memory: 128 MiB, and
# less than this more.
ABOVE_LOWMEM: Final = (128 + 16) * MIB
# Arguments that make a kernel's memory end where the machine's does not.
SHORTENING: Final = ("mem=", "highmem=", "memmap=")


def boot_table_bytes(image: Image, memory: int) -> int:
    """Bytes of page tables that lie below the initrd before the first instruction (abi 9.3)."""
    if image.abi.tables is BootTables.LINEAR:
        return 0
    pages = memory // lib.PAGE_BYTES
    entries = 512 if image.pae else 1024
    return int((-(-pages // entries) + (2 if image.pae else 1)) * lib.PAGE_BYTES)


def most_memory(image: Image) -> int | None:
    """Bytes that a kernel without highmem can use, as far as can be known, else None.

    >>> most_memory(Image("hello", 0x100000, (), ()))
    """
    if image.kernel.highmem is not False or not image.page_offset:
        return None
    return ADDRESS_END - image.page_offset - ABOVE_LOWMEM


def check_memory(image: Image, memory: int, initrd: int) -> None:
    """That `memory` bytes are neither too few nor too many, with an initrd of `initrd` (in whole pages).

    Raises ImageError with the number that is right.
    """
    tables = boot_table_bytes(image, memory)
    most = most_memory(image)
    if image.needs + tables + initrd > memory:
        parts = [f"it reaches up to {megabytes(image.needs)} MiB when it runs"]
        parts += [f"page tables take {tables >> 10} KiB"] if tables else []
        parts += [f"the initrd takes {megabytes(initrd)} MiB"] if initrd else []
        least = megabytes(image.needs + initrd + 2 * tables)
        limit = LARGEST if most is None else most
        smaller = "take a smaller initrd" if image.needs < limit else "link it to lower physical addresses"
        raise ImageError(
            f"{image.name} does not fit into {memory >> 20} MiB of memory",
            f"give it at least {least}M, and some more to work with"
            if least <= limit // MIB
            else f"{smaller}: {least} MiB would be needed, and it can have {limit // MIB} at most",
            ", ".join(parts),
        )
    if most is not None and memory > most and image.abi.bus is not BusKind.PCI:
        raise ImageError(
            f"{image.name} cannot use {memory >> 20} MiB of memory",
            f"give it at most {most >> 20}M, or build it with CONFIG_HIGHMEM4G",
            "it has no highmem, and would look for its devices where the memory ends that it can use",
        )


def check_arguments(image: Image, command_line: str) -> None:
    """That the command line does not hide the devices from a kernel. Raises ImageError."""
    if image.abi.bus is BusKind.PCI or image.release is None:
        return
    for word in command_line.split():
        if word.startswith(SHORTENING):
            raise ImageError(
                f"{image.name} would not find its devices with {word!r:.60} on the command line",
                "leave it out, and say --memory instead",
                "up to 3.19 a Guest looks for them where its memory ends",
            )


def megabytes(size: int) -> int:
    """MiB, rounded up."""
    return -(-size // MIB)
