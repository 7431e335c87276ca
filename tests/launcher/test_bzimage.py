"""bzImages by the rules of the boot protocol: what is skipped, what is loaded, what is refused."""

import pytest

from kvmhost.launcher import images
from kvmhost.launcher.errors import ImageError
from kvmhost.launcher.image import Segment


def bzimage(
    version: int = 0x020A,
    sectors: int = 3,
    loadflags: int = 1,
    entry: int = 0x100000,
    more: bytes = b"unpack",
) -> bytes:
    data = bytearray(((sectors or 4) + 1) * 512)
    data[0x1F1] = sectors
    data[0x202:0x206] = b"HdrS"
    data[0x206:0x208] = version.to_bytes(2, "little")
    data[0x211] = loadflags
    data[0x214:0x218] = entry.to_bytes(4, "little")
    return bytes(data) + more


@pytest.mark.parametrize("sectors", [0, 1, 3, 31])
def test_what_follows_the_real_mode_part_goes_to_1_mib(sectors: int) -> None:
    image = images.parse(bzimage(sectors=sectors, entry=0x100002), "kernel")
    assert image.segments == (Segment(0x100000, b"unpack", 6),)
    assert image.entry == 0x100002


def with_word(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + value.to_bytes(2, "little") + data[at + 2 :]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        pytest.param(bzimage()[:0x206], "truncated", id="ends behind the magic word"),
        pytest.param(bzimage()[:1500], "truncated", id="ends within the real-mode part"),
        pytest.param(bzimage(more=b""), "truncated", id="real-mode part alone"),
        pytest.param(bzimage(0x0206), "2.06", id="too old"),
        pytest.param(bzimage(loadflags=0), "zImage", id="loads low"),
        pytest.param(bzimage(entry=0x100006), "begins at 0x100006", id="entry behind the end"),
        pytest.param(bzimage(entry=0x90000), "begins at 0x90000", id="entry in the real-mode part"),
        pytest.param(with_word(bzimage(0x020C), 0x236, 1), "64-bit", id="has a 64-bit entry"),
    ],
)
def test_refused(data: bytes, text: str) -> None:
    with pytest.raises(ImageError, match=text) as caught:
        images.parse(data, "kernel")
    assert caught.value.next_step


def test_the_64_bit_flag_means_nothing_before_2_12() -> None:
    assert images.parse(with_word(bzimage(0x020B), 0x236, 1), "kernel").entry == 0x100000


def with_version(text: bytes, pointer: int = 0x300) -> bytes:
    """The version string lies at 0x500, and the header says where, counting from 0x200."""
    data = bytearray(with_word(bzimage(), 0x20E, pointer))
    data[0x500 : 0x500 + len(text)] = text
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "release"),
    [
        (with_version(b"2.6.29.6 (me@here) #1 SMP\0"), "2.6.29.6"),
        (with_version(b"4.1.15+\0"), "4.1.15+"),
        (with_version(b"4.1.15", 0), None),
        (with_version(b"\xc3\xa4"), None),
        (with_version(b"4.1\xc3\xa4 x"), None),
        (with_word(bzimage(), 0x20E, 0xFFFF), None),
    ],
    ids=["release", "release alone", "no pointer", "no release", "not ASCII", "behind the end"],
)
def test_release(data: bytes, release: str | None) -> None:
    image = images.parse(data, "kernel")
    assert image.release == release
    assert image.abi.name == {"2.6.29.6": "2.6.26", "4.1.15+": "4.1", None: "3.1"}[release]
