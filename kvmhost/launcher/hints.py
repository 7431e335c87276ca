"""What a kernel's last words mean, and what to do: advice for Guests that end by panic.

A kernel says what it lacks in its own words, and often some lines before the panic itself.  Each entry of the
table is such a text, as it stands in the kernels of 2.6.24 to 4.13, and the sentence that helps.
"""

from __future__ import annotations

import re
from typing import Final

HINTS: Final = tuple(
    (re.compile(pattern), advice)
    for pattern, advice in (
        (
            rb"compression method (\w+) not configured|RAMDISK: (\w+) decompressor not configured",
            "this kernel cannot unpack an initrd packed with {}: pack it with gzip, or build the kernel "
            "with its CONFIG_RD_ option",
        ),
        (
            rb"Initramfs unpacking failed: (?!compression)([^\r\n]*)",
            "the initrd is damaged or in a format the kernel does not take ({}): make it with "
            "`find . | cpio -o -H newc | gzip`",
        ),
        (
            rb"rootfs image is not initramfs \((?!compression)([^)\r\n]*)\)",
            "the initrd is no archive that the kernel takes ({}): make it with "
            "`find . | cpio -o -H newc | gzip`",
        ),
        (
            rb"initrd extends beyond end of memory|initrd too large to handle",
            "the kernel does not find its initrd in its memory: give it more with --memory, without mem=",
        ),
        (
            rb"Failed to execute (/\S*?)[.\s]|Requested init (\S+) failed",
            "the kernel could not start {}: it must be a program for 32-bit x86 that is executable and whose "
            "interpreter or libraries are there too",
        ),
        (
            rb"No (?:working )?init found",
            "the file system has no program that the kernel could start as the first one: put a 32-bit /init "
            "into the initrd, or name one with rdinit= (in an initrd) or init= (on a disk) in --append",
        ),
        (
            rb"Out of memory and no killable processes|Out of memory: |out of memory\. |Killed process \d",
            "the Guest ran out of memory: give it more with --memory",
        ),
        (
            rb"can't allocate|Could not allocate|[Cc]annot allocate|[Cc]an ?not find place|bootmem alloc|"
            rb"[Rr]an out of memory|Failed to allocate|[Cc]an not alloc|\n[Oo]ut of memory\n",
            "the kernel ran out of memory while it booted: give it more with --memory",
        ),
        (
            rb"Attempted to kill init",
            "the first program ended, and Linux cannot live without it: a script that is /init ends by "
            "`poweroff -f` or starts a shell with exec",
        ),
        (
            rb'Cannot open root device "(?![<(]|")([^"]+)"',
            "the kernel has no disk called {} with a file system it knows: check root= and --block (the "
            "first disk is /dev/vda), and that CONFIG_VIRTIO_BLK and the file system are built in",
        ),
        (
            rb"on unknown-block\(0,0\)",
            "the kernel found no file system to start from: give it one with --initrd FILE (an archive with "
            "/init), or a disk with --block FILE and root=/dev/vda in --append",
        ),
        (
            rb"Unable to mount root fs on (?!unknown-block\(0,0\))|No filesystem could mount root",
            "the kernel could not mount its root: the disk or the initrd has no file system that is built "
            "into it, or is damaged",
        ),
    )
)
# As much of what a Guest said last is looked at.
LAST_WORDS: Final = 8192


def hint(reason: str, last_words: bytes) -> str | None:
    """Advice for a Guest that crashed with `reason` after it printed `last_words`: the first that fits.

    The table's order is that of causes: what went wrong first explains the rest.

    >>> hint("VFS: Unable to mount root fs on unknown-block(0,0)", b"")[:49]
    'the kernel found no file system to start from: gi'
    """
    said = last_words[-LAST_WORDS:] + b"\n" + reason.encode("utf-8", "replace") + b"\n"
    for pattern, advice in HINTS:
        match = pattern.search(said)
        if match is not None:
            what = next((group for group in match.groups() if group), b"").decode("utf-8", "replace")
            return advice.format(what.strip()[:60])
    return None
