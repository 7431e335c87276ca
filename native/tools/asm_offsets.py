"""Turn the markers that asm_offsets.c leaves in compiled assembler into a header of constants.

The kernel does the same with its asm-offsets: the compiler is the only one who
knows a structure's layout, so the assembler must hear it from the compiler.
"""

import re
import sys
from pathlib import Path


def main(source: str, target: str) -> None:
    lines = ["/* generated from native/abi by asm_offsets.py */"]
    for line in Path(source).read_text().splitlines():
        found = re.search(r"->(\w+) \$?(-?\d+)", line)
        if found:
            lines.append(f"#define {found[1]} {found[2]}")
    if len(lines) == 1:
        raise SystemExit(f"{source}: no markers found")
    Path(target).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
