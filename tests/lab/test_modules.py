"""A module is loaded after all that it depends on, and what is missing is named."""

from __future__ import annotations

import pytest
from lab.things import module

from kvmhost.lab.modules import NeededModuleMissing, in_load_order, modinfo


def test_modinfo() -> None:
    assert modinfo(module("a,b")) == {"license": "GPL", "depends": "a,b", "vermagic": "6.1.0 SMP"}


@pytest.mark.parametrize("content", [b"", b"\x7fELF\x01\x01" + bytes(60), module(section=b".text")])
def test_what_is_no_module(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"ELF|modinfo"):
        modinfo(content)


KERNEL = {"a": module("b,c-d"), "b": module("e"), "c_d": module("b"), "e": module(), "f": module("e")}


def test_the_order() -> None:
    assert list(in_load_order(KERNEL.get, [], ["f", "a"])) == ["e", "f", "b", "c_d", "a"]


def test_what_is_built_in_is_not_loaded() -> None:
    assert list(in_load_order(KERNEL.get, ["e", "c_d"], ["a", "e"])) == ["b", "a"]


def test_a_missing_module() -> None:
    with pytest.raises(NeededModuleMissing, match=r"^e$"):
        in_load_order({name: KERNEL[name] for name in "abf"}.get, [], ["a"])
