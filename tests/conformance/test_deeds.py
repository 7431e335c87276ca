"""What instructions do, told from bytes: the product's own labels say whether it was told rightly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from kvmhost.conformance.deeds import boundaries
from kvmhost.conformance.switchers import BUILT

# What any program might do in between has no name of its own, nor has what only the product does.
NAMELESS = (
    *("copy_pair", "add_frame", "tss_selector", "host_gdt", "data_selector", "find_pair", "read_trapnum"),
    *("host_cr3", "host_idt", "find_gate", "offset_low", "offset_high", "drop_flags", "join"),
)
HARDENED_ONLY = ("_extra",)
CURES = {"R00_origin_extra", "R01_if_ours_extra", "F00_report_extra", "F01_stay_extra"}


def built(name: str) -> tuple[bytes, Mapping[str, Any]]:
    return (BUILT / f"{name}.bin").read_bytes(), json.loads((BUILT / f"{name}.json").read_text())


def nameless(deed: str) -> bool:
    return deed.removesuffix("_return").removesuffix("_deliver") in NAMELESS or deed.endswith(HARDENED_ONLY)


@pytest.mark.parametrize("name", ["seed", "hardened"])
def test_the_product_says_the_same_of_itself(name: str) -> None:
    text, said = built(name)
    places = ("switch_to_guest", "return_to_host", "deliver_to_host", "handle_nmi")
    told = boundaries(text, {place: said["symbols"][place] for place in places})
    deeds = {label[4:]: at for label, at in told.items() if len(label) > 3}
    labelled = {label[4:]: at for label, at in said["boundaries"].items()}
    assert deeds.items() <= labelled.items()
    assert [deed for deed in labelled if deed not in deeds and not nameless(deed)] == []
    # No instruction of the four ways is left out, nor is anything else taken for one.
    of_the_ways = {at for label, at in said["boundaries"].items() if label not in CURES}
    assert of_the_ways - set(told.values()) == set()
    assert set(told.values()) <= set(said["boundaries"].values())


def test_a_jump_by_a_register_is_followed_where_it_can_be() -> None:
    """mov edx, SW+9; jmp edx; two bytes that are no code; pop fs; a jump that nobody can foretell."""
    text = bytes.fromhex("ba0900c0ff ffe2 ffff 0fa1 ff23 1f")
    assert boundaries(text, {"switch_to_guest": 0}) == {"E00": 0, "E01": 5, "E02_pop_fs": 9, "E03": 11}


@pytest.mark.parametrize("text", ["", "eb fe", "e9 00 00 00 00", "ff", "0f 0f 0f", "90 90"])
def test_it_ends_whatever_the_bytes_are(text: str) -> None:
    code = bytes.fromhex(text)
    assert all(0 <= at < len(code) for at in boundaries(code, {"switch_to_guest": 0}).values())
