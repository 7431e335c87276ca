"""Cut a linked Switcher (or the Host) into what is shipped: its text, and what is known about it.

The text is linked at zero, so symbols and the table of stub addresses are
offsets into it; the loader adds the address at which the text comes to lie.
"""

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PAGE_BYTES = 4096


def section(objcopy: str, elf: str, name: str) -> bytes:
    """The bytes of one section."""
    with tempfile.NamedTemporaryFile() as out:
        subprocess.run([objcopy, "-O", "binary", "-j", name, elf, out.name], check=True)
        return Path(out.name).read_bytes()


def symbols(nm: str, elf: str) -> dict[str, int]:
    """Every symbol of the text, by name."""
    listing = subprocess.run([nm, "-n", elf], check=True, capture_output=True, text=True).stdout
    rows = (line.split() for line in listing.splitlines())
    return {name: int(value, 16) for value, kind, name in rows if kind in "tT"}


def main(objcopy: str, nm: str, frame: str, descriptors: str, elf: str, binary: str, facts: str) -> None:
    text = section(objcopy, elf, ".text")
    table = section(objcopy, elf, ".data")
    names = symbols(nm, elf)
    entries = [int.from_bytes(table[i : i + 4], "little") for i in range(0, 4 * 256, 4)]
    if len(text) > PAGE_BYTES:
        raise SystemExit(f"{elf}: {len(text)} bytes of text do not fit the one page they have")
    Path(binary).write_bytes(text)
    description = {
        "sha256": hashlib.sha256(text).hexdigest(),
        "size": len(text),
        "frame": frame,
        "descriptors": int(descriptors),
        "symbols": names,
        "boundaries": {n: a for n, a in names.items() if re.match(r"[A-Z]\d\d_", n)},
        "default_idt_entries": entries,
    }
    Path(facts).write_text(json.dumps(description, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
