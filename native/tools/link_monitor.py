"""Link the monitor at the addresses that the ABI header gives it."""

import re
import subprocess
import sys
from pathlib import Path


def main(ld: str, offsets: str, entry: str, target: str) -> None:
    text = Path(offsets).read_text()
    known = {name: int(value) for name, value in re.findall(r"#define (\w+) (-?\d+)", text)}
    places = [f"--section-start=.text={known['CONFORM_TEXT']:#x}"]
    places.append(f"--section-start=.collect={known['CONFORM_COLLECT']:#x}")
    options = ["-m", "elf_i386", "--no-warn-rwx-segments", "-e", "monitor_start", *places]
    subprocess.run([ld, *options, entry, "-o", target], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
