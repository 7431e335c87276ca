"""What a caller asks of the lab, checked before anything is started. The files inside are the
same as here, so a command that does not exist can be told at once."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kvmhost.lab.errors import LabError

# As a shell answers them.
NOT_EXECUTABLE = 126
NOT_FOUND = 127


def find_program(argv: Sequence[str], env: Mapping[str, str], folder: str) -> str | int:
    """The path of the program to run, or the exit code when it cannot be run.

    Names without a slash are looked up in PATH, others from `folder`.
    """
    if not argv:
        raise LabError("no command to run in the lab", next_step="name one: lab run -- COMMAND")
    name = argv[0]
    looked_up = name if "/" in name else shutil.which(name, path=env.get("PATH", os.defpath))
    found = None if looked_up is None else Path(folder, looked_up)
    if found is None or not found.exists():
        print(f"kvmhost lab: {name}: command not found", file=sys.stderr)
        return NOT_FOUND
    if found.is_dir() or not os.access(found, os.X_OK):
        print(f"kvmhost lab: {name}: not executable", file=sys.stderr)
        return NOT_EXECUTABLE
    return str(found)


def writable_folders(wanted: Iterable[str | os.PathLike[str]] | None, folder: str) -> list[Path]:
    """The folders that are written back, outer ones first; by default `folder` alone.

    Raises LabError for one that is no folder, or is / itself.
    """
    if wanted is None:
        here = Path(folder).resolve()
        # What lies right under / is mostly the system's: whoever means that has to say so.
        return [here] if here != Path("/") and os.access(here, os.W_OK) else []
    folders = sorted({Path(path).resolve() for path in wanted})
    for path in folders:
        if not path.is_dir() or path == Path("/"):
            raise LabError(f"{path} is no folder that a lab can write to", next_step="name another folder")
    return folders


def cached_folders(writable: Sequence[Path]) -> list[Path]:
    """What lies in a writable folder but need not be: the Python environment that runs this.

    Importing from a folder that is written back takes twice as long as from one that is not.
    """
    ours = Path(sys.prefix).resolve()
    inside = any(folder in ours.parents for folder in writable)
    around = any(folder == ours or ours in folder.parents for folder in writable)
    return [ours] if inside and not around else []


def checked_memory(memory: str) -> str:
    """Returns `memory` if it is a size as QEMU takes it; raises LabError if not.

    >>> checked_memory("512M")
    '512M'
    """
    if not re.fullmatch(r"[1-9][0-9]*[MG]", memory):
        raise LabError(f"the lab's memory cannot be {memory!r}", next_step="write it like 512M or 2G")
    return memory


def checked_cpus(cpus: int) -> int:
    """Returns `cpus` if a lab can have as many; raises LabError if not."""
    if not 1 <= cpus <= 64:
        raise LabError(f"the lab cannot have {cpus} CPUs", next_step="ask for 1 to 64")
    return cpus
