"""Cut programs that stand one behind the other in an object's text, each from its symbol to the next."""

import json
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

PREFIX = "program_"
LAST = "end"


def main(objcopy: str, nm: str, source: str, target: str) -> None:
    with tempfile.NamedTemporaryFile() as out:
        subprocess.run([objcopy, "-O", "binary", "-j", ".text", source, out.name], check=True)
        text = Path(out.name).read_bytes()
    listing = subprocess.run([nm, "-n", source], check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in listing.splitlines()]
    starts = [(name.removeprefix(PREFIX), int(at, 16)) for at, _, name in rows if name.startswith(PREFIX)]
    if starts[-1][0] != LAST:
        raise SystemExit(f"{source}: the last symbol is {starts[-1][0]}, not {LAST}")
    programs = {name: text[start:end].hex() for (name, start), (_, end) in pairwise(starts)}
    Path(target).write_text(json.dumps(programs, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
