"""Write kvmhost/doctor/_constants.py: what the compiler said about KVM and the ABI, and the probe Guests.

The doctor must work when the compiled part of kvmhost is missing or broken, so it gets numbers and
machine code as plain Python. Numbers come from the markers in compiled assembler (as for the
Switchers), machine code and its symbols from the linked probes.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path


def constants(assembler: str) -> list[str]:
    """`NAME = value` for each marker the compiler left."""
    found = re.findall(r"->(\w+) \$?(-?\d+)", assembler)
    if not found:
        raise SystemExit("no markers found")
    return [f"{name} = {int(value):#x}" for name, value in found]


def machine_code(objcopy: str, linked: str) -> bytes:
    """The text of the probe Guests."""
    with tempfile.NamedTemporaryFile() as flat:
        subprocess.run([objcopy, "-O", "binary", "-j", ".text", linked, flat.name], check=True)
        return Path(flat.name).read_bytes()


def symbols(nm: str, linked: str) -> dict[str, int]:
    """Global symbols of the text and their addresses."""
    listing = subprocess.run([nm, "-g", linked], check=True, capture_output=True, text=True).stdout
    rows = (line.split() for line in listing.splitlines())
    own = (row for row in rows if row[1] == "T" and not row[2].startswith("_"))
    return {name: int(address, 16) for address, _, name in own}


def main(objcopy: str, nm: str, assembler: str, linked: str, target: str) -> None:
    """The whole module, already in the shape the formatter wants."""
    lines = ['"""Generated from native/doctor and native/abi when kvmhost was built."""', ""]
    lines += constants(Path(assembler).read_text())
    code = machine_code(objcopy, linked)
    lines += ["", "PROBE_CODE = bytes.fromhex("]
    lines += [f'    "{code[i : i + 32].hex()}"' for i in range(0, len(code), 32)]
    lines += [")", "", "PROBE_SYMBOLS = {"]
    lines += [f'    "{name}": {address:#x},' for name, address in symbols(nm, linked).items()]
    lines += ["}"]
    Path(target).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
