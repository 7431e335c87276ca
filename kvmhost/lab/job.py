"""What the lab is to run, and how that is packed for its PID 1 (native/lab/job.c reads it)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvmhost.lab.errors import LabError

MAX_SIZE = 2 << 20
MAX_STRINGS = 16384
MAX_WRITABLE = 32
MAX_GROUPS = 1024
MAX_CHANNELS = 20


@dataclass(frozen=True, slots=True)
class Job:
    """One command for the lab: as whom, where, with what, and which folders it may change.

    `cached` are folders inside writable ones that are read through the cache, and not written
    back, all the same. `on_terminal` says for stdin, stdout and stderr whether that is the
    terminal; `size` is its rows and columns. `channels` is how many ports belong to the command.
    """

    program: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: str
    writable: Sequence[Path]
    cached: Sequence[Path] = ()
    on_terminal: tuple[bool, bool, bool] = (False, False, False)
    size: tuple[int, int] = (24, 80)
    channels: int = 0

    def packed(self) -> bytes:
        """The job as PID 1 reads it: "job SIZE", newline, NUL-terminated fields.

        Raises LabError when a part has more than PID 1 has room for.

        >>> Job("/bin/true", ["true"], {"A": "1"}, "/", []).packed()[-30:]
        b'\\x000\\x000\\x00/\\x00/bin/true\\x001\\x00A=1\\x001\\x00true\\x00'
        """
        groups = os.getgroups()
        environment = [f"{name}={value}" for name, value in self.environment.items()]
        for what, parts, limit in (
            ("channels", range(self.channels), MAX_CHANNELS),
            ("arguments", self.arguments, MAX_STRINGS),
            ("environment variables", environment, MAX_STRINGS),
            ("writable folders", self.writable, MAX_WRITABLE),
            ("groups", groups, MAX_GROUPS),
        ):
            if len(parts) > limit:
                raise LabError(f"too many {what} for the lab: {len(parts)}", next_step=f"use up to {limit}")
        fields: list[object] = [
            os.getuid(),
            os.getgid(),
            len(groups),
            *groups,
            _umask(),
            *(int(terminal) for terminal in self.on_terminal),
            *self.size,
            self.channels,
            len(self.writable),
            *self.writable,
            len(self.cached),
            *self.cached,
            self.folder,
            self.program,
            len(environment),
            *environment,
            len(self.arguments),
            *self.arguments,
        ]
        packed = b"".join(os.fsencode(str(field)) + b"\0" for field in fields)
        if len(packed) > MAX_SIZE:
            raise LabError(
                f"arguments and environment are too long for the lab: {len(packed)} bytes",
                next_step=f"keep them under {MAX_SIZE} bytes, or pass a file",
            )
        return b"job %d\n" % len(packed) + packed


def _umask() -> int:
    # Asking the kernel by umask(2) would have to change it, under every other thread's feet.
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Umask":
            return int(value, 8)
    return 0o022
