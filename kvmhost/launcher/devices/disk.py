"""A file or a block device that a Guest uses as its disk.

Two promises are kept here, whoever asks.  Nothing is ever said to be on the disk that is not: a flush is
fdatasync(2), and one that failed is failed for ever, because the kernel has by then forgotten what it could
not write.  And the file keeps the size it was opened with: what lies beyond its end is an error, for reading
and for writing.  Who may have a disk at all is claim.py's matter.
"""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Final, Self

from kvmhost.launcher.devices.claim import Disk, DiskError, claim, size_of

# UIO_MAXIOV of readv(2): more memory areas than that must be several calls.
MOST_AREAS: Final = 1024
# Nobody moves more than so many bytes by one call of read() or write().
PIECE: Final = 4 << 20

Areas = Sequence[memoryview]


class OpenDisk(ABC):
    """A disk that is open, wherever it is.  A context manager.

    name: for people.  readonly: nothing is ever written.  size: in bytes, whole sectors.  troubles: what went
    wrong on our side of the disk, each sentence once; the Guest has heard of it as an I/O error.

    Addresses and sizes are bytes.  The calls raise OSError: that is the I/O error the Guest gets.
    """

    def __init__(self, name: str, readonly: bool, size: int) -> None:
        self.name = name
        self.readonly = readonly
        self.size = size
        self.troubles: list[str] = []
        self._users = 0

    @abstractmethod
    def read(self, areas: Areas, at: int) -> None:
        """Fill all the areas, in order, from byte `at` on; they have at most PIECE bytes."""

    @abstractmethod
    def write(self, areas: Areas, at: int) -> None:
        """Write all the areas, in order, from byte `at` on; they have at most PIECE bytes."""

    @abstractmethod
    def flush(self) -> None:
        """Return once everything written so far would survive a power cut."""

    @abstractmethod
    def close(self) -> None:
        """Flush, and let others have it.  Twice is as good as once; what goes wrong is in `troubles`."""

    def take(self) -> None:
        """A Guest gets it.  Raises DiskError if it may write and another one has it."""
        if self._users and not self.readonly:
            raise DiskError(
                f"{self.name} is another Guest's disk",
                cause="two Guests that write to one disk destroy what is on it",
                next_step="give each Guest a copy of its own, or let all of them read only: FILE,ro",
            )
        self._users += 1

    def give_back(self) -> None:
        """That Guest has ended; everything it wrote is flushed."""
        self._users -= 1
        self.flush_at_last()

    def flush_at_last(self) -> None:
        """Flush when nobody is left who could be told by an error."""
        try:
            self.flush()
        except OSError as error:
            self.trouble(f"the last flush failed: {error.strerror}")

    def trouble(self, text: str) -> None:
        """Keep a sentence for the person."""
        text = f"{self.name}: {text}"
        if text not in self.troubles:
            self.troubles.append(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FileDisk(OpenDisk):
    """A raw image or a block device, open and locked.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.truncate(1024)
    ...     with FileDisk.open(Disk(file.name)) as disk:
    ...         disk.write([memoryview(b"a word")], 512)
    ...         disk.flush()
    ...     os.pread(file.fileno(), 6, 512)
    b'a word'
    """

    def __init__(self, name: str, fd: int, readonly: bool) -> None:
        super().__init__(name, readonly, size_of(fd))
        self._regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._fd = fd
        self._dirty = False
        self._lost: OSError | None = None

    @classmethod
    def open(cls, disk: Disk) -> Self:
        """Open and lock what `disk` names.  Raises DiskError, which says what to do."""
        return cls(os.fsdecode(disk.path), claim(disk), disk.readonly)

    def fileno(self) -> int:
        """The descriptor, which stays ours."""
        return self._fd

    def read(self, areas: Areas, at: int) -> None:
        """See OpenDisk.  A file that has become shorter meanwhile gives EIO."""
        end = check_range(self.size, areas, at)
        for rest, there in _steps(areas, at, end):
            rest.done = os.preadv(self._fd, rest.areas, there)
            if rest.done == 0:
                raise OSError(errno.EIO, "the file has become shorter")

    def write(self, areas: Areas, at: int) -> None:
        """See OpenDisk.  EROFS if it was opened for reading only; the file never grows."""
        if self.readonly:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        end = check_range(self.size, areas, at)
        if self._regular and os.fstat(self._fd).st_size < end:
            raise OSError(errno.EIO, "the file has become shorter")
        self._dirty = True
        for rest, there in _steps(areas, at, end):
            rest.done = os.pwritev(self._fd, rest.areas, there)
            if rest.done == 0:
                raise OSError(errno.EIO, "nothing could be written")

    def flush(self) -> None:
        """See OpenDisk.  Once it has failed it always fails: nobody knows what was lost."""
        if self._lost is not None:
            raise OSError(self._lost.errno, f"an earlier flush failed: {self._lost.strerror}")
        if not self._dirty:
            return
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._lost = error
            raise
        self._dirty = False

    def close(self) -> None:
        """See OpenDisk.  The lock ends with the descriptor."""
        if self._fd < 0:
            return
        self.flush_at_last()
        fd, self._fd = self._fd, -1
        os.close(fd)


def check_range(size: int, areas: Areas, at: int) -> int:
    """Where a transfer ends, in bytes; OSError if it leaves a disk of `size` bytes.

    >>> check_range(1024, [memoryview(bytes(512))], 512)
    1024
    """
    end = at + sum(map(len, areas))
    if not 0 <= at <= end <= size:
        raise OSError(errno.EIO, "beyond the end of the disk")
    return end


class _Rest:
    """What is left of a transfer; whoever moved some of it says how much in `done`."""

    __slots__ = ("areas", "done")

    def __init__(self) -> None:
        self.areas: Areas = ()
        self.done = 0


def _steps(areas: Areas, at: int, end: int) -> Iterator[tuple[_Rest, int]]:
    """A transfer as calls that the kernel takes, each going on where the last one stopped."""
    rest = _Rest()
    todo = areas
    while at < end:
        rest.areas = todo[:MOST_AREAS]
        yield rest, at
        at += rest.done
        if at < end:
            todo = _behind(todo, rest.done)


def _behind(areas: Areas, count: int) -> Areas:
    """The areas without their first `count` bytes, of which they have more."""
    for index, area in enumerate(areas):
        if count < len(area):
            return [area[count:], *areas[index + 1 :]]
        count -= len(area)
    return []
