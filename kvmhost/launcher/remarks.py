"""What a person should hear before a kernel boots, although it may be right: it saves a riddle later.

Nothing here stops anybody.  What cannot work is refused elsewhere (verdict.py, needs.py); these are the
things that usually do not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from kvmhost._native import lib
from kvmhost.host.abi import BusKind
from kvmhost.launcher import initrd as initrds
from kvmhost.launcher import needs, payload
from kvmhost.launcher.image import Image
from kvmhost.launcher.initrd import Initrd
from kvmhost.launcher.verdict import missing_drivers

CONSOLE: Final = "hvc0"
ELF_MAGIC: Final = b"\x7fELF"
ELFCLASS32: Final = 1
EM_386: Final = 3
# What a small kernel wants beside itself and what it is given, to get to a first program.
TO_WORK_WITH: Final = 4 << 20


def remarks(image: Image, memory: int, command_line: str, initrd: bytes | None) -> tuple[str, ...]:
    """Sentences for the person who is about to run `image`; none for what is no Linux.

    >>> remarks(Image("hello", 0x100000, (), ()), 1 << 24, "", None)
    ()
    """
    if image.release is None:
        return ()
    words = command_line.split()
    known = None if initrd is None else initrds.examine(initrd)
    return (
        *_about_the_kernel(image, memory),
        *_about_the_words(words),
        *_about_the_root(image, words, known),
        *(_about_the_initrd(image, words, known) if known else ()),
        *_about_room(image, memory, known, len(initrd or b"")),
    )


def tight_memory(image: Image, memory: int, initrd: bytes | None) -> str | None:
    """The remark, if there is one, that `memory` bytes may be too few for a kernel."""
    if image.release is None:
        return None
    known = None if initrd is None else initrds.examine(initrd)
    return next(_about_room(image, memory, known, len(initrd or b"")), None)


def _about_the_kernel(image: Image, memory: int) -> Iterator[str]:
    if image.lguest is None:
        yield f"whether {image.name} was built as a Guest cannot be told: {image.format}"
    missing = [f"CONFIG_{option}" for option in missing_drivers(image)]
    if "CONFIG_VIRTIO_PCI" in missing:
        yield f"{image.name} has no CONFIG_VIRTIO_PCI built in, so it will find no device at all"
    elif "CONFIG_VIRTIO_CONSOLE" in missing:
        yield (
            f"{image.name} has no CONFIG_VIRTIO_CONSOLE built in: it can only print until it starts "
            "its first program, and never reads what is typed"
        )
    most = needs.most_memory(image)
    if most is not None and memory > most and image.abi.bus is BusKind.PCI:
        yield f"{image.name} has no highmem, and uses no more than about {most >> 20} of {memory >> 20} MiB"


def _about_the_words(words: list[str]) -> Iterator[str]:
    consoles = [word for word in words if word.startswith("console=")]
    if consoles and not any(word.startswith(f"console={CONSOLE}") for word in consoles):
        yield f"{consoles[-1]} is no device of a Guest's: say console={CONSOLE}, or nothing"
    for word in words:
        if word.startswith(("root=/dev/sd", "root=/dev/hd", "root=sd", "root=hd")):
            yield f"a Guest's disks are called /dev/vda, /dev/vdb, ...: {word} names none of them"


def _about_the_root(image: Image, words: list[str], known: Initrd | None) -> Iterator[str]:
    if known is None and not _says(words, "root=", "nfsroot=", "rdinit=") and not image.kernel.carries_init:
        yield (
            f"there is neither --initrd nor root= in --append: unless {image.name} carries a file system of "
            "its own, it will find no program to start"
        )


def _about_the_initrd(image: Image, words: list[str], known: Initrd) -> Iterator[str]:
    if image.kernel.initrd is False:
        yield f"{image.name} was built without CONFIG_BLK_DEV_INITRD and will not look at its initrd"
    if known.packing in image.kernel.packings:
        option = f"CONFIG_RD_{known.packing.upper()}"
        yield f"{image.name} cannot unpack an initrd packed with {known.packing} ({option}): try gzip"
    if known.damaged:
        yield f"the initrd cannot be unpacked: {known.damaged}"
    elif known.mistake:
        yield f"the initrd is {known.mistake}: a kernel takes what `cpio -o -H newc | gzip` makes"
    elif known.kind is None and known.packing in (None, *payload.READABLE):
        yield "the initrd is neither an archive of cpio nor the image of a file system that is known here"
    elif known.kind == "cpio":
        yield from _about_the_first_program(words, known)
    elif known.kind and not _says(words, "root=/dev/ram"):
        yield f"the initrd is an image of {known.kind}: a kernel uses it with root=/dev/ram0 in --append"


def _about_the_first_program(words: list[str], known: Initrd) -> Iterator[str]:
    if known.init is None:
        if known.whole and not _says(words, "rdinit=", "root="):
            yield "the initrd has no /init: a kernel starts that first, or what rdinit= in --append names"
        return
    start = known.init.start
    if known.init.link is None and start.startswith(ELF_MAGIC) and len(start) >= 20:
        (machine,) = struct.unpack_from("<H", start, 18)
        if start[4] != ELFCLASS32 or machine != EM_386:
            yield "the initrd's /init is a program for another machine: a Guest runs those for 32-bit x86"
    if known.init.link is None and not start:
        yield "the initrd's /init is empty"
    elif not known.init.executable:
        yield "the initrd's /init is not executable: pack it again after `chmod +x init`"


def _about_room(image: Image, memory: int, known: Initrd | None, packed: int) -> Iterator[str]:
    unpacked = (known.size or 0) if known is not None and known.kind == "cpio" else 0
    # A kernel keeps 32 bytes or more about each page.
    room = image.needs + packed + unpacked + memory // int(lib.PAGE_BYTES) * 32 + TO_WORK_WITH
    if memory < room:
        yield (
            f"{memory >> 20} MiB of memory are tight: {image.name} reaches up to "
            f"{needs.megabytes(image.needs)} MiB, and its initrd takes {needs.megabytes(packed + unpacked)}; "
            f"try --memory {needs.megabytes(room)}M"
        )


def _says(words: list[str], *starts: str) -> bool:
    return any(word.startswith(starts) for word in words)
