"""What a caller asks of the lab, checked before anything is started. The files inside are the
same as here, so a command that does not exist can be told at once."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kvmhost.lab.errors import LabError

# As a shell answers them.
NOT_EXECUTABLE = 126
NOT_FOUND = 127


def find_program(argv: Sequence[str], env: Mapping[str, str], folder: str) -> str | int:
    """The path of the program to run, or the exit code when it cannot be run.

    Names without a slash are looked up in PATH, others from `folder`, where the command runs.

    >>> find_program(["sh"], {"PATH": "/nowhere:/bin"}, "/")
    '/bin/sh'
    """
    if not argv:
        raise LabError("no command to run in the lab", next_step="name one: lab run -- COMMAND")
    name = argv[0]
    places = [""] if "/" in name else env.get("PATH", os.defpath).split(":")
    found = [path for place in places if (path := Path(folder, place, name)).exists()]
    for path in found:
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    print(f"kvmhost lab: {name}: {'not executable' if found else 'command not found'}", file=sys.stderr)
    return NOT_EXECUTABLE if found else NOT_FOUND


def writable_folders(wanted: Iterable[str | os.PathLike[str]] | None, folder: str) -> list[Path]:
    """The folders that are written back, outer ones first; by default `folder` alone.

    Raises LabError for one that is no folder, or is / itself or the kernel's own.

    >>> writable_folders(None, "/proc")
    []
    """
    if wanted is None:
        here = Path(folder).resolve()
        return [here] if _can_be_written_back(here) and os.access(here, os.W_OK) else []
    folders = sorted({Path(path).resolve() for path in wanted})
    for path in folders:
        if not _can_be_written_back(path):
            raise LabError(f"{path} is no folder that a lab can write to", next_step="name another folder")
    return folders


def _can_be_written_back(path: Path) -> bool:
    # Inside, / is the overlay, and the lab has the kernel's own folders from its own kernel.
    return path.is_dir() and path != Path("/") and path.parts[1] not in ("dev", "proc", "sys")


def cached_folders(writable: Sequence[Path]) -> list[Path]:
    """What lies in a writable folder but need not be: the Python environment that runs this.

    Importing from a folder that is written back takes twice as long as from one that is not.

    >>> cached_folders([Path(sys.prefix).resolve().parent]) == [Path(sys.prefix).resolve()]
    True
    """
    ours = Path(sys.prefix).resolve()
    inside = any(folder in ours.parents for folder in writable)
    around = any(folder == ours or ours in folder.parents for folder in writable)
    return [ours] if inside and not around else []


def check_reachable(*folders: Path) -> None:
    """Raises LabError when QEMU could not serve a folder to the lab.

    QEMU's 9p server opens each folder on the way for reading; the right to pass through,
    which is enough for everybody else, is not enough for it.

    >>> check_reachable(Path("/usr/bin"))
    """
    for folder in folders:
        for passed in (folder, *folder.parents):
            if not os.access(passed, os.R_OK):
                raise LabError(
                    f"QEMU cannot serve {folder} to the lab: you may not read {passed}",
                    next_step=f"chmod +r {passed}, or work in another folder",
                )


def checked_memory(memory: str) -> str:
    """Returns `memory` if it is a size as QEMU takes it; raises LabError if not.

    >>> checked_memory("512M")
    '512M'
    """
    if not re.fullmatch(r"[1-9][0-9]*[MG]", memory):
        raise LabError(f"the lab's memory cannot be {memory!r}", next_step="write it like 512M or 2G")
    return memory


def checked_cpus(cpus: int) -> int:
    """Returns `cpus` if a lab can have as many; raises LabError if not.

    >>> checked_cpus(2)
    2
    """
    if not 1 <= cpus <= 64:
        raise LabError(f"the lab cannot have {cpus} CPUs", next_step="ask for 1 to 64")
    return cpus
