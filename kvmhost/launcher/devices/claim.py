"""Who may have a disk: opening it, and keeping everybody else from it.

The lock belongs to the open file (fcntl_locking(2), "Open file description locks"), so it holds between
processes, between users, and between two disks of one command line, under whatever names the file goes.  A
writer is alone; readers can be many.  It ends with the last descriptor, so no crash leaves it behind.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from kvmhost._native import lib
from kvmhost.host.errors import KvmhostError

SECTOR: Final = int(lib.BLOCK_SECTOR)


class DiskError(KvmhostError):
    """A disk that a Guest cannot have: not there, no disk, or somebody else's.  Nothing was run.

    >>> Disk.parse("")
    Traceback (most recent call last):
    ...
    kvmhost.launcher.devices.claim.DiskError: no disk was named. Next: --block FILE, or --block FILE,ro
    """

    usage = True

    def __init__(self, message: str, *, next_step: str, cause: str = "") -> None:
        super().__init__(message, cause=cause, next_step=next_step)


@dataclass(frozen=True, slots=True)
class Disk:
    """What to use as a disk, and how: a raw image or a block device, and whether the Guest may write."""

    path: str | os.PathLike[str]
    readonly: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """A disk as --block names it: FILE, FILE,ro or FILE,rw.  Raises DiskError for an empty name.

        >>> Disk.parse("root.img,ro"), Disk.parse("a,b")
        (Disk(path='root.img', readonly=True), Disk(path='a,b', readonly=False))
        >>> Disk.parse("odd,ro,rw").path
        'odd,ro'
        """
        path, comma, mode = text.rpartition(",")
        if not comma or mode not in ("ro", "rw"):
            path, mode = text, "rw"
        if not path:
            raise DiskError("no disk was named", next_step="--block FILE, or --block FILE,ro")
        return cls(path, mode == "ro")


def claim(disk: Disk) -> int:
    """A descriptor of what `disk` names, open and locked.  Raises DiskError, which says what to do."""
    name = os.fsdecode(disk.path)
    fd = _open(name, disk.readonly)
    try:
        _lock(name, fd, disk.readonly)
        if not disk.readonly:
            _check_loops(name, os.fstat(fd))
        _check_size(name, size_of(fd))
    except BaseException:
        os.close(fd)
        raise
    return fd


def size_of(fd: int) -> int:
    """Bytes of an open file or block device; the file offset may move."""
    status = os.fstat(fd)
    return status.st_size if stat.S_ISREG(status.st_mode) else os.lseek(fd, 0, os.SEEK_END)


def _open(name: str, readonly: bool) -> int:
    """A descriptor of a regular file or a block device; anything else is refused, unopened if possible."""
    try:
        kind = Path(name).stat().st_mode
        _check_kind(name, kind)
        # Opening a file that turned into a FIFO since must not wait; what O_EXCL is to a block device is in
        # open(2): it fails while the device is mounted, or is somebody else's in the same way.
        flags = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | (os.O_RDONLY if readonly else os.O_RDWR)
        fd = os.open(name, flags | (os.O_EXCL if stat.S_ISBLK(kind) and not readonly else 0))
    except (OSError, ValueError) as error:
        raise _cannot_open(name, readonly, error) from error
    try:
        _check_kind(name, os.fstat(fd).st_mode)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_kind(name: str, mode: int) -> None:
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise DiskError(
            f"{name} cannot be a disk",
            cause="it is a folder" if stat.S_ISDIR(mode) else "it is neither a file nor a block device",
            next_step="name a raw image or a block device",
        )


def _cannot_open(name: str, readonly: bool, error: OSError | ValueError) -> DiskError:
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ENOENT:
        return DiskError(
            f"there is no disk {name}",
            next_step=f"check the path; `truncate -s 1G {name}` makes an empty one",
        )
    if number == errno.EBUSY:
        return DiskError(
            f"{name} is in use",
            cause="it is mounted, part of something that is, or another Guest's disk",
            next_step="unmount it, or wait for its end; a Guest that only reads can share it: FILE,ro",
        )
    writing = not readonly and number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY)
    return DiskError(
        f"{name} cannot be opened" + (" for writing" if writing else ""),
        cause=str(error.strerror) if isinstance(error, OSError) else str(error),
        next_step="change its permissions, or let the Guest read only: FILE,ro"
        if writing
        else "check its permissions and its path",
    )


def _check_size(name: str, size: int) -> None:
    if size == 0:
        raise DiskError(
            f"{name} is empty",
            next_step="give it the size the disk shall have, for example: truncate -s 1G FILE",
        )
    if size % SECTOR:
        raise DiskError(
            f"{name} is no disk of whole sectors",
            cause=f"it has {size} bytes, {size % SECTOR} more than a multiple of {SECTOR}",
            next_step=f"if it is one all the same, pad it: truncate -s {size + SECTOR - size % SECTOR} FILE",
        )


def _lock(name: str, fd: int, readonly: bool) -> None:
    """Exclusive for a writer, shared for readers, on all of the file; DiskError if somebody has it."""
    # [D90] Two kernels that write to one file system destroy it within seconds, and neither notices.  So
    # the kernel that both run on keeps count: whoever comes second is told who came first.
    kind = fcntl.F_RDLCK if readonly else fcntl.F_WRLCK
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("@hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise DiskError(
                f"{name} cannot be locked",
                cause=f"its file system says: {error.strerror}",
                next_step="copy it to a file system of this machine",
            ) from error
        raise DiskError(
            f"{name} is another Guest's disk" if not readonly else f"{name} is being written to",
            cause=f"{_holder(os.fstat(fd)) or 'another process'} has locked it",
            next_step="wait for its end, or give each Guest a copy of its own"
            + ("" if readonly else "; Guests that only read (FILE,ro) can share one"),
        ) from error


def _check_loops(name: str, wanted: os.stat_result) -> None:
    """Refuse an image that this machine uses by itself: loop devices, and so mounts, know no locks."""
    for link in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            found = Path(link.read_text().rstrip("\n")).stat()
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            device = f"/dev/{link.parent.parent.name}"
            raise DiskError(
                f"{name} is in use",
                cause=f"it is the file behind {device}, which may be mounted",
                next_step=f"umount {device}; losetup -d {device}",
            )


def _holder(wanted: os.stat_result) -> str | None:
    """Who has this file open and locked, as far as we may know: `process 12 (python3)`."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            for file in (process / "fd").iterdir():
                found = file.stat()
                if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino) and _has_lock(file):
                    if process.name == str(os.getpid()):
                        return "this very process"
                    return f"process {process.name} ({(process / 'comm').read_text().strip()})"
        except OSError:
            continue
    return None


def _has_lock(file: Path) -> bool:
    """What proc(5), "fdinfo", says of an open file such as /proc/12/fd/3."""
    return "\nlock:" in (file.parent.parent / "fdinfo" / file.name).read_text()
