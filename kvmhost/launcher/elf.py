"""Reads ELF images strictly, and says what is wrong with those it does not take.

lguest's Launcher took 32-bit i386 executables and copied each loadable segment to its *physical* address (abi
9.3).  That is all there is to it, so the reader is our own: a hundred lines that touch no byte they have not
checked to exist, whatever the file contains.  (pyelftools reads foreign Switchers, and gives the tests a
second opinion.  In the lab importing it takes 2.5 s, and reading a Guest here 1 ms.)  Names and values are
those of the ELF specification ("Object Files", TIS 1.2).
"""

import struct
from itertools import pairwise
from typing import Final

from kvmhost.launcher import payload
from kvmhost.launcher.errors import ImageError
from kvmhost.launcher.image import Image, Note, Segment
from kvmhost.launcher.linux import examine

MAGIC: Final = b"\x7fELF"
EHDR: Final = struct.Struct("<16sHHIIIIIHHHHHH")
PHDR: Final = struct.Struct("<IIIIIIII")
NHDR: Final = struct.Struct("<III")
ELFCLASS32: Final = 1
ELFCLASS64: Final = 2
ELFDATA2LSB: Final = 1
ET_EXEC: Final = 2
EM_386: Final = 3
PT_LOAD: Final = 1
PT_INTERP: Final = 3
PT_NOTE: Final = 4
MAX_HEADERS: Final = 65536 // PHDR.size
ADDRESS_END: Final = 1 << 32

WRONG_TYPES: Final = {
    1: ("an object file that was never linked", "link it, with `ld -m elf_i386 -Ttext=0x100000`"),
    3: ("a shared object or position-independent executable", "link it with -no-pie, to fixed addresses"),
    4: ("a core dump", "name the program that dumped it, not what it left behind"),
}
MACHINES: Final = {8: "MIPS", 20: "PowerPC", 40: "ARM", 62: "x86-64", 183: "AArch64", 243: "RISC-V"}
BUILD_AGAIN: Final = "copy or build it again: its end is missing"
BUILD_I386: Final = "build a 32-bit one: ARCH=i386 for a kernel, -m32 for a Guest of your own"


def parse(data: bytes, name: str) -> Image:
    """The image in `data`; `name` is for messages. Raises ImageError with what is wrong and what to do.

    >>> parse(b"#!/bin/sh", "script")
    Traceback (most recent call last):
    ...
    kvmhost.launcher.errors.ImageError: script is not an ELF file. Next: name a 32-bit kernel or Guest
    """
    header = _header(data, name)
    entry, offset, entries = header
    table = _program_headers(data, name, offset, entries)
    segments: list[Segment] = []
    notes: list[Note] = []
    offsets: list[int] = []
    for kind, start, virtual, physical, file_size, memory_size, _flags, _align in table:
        if kind == PT_INTERP:
            raise ImageError(
                f"{name} is a program for Linux's user space",
                "a Guest is a kernel: it needs no dynamic linker",
            )
        if kind not in (PT_LOAD, PT_NOTE):
            continue
        if start + file_size > len(data):
            raise ImageError(
                f"{name} is truncated",
                BUILD_AGAIN,
                f"a segment ends at {start + file_size} of {len(data)} bytes",
            )
        content = data[start : start + file_size]
        if kind == PT_NOTE:
            notes += _notes(content, name)
        elif memory_size or file_size:
            segments.append(_segment(name, physical, content, memory_size))
            offsets.append((virtual - physical) % ADDRESS_END)
    at_entry = _check_layout(name, segments, entry)
    kernel = examine(b"".join(segment.data for segment in segments))
    return Image(name, entry, tuple(segments), tuple(notes), page_offset=offsets[at_entry], kernel=kernel)


