"""Turns the paragraph that opens a Guest's source into a note in its image.

`kvmhost` shows that paragraph when it lists the Guests, so it is written once, where
the reader of the source meets it.  Note type 2, owner "kvmhost".
"""

import re
import sys
from pathlib import Path


def opening_paragraph(source: str) -> str:
    """The first paragraph of the comment that opens SOURCE, on one line, without its tag on the Journey."""
    comment = re.match(r"/\*\n(.*?)\*/", source, re.S)
    if comment is None:
        raise SystemExit("a Guest's source opens with a paragraph on what it shows")
    lines = [line.strip().lstrip("*").strip() for line in comment[1].splitlines()]
    paragraph = " ".join(lines[: lines.index("")] if "" in lines else lines)
    return re.sub(r"^\[[A-Z]\d+\] ", "", " ".join(paragraph.split()))


def note(text: str) -> str:
    """Assembler for one ELF note: name size, descriptor size, type, name, descriptor."""
    data = text.encode()
    body = ", ".join(str(byte) for byte in data)
    return (
        '\t.section .note.kvmhost, "a", @note\n\t.balign 4\n'
        f'\t.long 8, {len(data)}, 2\n\t.asciz "kvmhost"\n\t.byte {body}\n\t.balign 4\n'
        '\t.section .note.GNU-stack, "", @progbits\n'
    )


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(note(opening_paragraph(Path(sys.argv[1]).read_text())))
