"""Every kind of bad image has its own clear error, and no bytes whatever give anything else."""

import gzip
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from launcher.elf_files import DYNAMIC, INTERP, NOTE, Elf, Piece, note

from kvmhost.launcher import images
from kvmhost.launcher.errors import ImageError
from kvmhost.launcher.image import Note, Segment

GOOD = Elf().bytes()

BAD = {
    "empty": (b"", "is empty"),
    "half a magic word": (b"\x7fE", "not an ELF file"),
    "a script": (b"#!/bin/sh\nexit\n" * 100, "not an ELF file"),
    "compressed": (gzip.compress(GOOD), "not an ELF file"),
    "only the magic word": (GOOD[:4], "truncated"),
    "half a header": (GOOD[:40], "truncated"),
    "half a program header": (GOOD[:60], "truncated"),
    "half a segment": (GOOD[:-1], "truncated"),
    "a table behind the end": (Elf(table=0x7FFFFFF0).bytes(), "truncated"),
    "a segment behind the end": (Elf((Piece(offset=0x7FFFFFF0),)).bytes(), "truncated"),
    "64-bit": (Elf(width=2, machine=62).bytes(), "64-bit"),
    "64-bit, and truncated": (Elf(width=2).bytes()[:6], "64-bit"),
    "no class": (Elf(width=0).bytes(), "damaged"),
    "no version": (Elf(version=0).bytes(), "damaged"),
    "big-endian": (Elf(order=2).bytes(), "big-endian"),
    "for x86-64, in 32-bit clothes": (Elf(machine=62).bytes(), "for x86-64"),
    "for ARM": (Elf(machine=40).bytes(), "for ARM"),
    "for an unknown machine": (Elf(machine=0x4242).bytes(), "machine number 16962"),
    "an object file": (Elf(kind=1).bytes(), "never linked"),
    "a shared object": (Elf(kind=3).bytes(), "shared object"),
    "a core dump": (Elf(kind=4).bytes(), "core dump"),
    "of no type": (Elf(kind=0xFE00).bytes(), "unknown type"),
    "no program headers": (Elf(count=0).bytes(), "program headers"),
    "too many program headers": (Elf(count=2049, tail=bytes(2049 * 32)).bytes(), "program headers"),
    "program headers of another size": (Elf(header_size=56).bytes(), "program headers"),
    "a user program": (Elf((Piece(), Piece(kind=INTERP, data=b"/lib/ld.so"))).bytes(), "user space"),
    "nothing to load": (Elf((Piece(kind=DYNAMIC),)).bytes(), "nothing to load"),
    "an empty segment": (Elf((Piece(data=b"", size=0),)).bytes(), "nothing to load"),
    "more in the file than in memory": (Elf((Piece(size=1),)).bytes(), "damaged"),
    "beyond 32 bits": (Elf((Piece(0xFFFFF000, size=0x1001),), entry=0xFFFFF000).bytes(), "32 bits"),
    "two segments in one place": (
        Elf((Piece(0x100000, size=0x2000), Piece(0x101FFF))).bytes(),
        "two segments in one place",
    ),
    "the same, in the other order": (
        Elf((Piece(0x101000), Piece(0x100000, size=0x1001))).bytes(),
        "two segments in one place",
    ),
    "an entry below": (Elf(entry=0xFFFFF).bytes(), "begins at 0xfffff"),
    "an entry behind": (Elf(entry=0x100002).bytes(), "begins at 0x100002"),
    "an entry in a note": (
        Elf((Piece(), Piece(0x200000, note(b"x", 1, b""), kind=NOTE)), entry=0x200000).bytes(),
        "begins at 0x200000",
    ),
    "a note without end": (
        Elf((Piece(), Piece(kind=NOTE, data=struct.pack("<III", 8, 100, 1)))).bytes(),
        "note",
    ),
}


