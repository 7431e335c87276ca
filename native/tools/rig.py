"""Link the rig's text where its own symbol says that it will lie, and tell where everything is."""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def symbols(nm: str, file: str) -> dict[str, int]:
    """Every symbol of the text and every plain number, by name."""
    listing = subprocess.run([nm, "-n", file], check=True, capture_output=True, text=True).stdout
    rows = (line.split() for line in listing.splitlines())
    return {name: int(value, 16) for value, kind, name in rows if kind in "tTA"}


def main(ld: str, objcopy: str, nm: str, source: str, binary: str, facts: str) -> None:
    place = symbols(nm, source)["rig_text"]
    with tempfile.TemporaryDirectory() as folder:
        elf = f"{folder}/rig.elf"
        layout = [f"-Ttext={place:#x}", "--no-warn-rwx-segments", "-e", "rig_entry"]
        subprocess.run([ld, "-m", "elf_i386", *layout, source, "-o", elf], check=True)
        subprocess.run([objcopy, "-O", "binary", "-j", ".text", elf, binary], check=True)
        places = symbols(nm, elf)
    text = Path(binary).read_bytes()
    if len(text) > places["rig_data"] - place:
        raise SystemExit(f"{source}: {len(text)} bytes of text reach into the rig's data")
    about = {"sha256": hashlib.sha256(text).hexdigest(), "symbols": places}
    Path(facts).write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
