"""Turns what is known about a Guest into notes in its image, owner "kvmhost".

Type 2 is the paragraph that opens its source: `kvmhost` shows it when it lists the Guests,
so it is written once, where the reader of the source meets it.  Type 3, for a Guest that
is built for more than one generation, tells which one this image speaks.
"""

import re
import sys
from pathlib import Path

# NOTE_ABOUT and NOTE_ABI of native/abi/boot.h.
ABOUT = 2
ABI = 3


def opening_paragraph(source: str) -> str:
    """The first paragraph of the comment that opens SOURCE, on one line, without its tag on the Journey."""
    comment = re.match(r"/\*\n(.*?)\*/", source, re.S)
    if comment is None:
        raise SystemExit("a Guest's source opens with a paragraph on what it shows")
    lines = [line.strip().lstrip("*").strip() for line in comment[1].splitlines()]
    paragraph = " ".join(lines[: lines.index("")] if "" in lines else lines)
    return re.sub(r"^\[[A-Z]\d+\] ", "", " ".join(paragraph.split()))


def note(kind: int, text: str) -> str:
    """Assembler for one ELF note: name size, descriptor size, type, name, descriptor."""
    data = text.encode()
    body = ", ".join(str(byte) for byte in data)
    return (
        '\t.section .note.kvmhost, "a", @note\n\t.balign 4\n'
        f'\t.long 8, {len(data)}, {kind}\n\t.asciz "kvmhost"\n\t.byte {body}\n\t.balign 4\n'
        '\t.section .note.GNU-stack, "", @progbits\n'
    )


if __name__ == "__main__":
    source, output, *abi = sys.argv[1:]
    notes = note(ABOUT, opening_paragraph(Path(source).read_text()))
    if abi:
        notes += note(ABI, " ".join(abi))
    Path(output).write_text(notes)
