"""In every row the hex is what its listing says, and labels are where it says."""

from pathlib import Path

import pytest
from conformance.assemble import Assembled, Listing, ListingError, assemble, fill_in, listings_of

from kvmhost.conformance import row


def test_every_listing_gives_its_hex() -> None:
    paths = [path for path in row.paths() if "listing =" in path.read_text()]
    listings = [each for path in paths for each in listings_of(path)]
    codes = [code for path in paths for case in row.load(path).cases for code in case.code]
    assert len(listings) == len(codes) > 0
    wrong = [
        f"{listing.where}: {code.bytes.hex()}, but the listing gives {made.data.hex()} {dict(made.labels)}"
        for listing, code, made in zip(listings, codes, assemble(listings), strict=True)
        if (made.data, dict(made.labels)) != (code.bytes, dict(code.labels))
    ]
    assert wrong == []


def test_labels_and_symbols_are_resolved_for_the_address() -> None:
    text = "again: mov eax, X0\nfault: mov eax, [X0+4]\njmp again\njmp X0"
    (made,) = assemble([Listing("t", 0x1000, text, {"X0": 0x1100})])
    assert made.data.hex(" ", 1) == "b8 00 11 00 00 a1 04 11 00 00 eb f4 e9 ef 00 00 00"
    assert made.labels == {"again": 0, "fault": 5}


def test_listings_that_share_an_address_and_a_label_do_not_meet() -> None:
    made = assemble([Listing(str(n), 0x1000, f"stop: int {n}", {}) for n in (5, 4)])
    assert made == [Assembled(b"\xcd\x05", {"stop": 0}), Assembled(b"\xcd\x04", {"stop": 0})]


def test_a_listing_that_is_no_assembler_is_refused() -> None:
    with pytest.raises(ListingError, match="no such instruction"):
        assemble([Listing("t", 0x1000, "frobnicate eax", {})])


def test_the_tool_fills_in_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "SEN-010.toml"
    code = 'code = [{ at = "G_CODE", listing = "x: int 0x2f", hex = "%s }]'
    text = f'[[case]]\nname = "a"\nstart = "ring1"\n{code}\n'
    path.write_text(text % '"')
    fill_in([path])
    assert path.read_text() == text % 'cd2f", labels = { x = 0 }'
