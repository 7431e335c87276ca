"""Finds Guests, and opens them before anybody has read a byte of them.

Opening and reading are two steps on purpose: under sudo, kvmhost opens the images the user named, stops being
root, and only then reads what is in them.  A name without a slash that is no file is that of a shipped Guest.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from kvmhost._native import lib
from kvmhost.host.abi import Abi
from kvmhost.launcher import bzimage, elf
from kvmhost.launcher.errors import ImageError
from kvmhost.launcher.generation import with_generation
from kvmhost.launcher.image import Image

SHIPPED: Final = Path(__file__).parent.parent / "data" / "guests"
# More than any kernel with all its debugging information; less than would hurt.
LARGEST_FILE: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class ShippedGuest:
    """A Guest that comes with kvmhost, and the paragraph that opens its source."""

    name: str
    path: Path
    about: str


class OpenImage:
    """A file that was opened and not yet read. Closes its descriptor at the end of a `with`.

    >>> with open_image("hello") as image:
    ...     image.read()[:4]
    b'\\x7fELF'
    """

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def read(self) -> bytes:
        """The whole file, whatever the file offset is. Raises ImageError if it cannot be had."""
        try:
            status = os.fstat(self._fd)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(f"{self.name} is not a file", "name an image in a regular file")
            if status.st_size > LARGEST_FILE:
                raise ImageError(f"{self.name} has {status.st_size} bytes, too many for an image", "strip it")
            pieces = []
            at = 0
            while piece := os.pread(self._fd, status.st_size - at, at):
                pieces.append(piece)
                at += len(piece)
        except OSError as error:
            raise ImageError(
                f"{self.name} cannot be read", "open it for reading and keep it open", str(error.strerror)
            ) from error
        return b"".join(pieces)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_image(name: str | os.PathLike[str]) -> OpenImage:
    """Open the Guest or kernel called `name`: a path, or the name of a shipped Guest.

    Nothing is read. Raises ImageError if there is no such file, it is no regular file, or may not be opened.

    >>> open_image("no-such-guest")
    Traceback (most recent call last):
    ...
    kvmhost.launcher.errors.ImageError: there is no Guest called no-such-guest. Next: ...
    """
    text = os.fspath(name)
    if not text:
        raise ImageError("no Guest was named", "name a file, or a Guest that comes with kvmhost")
    path = Path(text)
    shipped = SHIPPED / f"{text}.elf"
    if os.sep not in text and not path.is_file() and shipped.is_file():
        path = shipped
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError(f"{text} is not a file", "name an image in a regular file")
        return _open(text, path)
    except FileNotFoundError as error:
        names = ", ".join(sorted(found.stem for found in SHIPPED.glob("*.elf")))
        raise ImageError(
            f"there is no Guest called {text}",
            f"name a file, or one of those that come with kvmhost: {names}",
        ) from error
    except (OSError, ValueError) as error:
        cause = str(error.strerror if isinstance(error, OSError) else error)
        raise ImageError(f"{text} cannot be opened", "check its permissions and its path", cause) from error


def open_initrd(name: str | os.PathLike[str]) -> OpenImage:
    """Open the initial RAM disk at `name`, a path. Nothing is read. Raises ImageError.

    >>> open_initrd("no-such-file")
    Traceback (most recent call last):
    ...
    kvmhost.launcher.errors.ImageError: there is no initrd no-such-file. Next: ...
    """
    text = os.fspath(name)
    if not text:
        raise ImageError("no initrd was named", "name a file: --initrd rootfs.cpio.gz")
    try:
        if not stat.S_ISREG(Path(text).stat().st_mode):
            raise ImageError(f"the initrd {text} is not a file", "name an archive in a regular file")
        return _open(text, Path(text))
    except FileNotFoundError as error:
        raise ImageError(f"there is no initrd {text}", "name a file that is there") from error
    except (OSError, ValueError) as error:
        cause = str(error.strerror if isinstance(error, OSError) else error)
        next_step = "check its permissions and its path"
        raise ImageError(f"the initrd {text} cannot be opened", next_step, cause) from error


def _open(name: str, path: Path) -> OpenImage:
    return OpenImage(name, os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY))


def adopt(
    source: "str | os.PathLike[str] | BinaryIO | OpenImage",
    open_named: Callable[[str | os.PathLike[str]], OpenImage] = open_image,
) -> OpenImage:
    """An OpenImage of whatever names an image; of an open file object, by a descriptor of its own."""
    if isinstance(source, OpenImage):
        return OpenImage(source.name, os.dup(source.fileno()))
    if isinstance(source, str | os.PathLike):
        return open_named(source)
    try:
        return OpenImage(str(getattr(source, "name", "the image")), os.dup(source.fileno()))
    except (AttributeError, OSError, ValueError) as error:
        raise ImageError(
            f"{source!r:.60} names no image", "give a path, a shipped Guest's name or an open file"
        ) from error


def parse(data: bytes, name: str, abi: Abi | None = None) -> Image:
    """The image in `data`, ELF or bzImage, and the generation it speaks: `abi` if one is given.

    Raises ImageError.

    >>> parse(b"", "nothing")
    Traceback (most recent call last):
    ...
    kvmhost.launcher.errors.ImageError: nothing is empty. Next: build it again, ...
    """
    image = with_generation(bzimage.parse(data, name) if bzimage.is_bzimage(data) else elf.parse(data, name))
    return image if abi is None else replace(image, abi=abi, insisted=True)


def copies(image: Image) -> int:
    """How many Guests a Machine makes of this image: what its note says, else 1. Raises ImageError.

    >>> copies(parse(open_image("pair").read(), "pair"))
    2
    """
    for data in image.own_notes(int(lib.NOTE_COPIES)):
        count = int.from_bytes(data, "little")
        if len(data) != 4 or not 1 <= count <= lib.MAX_CPUS:
            raise ImageError(
                f"{image.name} asks for {count} copies of itself",
                f"let its note say 1 to {int(lib.MAX_CPUS)}",
            )
        return count
    return 1


def about(image: Image) -> str:
    """The paragraph that the image's note says about it, or nothing."""
    return " ".join(data.decode("utf-8", "replace") for data in image.own_notes(int(lib.NOTE_ABOUT)))


def shipped_guests() -> tuple[ShippedGuest, ...]:
    """The Guests that come with kvmhost, by name.

    >>> "hello" in [guest.name for guest in shipped_guests()]
    True
    """
    found = []
    for path in sorted(SHIPPED.glob("*.elf")):
        with open_image(path) as file:
            found.append(ShippedGuest(path.stem, path, about(parse(file.read(), path.stem))))
    return tuple(found)
