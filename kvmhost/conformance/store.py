"""What was worked out once, kept on the disk for the next run: it may be lost, but is never believed blindly.

A file's name is the hash of everything that its content was made from, and the content carries a hash of its
own.  Whatever is missing, damaged, of other makers or in a place where somebody else could write is as if it
were not there: the work is done again.  Nothing here is an error, for a run without it only takes longer.
The content is data and never code: no pickle, no marshal.

Source: XDG Base Directory Specification, XDG_CACHE_HOME.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

MAGIC = b"kvmhost conform 1\n"
#: How many files are kept; each selection of rows, and each kind of machine, has one or two.
KEPT = 12
#: Larger contents are not ours.
LARGEST = 1 << 28
_HOME = Path(__file__).parent
_FOLDER_MODE = 0o700
# A file that others could write might have been written by them.
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def key(*parts: str) -> str:
    """A name for what is made of these parts by this installation."""
    return hashlib.sha256("\0".join((installed(), *parts)).encode()).hexdigest()


@cache
def installed() -> str:
    """A hash of all that decides what cases there are, what an engine plays and how it is judged."""
    # hypothesis draws the random states, each version in its own way.
    found = hashlib.sha256(f"{sys.version} {version('hypothesis')}".encode())
    for path in sorted(_sources()):
        found.update(f"\0{path.relative_to(_HOME.parent)}\0".encode())
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def _sources() -> Iterable[Path]:
    for pattern in ("**/*.py", "**/*.toml", "**/*.json"):
        yield from _HOME.glob(pattern)
    yield from _HOME.parent.glob("_native*.so")
    for folder in ("conformance", "switcher"):
        yield from (_HOME.parent / "data" / folder).glob("*")


def read(name: str) -> bytes | None:
    """The content that was kept under a name, if it is there, whole and ours."""
    folder = _folder()
    if folder is None:
        return None
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        with os.fdopen(handle, "rb") as file:
            if not _ours(os.fstat(file.fileno())):
                return None
            whole = file.read(LARGEST)
    except OSError:
        return None
    finally:
        os.close(folder)
    head, digest, content = whole[: len(MAGIC)], whole[len(MAGIC) :][:32], whole[len(MAGIC) + 32 :]
    good = head == MAGIC and hashlib.sha256(name.encode() + content).digest() == digest
    return content if good else None


def write(name: str, content: bytes) -> None:
    """Keep a content under a name: all of it or, if that is not possible, nothing."""
    folder = _folder(make=True)
    if folder is None:
        return
    whole = MAGIC + hashlib.sha256(name.encode() + content).digest() + content
    place = Path(f"/proc/self/fd/{folder}")
    try:
        with suppress(OSError):
            handle, path = tempfile.mkstemp(prefix=".new-", dir=place)  # with mode 0600
            made = Path(path)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(whole)
                made.rename(place / name)
            except BaseException:
                made.unlink()
                raise
            _drop_old(place)
    finally:
        os.close(folder)


def _drop_old(place: Path) -> None:
    files = sorted(place.iterdir(), key=lambda path: path.lstat().st_mtime, reverse=True)
    for path in files[KEPT:]:
        path.unlink()


def _folder(*, make: bool = False) -> int | None:
    """Our folder, open, if it is ours alone: under sudo the caller's home is not a place for root."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        base = base if base.is_absolute() else Path.home() / ".cache"
        last = base / "kvmhost" / "conform"
        for path in (base, base / "kvmhost", last):
            if make and not path.is_dir():
                path.mkdir(parents=True, mode=_FOLDER_MODE)
            found = path.stat()
            if found.st_uid != os.geteuid() or found.st_mode & stat.S_IWOTH:
                return None
        folder = os.open(last, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, RuntimeError):  # RuntimeError: nobody knows a home
        return None
    if _ours(os.fstat(folder)):
        return folder
    os.close(folder)
    return None


def _ours(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and not found.st_mode & _OTHERS
