"""What the kernel tells in small files: about the CPUs, KVM's modules, clocks and mitigations.

Everything is below a root that tests may choose.  What is not there, or cannot be read, is unknown: a machine
that keeps a secret is measured all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

UNKNOWN = "unknown"
ROOT = Path("/")
CPUS = Path("sys/devices/system/cpu")
CLOCKSOURCE = Path("sys/devices/system/clocksource/clocksource0/current_clocksource")
MODULES = Path("sys/module")


@dataclass(frozen=True, slots=True)
class Sys:
    """A machine's files.

    >>> Sys(Path("/nowhere")).read("proc/cpuinfo")
    'unknown'
    """

    root: Path = ROOT

    def read(self, path: str | Path) -> str:
        """What a file says, on one line; "unknown" if it says nothing."""
        try:
            words = (self.root / path).read_text(errors="replace").split()
        except (OSError, ValueError):
            return UNKNOWN
        return " ".join(words) or UNKNOWN

    def number(self, path: str | Path) -> int | None:
        """What a file counts, None if nobody knows."""
        text = self.read(path)
        return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else None

    def names(self, path: str | Path) -> list[str]:
        """What is in a folder, in order; nothing if there is none."""
        try:
            return sorted(entry.name for entry in (self.root / path).iterdir())
        except OSError:
            return []

    def cpuinfo(self) -> dict[str, str]:
        """The first CPU's lines of /proc/cpuinfo."""
        try:
            text = (self.root / "proc/cpuinfo").read_text(errors="replace")
        except OSError:
            return {}
        first = text.strip().partition("\n\n")[0]
        pairs = (line.partition(":") for line in first.splitlines())
        return {key.strip(): value.strip() for key, _, value in pairs if value.strip()}

    def flags(self) -> frozenset[str]:
        """What the CPU can do by Linux's names; empty if that is not known."""
        return frozenset(self.cpuinfo().get("flags", "").split())

    def of_cpu(self, cpu: int, path: str) -> str:
        """A file of one CPU's."""
        return self.read(CPUS / f"cpu{cpu}" / path)

    def siblings(self, cpu: int) -> tuple[int, ...]:
        """The CPUs that share a core with this one, without itself."""
        return tuple(
            other for other in cpu_list(self.of_cpu(cpu, "topology/thread_siblings_list")) if other != cpu
        )

    def parameters(self, module: str) -> Iterator[tuple[str, str]]:
        """A module's parameters, and what they are set to."""
        folder = MODULES / module / "parameters"
        for name in self.names(folder):
            yield name, self.read(folder / name)


def cpu_list(text: str) -> list[int]:
    """The numbers in the kernel's notation for many.

    >>> cpu_list("0-2,8")
    [0, 1, 2, 8]
    >>> cpu_list("unknown")
    []
    """
    found: list[int] = []
    for part in re.split(r"[\s,]+", text):
        if match := re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", part):
            first = int(match[1])
            found += range(first, int(match[2] or first) + 1)
    return found