@pytest.mark.parametrize(("data", "text"), BAD.values(), ids=BAD)
def test_bad_images(data: bytes, text: str) -> None:
    with pytest.raises(ImageError) as caught:
        images.parse(data, "the image")
    assert text in str(caught.value)
    assert caught.value.message.startswith("the image")
    assert caught.value.next_step


def test_a_good_one() -> None:
    pieces = (
        Piece(0x200000, b"data", 0x3000),
        Piece(0x100000, b"text"),
        Piece(kind=NOTE, data=note(b"GNU", 3, b"12345") + note(b"kvmhost", 1, b"\2\0\0\0")),
    )
    image = images.parse(Elf(pieces, entry=0x100003).bytes(), "good")
    assert image.entry == 0x100003
    assert image.segments == (Segment(0x200000, b"data", 0x3000), Segment(0x100000, b"text", 4))
    assert image.notes == (Note("GNU", 3, b"12345"), Note("kvmhost", 1, b"\2\0\0\0"))
    assert image.end == 0x203000
    assert images.copies(image) == 2


def test_segments_may_touch_and_be_empty_in_the_file() -> None:
    pieces = (Piece(0x100000, b"x", 0x1000), Piece(0x101000, b"", 0x1000))
    assert len(images.parse(Elf(pieces).bytes(), "x").segments) == 2


def test_the_largest_number_of_headers() -> None:
    pieces = (Piece(),) + (Piece(kind=0, data=b""),) * 2047
    assert len(images.parse(Elf(pieces).bytes(), "x").segments) == 1


@pytest.mark.parametrize("data", [b"\0\0\0\0", b"\x11\0\0\0", b"\2\0", b"\2\0\0\0\0"])
def test_bad_numbers_of_copies(data: bytes) -> None:
    image = images.parse(Elf((Piece(), Piece(kind=NOTE, data=note(b"kvmhost", 1, data)))).bytes(), "x")
    with pytest.raises(ImageError, match="copies"):
        images.copies(image)


def only_image_errors(data: bytes) -> None:
    """Either the reader takes it, and then every address lies within 32 bits, or it says why not."""
    try:
        image = images.parse(data, "x")
        images.copies(image)
        images.about(image)
    except ImageError:
        return
    assert image.segments
    assert all(0 <= s.physical <= s.end <= 1 << 32 and len(s.data) <= s.size for s in image.segments)
    assert any(s.physical <= image.entry < s.end for s in image.segments)


WITH_EVERYTHING = Elf(
    (
        Piece(0x100000, b"text" * 5, 0x2000),
        Piece(0x200000, b"data"),
        Piece(kind=NOTE, data=note(b"kvmhost", 1, b"\2\0\0\0") + note(b"kvmhost", 2, b"about")),
    )
).bytes()
HDRS = bytearray(1024 + 512)
HDRS[0x202:0x208] = b"HdrS\x07\x02"
HDRS[0x211], HDRS[0x1F1] = 1, 1
HDRS[0x214:0x218] = (0x100000).to_bytes(4, "little")


@settings(deadline=None)
@given(st.sampled_from([WITH_EVERYTHING, bytes(HDRS)]), st.data())
def test_mutated_images_give_an_error_or_an_image(seed: bytes, data: st.DataObject) -> None:
    image = bytearray(seed)
    positions = st.integers(0, len(image) - 4)
    for at in data.draw(st.lists(positions, max_size=6)):
        width = data.draw(st.sampled_from([1, 2, 4]))
        value = data.draw(st.integers(0, 256**width - 1) | st.sampled_from([0, 1, 256**width - 1]))
        image[at : at + width] = value.to_bytes(width, "little")
    only_image_errors(bytes(image[: data.draw(st.integers(0, len(image)))]))


@settings(deadline=None)
@given(st.binary(max_size=600))
@example(b"\x7fELF\x01\x01\x01" + bytes(45))
def test_arbitrary_bytes_give_an_error(data: bytes) -> None:
    only_image_errors(data)
