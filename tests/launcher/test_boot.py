"""What a Guest finds in memory, against offsets copied from the boot protocol and not from our header."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmhost.launcher.boot import boot_params, lay_out
from kvmhost.launcher.errors import ImageError
from kvmhost.launcher.image import Image, Segment

MIB = 1 << 20


def image(*segments: Segment) -> Image:
    return Image("kernel", segments[0].physical, segments, ())


TEXT = Segment(0x100000, b"text", 0x10000)


def test_boot_params_without_initrd() -> None:
    page = boot_params(64 * MIB)
    expected = bytearray(4096)
    expected[0x1E8] = 1
    expected[0x206:0x208] = b"\x07\x02"
    expected[0x211] = 0x40
    expected[0x228:0x22C] = struct.pack("<I", 4096)
    expected[0x230:0x234] = struct.pack("<I", 0x1000000)
    expected[0x23C:0x240] = struct.pack("<I", 1)
    expected[0x2D0:0x2E4] = struct.pack("<QQI", 0, 64 * MIB, 1)
    assert page == bytes(expected)


def test_boot_params_with_initrd() -> None:
    page, plain = boot_params(64 * MIB, 0x3FFE000, 0x2000), boot_params(64 * MIB)
    assert page[0x210] == 0xFF
    assert struct.unpack_from("<II", page, 0x218) == (0x3FFE000, 0x2000)
    assert page[:0x210] + plain[0x210:0x211] + page[0x211:0x218] + plain[0x218:0x220] + page[0x220:] == plain


def test_the_sentinel_and_the_screen_stay_zero() -> None:
    page = boot_params(4063 * MIB, 0x1000, 0x1000)
    assert page[0x1EF] == 0
    assert page[:0x40] == bytes(0x40)


def test_where_everything_goes() -> None:
    data = Segment(0x200000, b"data", 0x1000)
    layout = lay_out(image(TEXT, data), 16 * MIB, "debug λ", b"i" * 5000)
    pieces = dict(layout.pieces)
    assert layout.entry == 0x100000
    assert pieces[4096] == "debug λ\0".encode()
    assert pieces[0x100000] == b"text"
    assert pieces[0x200000] == b"data"
    assert pieces[16 * MIB - 8192] == b"i" * 5000
    assert struct.unpack_from("<II", pieces[0], 0x218) == (16 * MIB - 8192, 8192)


@pytest.mark.parametrize(
    ("what", "line", "initrd", "said"),
    [
        pytest.param(Segment(0, b"x", 1), "", None, "boot parameters", id="segment at 0"),
        pytest.param(Segment(0x17FF, b"x", 1), "", None, "boot parameters", id="on the command line's end"),
        pytest.param(Segment(0x400000, b"x", 1), "", None, "at least 5M", id="behind the top"),
        pytest.param(Segment(0x3FF000, b"x", 0x1001), "", None, "at least 5M", id="over the top, by a byte"),
        pytest.param(
            Segment(0xFFFFF000, b"x", 0x1000), "", None, "lower physical", id="at the end of 32 bits"
        ),
        pytest.param(Segment(0x3FE000, b"x", 0x1001), "", b"i", "the initrd takes 1 MiB", id="on the initrd"),
        pytest.param(TEXT, "", bytes(4 * MIB), "the initrd takes 4 MiB", id="initrd fills memory"),
        pytest.param(TEXT, "", bytes(5 * MIB), "the initrd takes 5 MiB", id="initrd larger than memory"),
        pytest.param(TEXT, "x" * 2048, None, "2047", id="command line too long"),
        pytest.param(TEXT, "a\0b", None, "NUL", id="command line with a NUL"),
    ],
)
def test_what_does_not_fit(what: Segment, line: str, initrd: bytes | None, said: str) -> None:
    with pytest.raises(ImageError) as caught:
        lay_out(image(what), 4 * MIB, line, initrd)
    assert said in str(caught.value)
    assert caught.value.next_step


def test_what_just_fits() -> None:
    top = Segment(0x3FE000, b"x", 0x1000)
    low = Segment(0x1800, b"x", 0x1000)
    layout = lay_out(image(low, top), 4 * MIB, "x" * 2047, b"i" * 4096)
    assert dict(layout.pieces)[0x3FF000] == b"i" * 4096


segments = st.builds(
    lambda at, size: Segment(at, bytes(min(size, 64)), size), st.integers(0, 2**32), st.integers(0, 2**23)
)


@settings(deadline=None)
@given(segments, st.integers(2, 16), st.none() | st.integers(0, 2**23), st.text(max_size=3000))
def test_nothing_overlaps_and_nothing_lies_outside(
    segment: Segment, mib: int, initrd: int | None, line: str
) -> None:
    try:
        layout = lay_out(image(segment), mib * MIB, line, None if initrd is None else bytes(initrd))
    except ImageError:
        return
    ranges = sorted((at, at + len(data)) for at, data in layout.pieces)
    assert ranges[0] == (0, 4096)
    assert ranges[-1][1] <= mib * MIB
    assert all(low[1] <= high[0] for low, high in pairwise(ranges))
