"""ELF files made by hand, field by field, from the specification and not from the reader under test."""

import struct
from dataclasses import dataclass, field

LOAD, DYNAMIC, INTERP, NOTE = 1, 2, 3, 4


@dataclass(frozen=True)
class Piece:
    """One program header and the bytes it points to; `size` in memory, and fields to be wrong on purpose."""

    physical: int = 0x100000
    data: bytes = b"\xeb\xfe"
    size: int | None = None
    kind: int = LOAD
    offset: int | None = None
    file_size: int | None = None


@dataclass(frozen=True)
class Elf:
    """A 32-bit executable for i386 with everything right, unless told otherwise."""

    pieces: tuple[Piece, ...] = (Piece(),)
    entry: int = 0x100000
    magic: bytes = b"\x7fELF"
    width: int = 1
    order: int = 1
    version: int = 1
    kind: int = 2
    machine: int = 3
    table: int = 52
    header_size: int = 32
    count: int | None = None
    tail: bytes = field(default=b"")

    def bytes(self) -> bytes:
        ident = self.magic + bytes([self.width, self.order, self.version]) + bytes(9)
        count = len(self.pieces) if self.count is None else self.count
        header = ident + struct.pack(
            "<HHIIIIIHHHHHH",
            self.kind, self.machine, 1, self.entry, self.table, 0, 0, 52, self.header_size, count, 40, 0, 0,
        )  # fmt: skip
        table, body = b"", b""
        start = 52 + 32 * len(self.pieces)
        for piece in self.pieces:
            size = len(piece.data) if piece.size is None else piece.size
            offset = start + len(body) if piece.offset is None else piece.offset
            in_file = len(piece.data) if piece.file_size is None else piece.file_size
            table += struct.pack(
                "<IIIIIIII", piece.kind, offset, piece.physical, piece.physical, in_file, size, 7, 0x1000
            )
            body += piece.data
        return header + table + body + self.tail


def note(owner: bytes, kind: int, data: bytes) -> bytes:
    """One note, name and descriptor padded to four bytes."""

    def pad(text: bytes) -> bytes:
        return text + bytes(-len(text) % 4)

    return struct.pack("<III", len(owner) + 1, len(data), kind) + pad(owner + b"\0") + pad(data)
