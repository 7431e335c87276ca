"""The second opinion on how to switch worlds: two Switchers written from the catalogue's text alone.

They are layer L2.  A sequence that works with them but not with the product shows a defect of the product;
one that fails with both shows the CPU, the KVM or the emulator beneath.  So nothing here comes from the
product's sources, and the instructions are data (seed.toml, hardened.toml) that can be read next to the
manual.  What runs is laid out by link(), which can put bytes in front of any instruction: an INT 2 there is
the patch method for engines that cannot raise an NMI at an exact boundary.
"""

from __future__ import annotations

from .image import image, image_of
from .linker import Linked, Region, link
from .reference import NAMES, Instruction, Part, Reference, ReferenceFileError, Stubs, load

__all__ = [
    "NAMES",
    "Instruction",
    "Linked",
    "Part",
    "Reference",
    "ReferenceFileError",
    "Region",
    "Stubs",
    "image",
    "image_of",
    "link",
    "load",
]