def _header(data: bytes, name: str) -> tuple[int, int, int]:
    """Entry point, offset and number of the program headers of a file that is of the right kind."""
    if not data:
        raise ImageError(f"{name} is empty", "build it again, and look whether its disk is full")
    if data[:4] != MAGIC[: len(data)] or len(data) < 4:
        packing = payload.method(data)
        raise ImageError(
            f"{name} is not an ELF file" + (f", but packed with {packing}" if packing else ""),
            "name a 32-bit kernel or Guest" + (", unpacked: vmlinux or bzImage" if packing else ""),
        )
    if len(data) > 4 and data[4] == ELFCLASS64:
        raise ImageError(f"{name} is a 64-bit kernel or program, and Guests are 32-bit", BUILD_I386)
    if len(data) < EHDR.size:
        raise ImageError(
            f"{name} is truncated", BUILD_AGAIN, f"{len(data)} bytes are less than an ELF header"
        )
    ident, kind, machine, version, entry, offset, _, _, _, size, count, _, _, _ = EHDR.unpack_from(data)
    if ident[4] != ELFCLASS32 or ident[6] != 1 or version != 1:
        raise ImageError(
            f"{name} is damaged", "build it again", "its ELF identification names no known class"
        )
    if ident[5] != ELFDATA2LSB:
        raise ImageError(f"{name} is big-endian, and x86 is not", BUILD_I386)
    if machine != EM_386:
        called = MACHINES.get(machine, f"machine number {machine}")
        raise ImageError(f"{name} is for {called}, not for i386", BUILD_I386)
    if kind != ET_EXEC:
        what, step = WRONG_TYPES.get(kind, (f"of unknown type {kind}", "build it again"))
        raise ImageError(f"{name} is {what}, not an executable", step)
    if size != PHDR.size or not 1 <= count <= MAX_HEADERS:
        raise ImageError(
            f"{name} has no usable program headers",
            "link it as an executable",
            f"{count} headers of {size} bytes, where 1 to {MAX_HEADERS} of {PHDR.size} may be",
        )
    return entry, offset, count


def _program_headers(data: bytes, name: str, offset: int, count: int) -> list[tuple[int, ...]]:
    if offset + count * PHDR.size > len(data):
        raise ImageError(f"{name} is truncated", BUILD_AGAIN, "its program headers lie behind its end")
    return [PHDR.unpack_from(data, offset + index * PHDR.size) for index in range(count)]


def _segment(name: str, physical: int, content: bytes, memory_size: int) -> Segment:
    if len(content) > memory_size:
        raise ImageError(
            f"{name} is damaged", "link it again", f"a segment of {memory_size} bytes holds {len(content)}"
        )
    if physical + memory_size > ADDRESS_END:
        raise ImageError(
            f"{name} does not fit into 32 bits",
            "link it to lower physical addresses",
            f"a segment of {memory_size:#x} bytes begins at {physical:#x}",
        )
    return Segment(physical, content, memory_size)


def _check_layout(name: str, segments: list[Segment], entry: int) -> int:
    """That segments lie apart and the entry in one of them: which."""
    if not segments:
        raise ImageError(f"{name} has nothing to load", "link it as an executable with a text segment")
    ordered = sorted(segments, key=lambda segment: segment.physical)
    for low, high in pairwise(ordered):
        if low.end > high.physical:
            raise ImageError(
                f"{name} has two segments in one place",
                "correct the physical addresses (AT or LMA) in its linker script",
                f"{low.physical:#x} to {low.end:#x} and {high.physical:#x} to {high.end:#x}",
            )
    for index, segment in enumerate(segments):
        if segment.physical <= entry < segment.end:
            return index
    raise ImageError(
        f"{name} begins at {entry:#x}, where nothing of it is loaded",
        "set its entry to the physical address of its first instruction",
    )


def _notes(content: bytes, name: str) -> list[Note]:
    """The notes in a PT_NOTE segment: three words, a name and a descriptor, both padded to 4 bytes."""
    notes = []
    at = 0
    while at + NHDR.size <= len(content):
        name_size, size, kind = NHDR.unpack_from(content, at)
        start = at + NHDR.size
        body = start + _padded(name_size)
        if body + size > len(content):
            raise ImageError(f"{name} has a note that ends behind its segment", "link it again")
        owner = content[start : start + name_size].rstrip(b"\0").decode("latin-1")
        notes.append(Note(owner, kind, content[body : body + size]))
        at = body + _padded(size)
    return notes


def _padded(size: int) -> int:
    return (size + 3) & ~3
