"""The lab's initramfs: PID 1, the modules, and nothing else. What to run comes later through
a port, so it is always the same; and it is put together faster than a cached copy could be
checked, so it lives in a memory file that ends with the lab."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kvmhost.lab.errors import LabError
from kvmhost.lab.kernel import Kernel

# Built from native/lab and installed beside the package's other data.
INIT = Path(__file__).parent.parent / "data" / "lab" / "init"

Entry = tuple[str, int, bytes]


def cpio(entries: Iterable[Entry]) -> bytes:
    """Packs (path, mode, content) into a cpio archive of the "newc" kind.

    Folders come before what is in them. Source: the kernel's "initramfs buffer format".

    >>> archive = cpio([("init", 0o100755, b"ELF")])
    >>> archive[:6], len(archive) % 4
    (b'070701', 0)
    """
    packed = bytearray()
    for number, (path, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        name = path.encode() + b"\0"
        # inode, mode, uid, gid, links, time, size, device, represented device, name size, check
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        packed += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        packed += bytes(-len(packed) % 4) + content
        packed += bytes(-len(packed) % 4)
    return bytes(packed)


def build(kernel: Kernel) -> bytes:
    """The initramfs for a kernel. Raises LabError when PID 1 was not built."""
    try:
        init = INIT.read_bytes()
    except OSError as error:
        raise LabError(
            f"the lab's first process is missing: {error}",
            next_step="install kvmhost again: pip install . in its source folder",
        ) from error
    order = "".join(f"{module.name}\n" for module in kernel.modules)
    entries: list[Entry] = [
        ("init", stat.S_IFREG | 0o755, init),
        ("modules", stat.S_IFDIR | 0o755, b""),
        ("modules/order", stat.S_IFREG | 0o644, order.encode()),
    ]
    for module in kernel.modules:
        entries.append((f"modules/{module.name}", stat.S_IFREG | 0o644, module.read_bytes()))
    return cpio(entries)


@contextmanager
def memory_file(content: bytes) -> Iterator[int]:
    """The descriptor of an open file in memory that holds `content`, for as long as the block runs."""
    with os.fdopen(os.memfd_create("kvmhost-lab-initramfs"), "wb") as file:
        file.write(content)
        file.flush()
        yield file.fileno()
