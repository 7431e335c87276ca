"""Cut the linked monitor into what a runner puts into memory, and say where its symbols are.

Two pieces run at two addresses: the monitor itself, and the collector, which lies in the arena of every case.
"""

import json
import sys
from pathlib import Path

from blob import section, symbols


def main(objcopy: str, nm: str, elf: str, monitor: str, collector: str, facts: str) -> None:
    pieces = {monitor: (".text", 0x4000), collector: (".collect", 0x1000)}
    for target, (name, room) in pieces.items():
        data = section(objcopy, elf, name)
        if not 0 < len(data) <= room:
            raise SystemExit(f"{elf}: {len(data)} bytes in {name}, and there is room for {room}")
        Path(target).write_bytes(data)
    Path(facts).write_text(json.dumps({"symbols": symbols(nm, elf)}, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
