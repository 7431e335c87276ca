"""A reference Switcher in the form in which the stage takes any Switcher."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..switcher_image import SwitcherImage
from .linker import link
from .reference import Reference, load


def image(name: str, insert: Mapping[str, bytes] = MappingProxyType({})) -> SwitcherImage:
    """The image of "seed" or "hardened", with bytes inserted as link() does.

    >>> image("hardened").frame
    '2.6.24'
    """
    return image_of(load(name), insert)


def image_of(reference: Reference, insert: Mapping[str, bytes] = MappingProxyType({})) -> SwitcherImage:
    """The image of any Reference, a changed one too.  Raises ReferenceFileError as link() does."""
    linked = link(reference, insert)
    return SwitcherImage(
        name=f"reference-{linked.name}",
        text=linked.text,
        symbols=linked.symbols,
        entries=linked.entries,
        frame=linked.frame,
        descriptors=linked.descriptors,
        boundaries={label: linked.symbols[label] for label in linked.boundaries},
    )
