"""The way that one case took through QEMU's CPU: every instruction inside the arena, in order.

QEMU writes a line for each block that it executes; with one instruction to a block that is a trace.  What the
monitor does around the case lies elsewhere and is filtered out.
"""

from __future__ import annotations

import re

from ..stage import ARENA, ARENA_SIZE, PAGE, SW
from .trail import of_the_case

#: One executed block: host address, then [cs_base/pc/flags/...]; the pc is linear in QEMU since 7.1.
LINE = re.compile(rb"^Trace \d+: \S+ \[[0-9a-f]+/([0-9a-f]+)/", re.M)
#: QEMU 8.1 made the option a property of the accelerator; 9.0 knows the old one no more.
SINCE = (8, 1)
WHERE = f"{ARENA:#x}+{ARENA_SIZE:#x},{SW:#x}+{2 * PAGE:#x}"


def words(version: str, log: str) -> list[str]:
    """What to add to QEMU's command line so that it writes the trace to a file.

    >>> words("QEMU emulator version 7.2.22 (Debian 1:7.2)", "f")[:1]
    ['-singlestep']
    """
    found = re.search(r"version (\d+)\.(\d+)", version)
    modern = found is not None and (int(found[1]), int(found[2])) >= SINCE
    single = ["-accel", "tcg,one-insn-per-tb=on"] if modern else ["-singlestep"]
    return [*single, "-d", "exec,nochain", "-dfilter", WHERE, "-D", log]


def addresses(log: bytes) -> tuple[int, ...]:
    """The linear address of each instruction in the log but those of the collector's second page, our own.

    >>> addresses(b"Trace 0: 0x7f [00000000/00416000/00000040/ff020001] \\nTrace 0: 0x7 [0/00416001/4/f]\\n")
    (4284416, 4284417)
    """
    return of_the_case(int(address, 16) for address in LINE.findall(log))
