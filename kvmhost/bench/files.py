"""Where results are written: tried before anything is measured, and never left half written.

A file is replaced in one step by a finished one beside it, so that an earlier result is still there if the
new one cannot be written.  Pipes and devices are written to as they are.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from kvmhost.bench.errors import ResultFileError


def try_all(paths: Iterable[Path]) -> None:
    """Make sure that results can be written to each, and leave no trace.  Raises ResultFileError."""
    seen: set[Path] = set()
    for path in paths:
        try:
            real = target(path)
            attempt(real)
        except (OSError, ValueError) as error:
            raise unwritable(path, error) from None
        if real in seen:
            raise ResultFileError(f"{path} is named for two files of results", next_step="give each its own")
        seen.add(real)


def write(path: Path, text: str) -> None:
    """Put this text there, whole or not at all.  Raises ResultFileError."""
    try:
        real = target(path)
        if real.exists() and not real.is_file():
            real.write_text(text, encoding="utf-8")
        else:
            replace(real, text)
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from None


def target(path: Path) -> Path:
    """The file that a name stands for; pipes and devices keep theirs, which may lead nowhere by itself."""
    return path if path.exists() and not path.is_file() else path.resolve()


def attempt(path: Path) -> None:
    """Do what writing will do.  Raises OSError."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if not path.exists() or path.is_file():
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=hidden(path)):
            pass


def hidden(path: Path) -> str:
    """How the name of a file begins that will become `path`."""
    return f".{path.name[:99]}."


def replace(path: Path, text: str) -> None:
    """By way of a new file beside it, with the old one's permissions or the usual ones.  Raises OSError."""
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
        if os.geteuid() == 0:
            os.chown(beside, *owner)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def caller() -> tuple[int, int]:
    """Whose file it will be: that of who called sudo, else ours."""
    user, group = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    return (int(user), int(group)) if user.isdecimal() and group.isdecimal() else (os.getuid(), os.getgid())


def unwritable(path: Path, error: Exception) -> ResultFileError:
    """For people."""
    cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ResultFileError(
        f"results cannot be written to {path}",
        cause=cause,
        next_step="name a file in a directory that you can write to",
    )
