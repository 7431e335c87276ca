"""Where reports are written: tried before the run, for nobody wants to learn of a full path after it.

A report replaces its file in one step, so that a reader never sees half of one, and an earlier report is
still there if this one cannot be written.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from kvmhost.conformance.errors import ReportError

ELSEWHERE = "name a file in a directory that you can write to"


def try_all(paths: Iterable[Path]) -> None:
    """Make sure that a report can be written to each.  Raises ReportError."""
    seen: set[Path] = set()
    for path in paths:
        try:
            real = target(path)
            attempt(real)
        except OSError as error:
            raise unwritable(path, error) from None
        if real in seen:
            raise ReportError(f"{path} is named for two reports", next_step="give each its own file")
        seen.add(real)


def target(path: Path) -> Path:
    """The file that a name stands for; pipes and devices keep theirs, which may lead nowhere by itself."""
    return path if path.exists() and not path.is_file() else path.resolve()


def attempt(path: Path) -> None:
    """Do what writing will do, and leave no trace of it.  Raises OSError."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if path.exists():
        if not os.access(path, os.W_OK):  # a pipe's reader would take an open and a close for the end
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if not path.is_file():
            return
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=hidden(path)):
        pass


def hidden(path: Path) -> str:
    """How the name of a file begins that will become `path`."""
    return f".{path.name[:99]}."


def write(path: Path, text: str) -> None:
    """Put this text there, whole or not at all.  Raises ReportError."""
    try:
        real = target(path)
        if real.exists() and not real.is_file():
            real.write_text(text, encoding="utf-8")
        else:
            replace(real, text)
    except OSError as error:
        raise unwritable(path, error) from None


def replace(path: Path, text: str) -> None:
    """By way of a new file beside it, with the old one's permissions or the usual ones.  Raises OSError."""
    owner: tuple[int, int] | None
    if path.exists():
        found = path.stat()
        mode, owner = found.st_mode & 0o777, (found.st_uid, found.st_gid)
    else:
        mask = os.umask(0)
        os.umask(mask)
        mode, owner = 0o666 & ~mask, caller()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=hidden(path))
    beside = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        beside.chmod(mode)
        if owner is not None and os.geteuid() == 0:
            os.chown(beside, *owner)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def caller() -> tuple[int, int] | None:
    """Who called sudo: the report is for them.  None without sudo."""
    user, group = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    return (int(user), int(group)) if user.isdecimal() and group.isdecimal() else None


def unwritable(path: Path, error: OSError) -> ReportError:
    """For people."""
    return ReportError(
        f"cannot write the report {path}", cause=error.strerror or str(error), next_step=ELSEWHERE
    )
