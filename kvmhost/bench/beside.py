"""A process with one Guest, which tells how much memory it has beside the Guest's: `python -m ... [FD]`.

The Guest is started and halts.  Then its memory is given back to the kernel, and what the process still has
is what it takes to have a Guest: Python, kvmhost, the Host, the shadow tables.
"""

from __future__ import annotations

import sys
from pathlib import Path

from kvmhost.bench import guests
from kvmhost.bench.benchmark import Setting
from kvmhost.bench.errors import BenchError
from kvmhost.bench.lives import MEMORY

TOTALS = Path("/proc/self/smaps_rollup")
KILOBYTE = 1024


def resident(text: str) -> int:
    """Bytes that a process has in memory, from smaps_rollup; pages that others have as well count whole.

    >>> resident("55d0-7ffd ---p 00000000 00:00 0 [rollup]\\nRss:     123 kB\\nPss:      99 kB\\n")
    125952
    """
    line = next(line for line in text.splitlines() if line.startswith("Rss:"))
    return int(line.split()[1]) * KILOBYTE


def beside(setting: Setting) -> tuple[int, int]:
    """Bytes with the Guest's memory, and without it."""
    with guests.timed_image() as image, guests.machine(setting, MEMORY) as machine:
        guest = machine.load(image)
        guests.run_until_ready(machine, guests.patience(setting))
        guests.clean()
        with_guest = resident(TOTALS.read_text())
        machine.memory.release(guest.state.mem_base, guest.ram.size)
        return with_guest, resident(TOTALS.read_text())


def main(words: list[str]) -> int:
    """Print the number, or why there is none."""
    setting = Setting(device=int(words[0]) if words else None)
    try:
        with guests.reasons():
            print(beside(setting)[1])
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
