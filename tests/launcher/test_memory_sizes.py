"""Memory sizes as people type them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmhost.launcher.errors import MemorySizeError
from kvmhost.launcher.memory import LARGEST, parse_memory


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64M", 67108864),
        ("1G", 1073741824),
        ("262144k", 268435456),
        ("2M", 2097152),
        (" 16 MiB ", 16777216),
        ("16mb", 16777216),
        ("4194304", 4194304),
        (8388608, 8388608),
        ("3G", 3221225472),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0", "no memory"),
        ("0M", "no memory"),
        ("1", "1 bytes are too few"),
        (1, "1 bytes are too few"),
        ("1M", "too few"),
        ("5G", "Guests live below 0xFE000000"),
        ("4G", "Guests live below 0xFE000000"),
        ("99999999999999999999G", "too many"),
        ("4194305", "multiple of 4096, for example 4198400"),
        ("", "not a size"),
        ("M", "not a size"),
        ("lots", "not a size"),
        ("-64M", "not a size"),
        (-1, "not a size"),
        ("1.5G", "not a size"),
        ("64T", "not a size"),
        ("64M64M", "not a size"),
        ("\u0664\u0664M", "not a size"),
        ("1" * 5000, "not a size"),
    ],
)
def test_what_is_no_size(text: str | int, said: str) -> None:
    with pytest.raises(MemorySizeError) as caught:
        parse_memory(text)
    assert said in str(caught.value)
    assert caught.value.next_step
    assert len(str(caught.value)) < 200


def test_the_largest_fits_below_the_io_apic_beside_the_host() -> None:
    # 0xFE000000, less the first 2 MiB with the Host area, less the Guest's own 2 MiB block.
    assert LARGEST == 0xFE000000 - 0x200000 - 0x200000
    assert parse_memory(LARGEST) == LARGEST
    with pytest.raises(MemorySizeError):
        parse_memory(LARGEST + 4096)


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_a_size_or_an_error(text: str) -> None:
    try:
        size = parse_memory(text)
    except MemorySizeError:
        return
    assert size % 4096 == 0
    assert 2 << 20 <= size <= LARGEST
