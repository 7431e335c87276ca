"""What an initrd is, looked at before a kernel gets it: one that cannot use it says so late, or never.

Linux takes three kinds: an archive in cpio's "newc" format, packed or not and several behind each other,
which becomes its first file system; an image of a file system (ext2, squashfs, ...), for a RAM disk; and
either of them packed.  Everything else it ignores, and panics when it finds no root.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from kvmhost.launcher import payload

# As much is unpacked to look for what a kernel starts first; archives with it further behind are not judged.
LOOK: Final = 64 << 20
NEWC: Final = (b"070701", b"070702")
OTHER_CPIO: Final = (b"070707", b"\xc7\x71", b"\x71\xc7")
GZIP: Final = b"\x1f\x8b\x08"
# How often what looks like an archive is followed up in a kernel.
MOST_PLACES: Final = 32
HEADER_BYTES: Final = 110
TRAILER: Final = b"TRAILER!!!"
S_IFMT: Final = 0o170000
S_IFLNK: Final = 0o120000
EXECUTABLE: Final = 0o111
MOST_MEMBERS: Final = 200_000
MOST_IN_A_KERNEL: Final = 50_000
# What the images of file systems that fit into a RAM disk have where.
FILE_SYSTEMS: Final = (
    (0, b"hsqs", "squashfs"),
    (0, b"-rom1fs-", "romfs"),
    (0, b"\x45\x3d\xcd\x28", "cramfs"),
    (0x438, b"\x53\xef", "ext2"),
    (0x410, b"\x7f\x13", "minix"),
    (0x410, b"\x8f\x13", "minix"),
    (0x10034, b"_BHRfS_M", "btrfs"),
)
# What people give by mistake.
MISTAKES: Final = (
    (b"\x7fELF", "an ELF file"),
    (b"#!", "a script"),
    (b"!<arch>", "an archive of ar"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"QFI\xfb", "a qcow2 image"),
)
TAR_MAGIC: Final = (257, b"ustar")


@dataclass(frozen=True, slots=True)
class Program:
    """A program in an archive: its first bytes, where it leads if it is a link, and whether it may be run."""

    start: bytes
    link: str | None = None
    executable: bool = True


@dataclass(frozen=True, slots=True)
class Initrd:
    """What is known of an initrd.

    packing: how it is packed, if it is.  kind: "cpio", the name of a file system, or None if nothing known
    was found.  mistake: what else it seems to be.  size: bytes of it once unpacked, if all could be.
    init: its /init; None if it has none, or was not found.  whole: every member was looked at.  damaged:
    why it could not be unpacked.
    """

    packing: str | None
    kind: str | None
    mistake: str | None = None
    size: int | None = None
    init: Program | None = None
    whole: bool = False
    damaged: str | None = None


def examine(data: bytes) -> Initrd:
    """What `data` is. Nothing is raised: what a kernel makes of it, it decides itself.

    >>> examine(b"hsqs" + bytes(100)).kind
    'squashfs'
    """
    packing = payload.method(data)
    if packing is None:
        return _examine_plain(data, None, len(data))
    if packing not in payload.READABLE:
        return Initrd(packing, None)
    try:
        plain = payload.decompress(data, LOOK, cut=True)
    except payload.PayloadError as error:
        return Initrd(packing, None, damaged=str(error))
    return _examine_plain(plain, packing, len(plain) if len(plain) < LOOK else None)


def carries_init(data: bytes) -> bool:
    """Whether an archive with an /init lies somewhere in the kernel `data`, plain or packed with gzip."""
    left, most = LOOK, MOST_IN_A_KERNEL
    for magic in (NEWC[0], GZIP):
        at = -1
        for _ in range(MOST_PLACES):
            at = data.find(magic, at + 1)
            if at < 0 or not left:
                break
            archive, start = data, at
            if magic is GZIP:
                try:
                    archive, start = payload.decompress(data[at:], left, cut=True), 0
                except payload.PayloadError:
                    continue
                left -= len(archive)
            for name, *_ in islice(_members(archive, start), most):
                most -= 1
                if name == "init":
                    return True
    return False


def _examine_plain(data: bytes, packing: str | None, size: int | None) -> Initrd:
    if data.startswith(NEWC):
        return _examine_archive(data, packing, size)
    for at, magic, name in FILE_SYSTEMS:
        if data[at : at + len(magic)] == magic:
            return Initrd(packing, name, size=size)
    at, magic = TAR_MAGIC
    mistake = next((what for start, what in MISTAKES if data.startswith(start)), None)
    if data[at : at + len(magic)] == magic:
        mistake = "an archive of tar"
    elif data.startswith(OTHER_CPIO):
        mistake = "an archive in an old format of cpio"
    elif not any(data):
        mistake = "nothing but zeros" if data else "empty"
    return Initrd(packing, None, mistake=mistake, size=size)


def _examine_archive(data: bytes, packing: str | None, size: int | None) -> Initrd:
    init = None
    end = 0
    for name, mode, content, ending in _members(data):
        end = ending
        if name == "init":
            link = content.decode("utf-8", "replace") if mode & S_IFMT == S_IFLNK else None
            init = Program(content[:64], link, bool(mode & EXECUTABLE))
    # Another archive may lie behind the first, packed or not: it is not looked at.
    whole = end > 0 and not data[end:].strip(b"\0") and size is not None
    return Initrd(packing, "cpio", size=size, init=init, whole=whole)


def _members(data: bytes, start: int = 0) -> Iterator[tuple[str, int, bytes, int]]:
    """Name, mode and content of each member, and where the archive at `start` ends (0 until it is seen)."""
    at = start
    for _ in range(MOST_MEMBERS):
        header = data[at : at + HEADER_BYTES]
        if len(header) < HEADER_BYTES or not header.startswith(NEWC):
            return
        try:
            words = [int(header[6 + 8 * word : 14 + 8 * word], 16) for word in range(13)]
        except ValueError:
            return
        mode, size, name_size = words[1], words[6], words[11]
        if min(words) < 0:
            return
        name_at = at + HEADER_BYTES
        content_at = start + _aligned(name_at + name_size - start)
        end = start + _aligned(content_at + size - start)
        name = data[name_at : name_at + name_size].rstrip(b"\0")
        if name == TRAILER:
            yield "", 0, b"", end
            return
        if end > len(data) + 3:
            return
        path = name.decode("utf-8", "replace").removeprefix("./").strip("/")
        yield path, mode, data[content_at : content_at + min(size, 4096)], 0
        at = end


def _aligned(at: int) -> int:
    return -(-at // 4) * 4
