"""Somebody else's Switcher, as `kvmhost conform --switcher FILE --offsets FILE` names it.

An object file is loaded as `kvmhost run --switcher` loads it, so that what is tested is what would run; its
symbols say where things are, and the offsets only which generation it was built for.  A bare text says
nothing, and its offsets must say everything.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kvmhost.cli.failures import UsageError

if TYPE_CHECKING:
    from kvmhost.conformance.switcher_image import SwitcherImage

ELF = b"\x7fELF"
HELP = """\
--switcher names an object file that a kernel tree built from its Switcher (ELF, i386, with its symbols), or
a Switcher's text alone, linked for 0xFFC00000, of at most one page.  --offsets names a JSON object:
  frame                the order of the saved registers: "2.6.23", or "2.6.24" for that and all later kernels
  descriptors          bytes that an operand of LGDT takes in the state page: 8 up to 2.6.23, 6 later
  boundaries           optional: names of instructions and their offsets, such as {"E15_load_guest_cr3": 58};
                       told from the text without it
  follows              optional: where the two designs differ it does as "seed" (default) or as "hardened"
  sha256, size         optional: of the text that the offsets are of; another text is refused
and for a text alone also, in bytes from its start,
  symbols              {"switch_to_guest": 0, "return_to_host": 78, "deliver_to_host": 163, ...}; handle_nmi
                       too if it has one
  default_idt_entries  256 offsets, of the stub of each vector
An object of a 2.6.24 or later needs no more than {"frame": "2.6.24", "descriptors": 6}."""
_GIVE = "give the object that a kernel tree built, or see kvmhost conform --help for what a bare text needs"


def image_of(switcher: Path, offsets: Path) -> SwitcherImage:
    """The Switcher of layer L3-foreign.  Raises UsageError, and SwitcherError for an object that is none."""
    from kvmhost.conformance import switcher_image as known

    try:
        said = known.read_facts(offsets)
        if is_object(switcher):
            said, text = of_object(switcher, offsets, said)
        else:
            text = known.read(switcher, known.PAGE, "a Switcher's text")
            if any(key not in said for key in known.PLACES):
                raise UsageError(
                    f"{switcher} cannot be put on the stage",
                    cause=f"it is no ELF file, and {offsets} does not say where its instructions are",
                    next_step=_GIVE,
                )
        return known.from_facts(switcher.stem, text, said, str(offsets))
    except known.SwitcherImageError as error:
        raise UsageError(
            f"{switcher} cannot be put on the stage",
            cause=str(error),
            next_step="kvmhost conform --help tells what --offsets holds",
        ) from None


def is_object(switcher: Path) -> bool:
    """Whether a file begins as every ELF file does.  Raises UsageError if it cannot be read."""
    try:
        with switcher.open("rb") as file:
            return file.read(len(ELF)) == ELF
    except OSError as error:
        raise UsageError(
            f"{switcher} cannot be read", cause=error.strerror or str(error), next_step=_GIVE
        ) from None


def of_object(switcher: Path, offsets: Path, said: dict[str, object]) -> tuple[dict[str, object], bytes]:
    """What is said of an object, with what it says itself; and its text, relocated."""
    from kvmhost.conformance.switcher_image import PLACES, SwitcherImageError, generation
    from kvmhost.switcher.foreign import load

    if twice := [key for key in PLACES if key in said]:
        raise SwitcherImageError(f"{offsets}: {', '.join(twice)}: an object file says that itself")
    blob = load(switcher, *generation(said, str(offsets)))
    found = dict(zip(PLACES, (dict(blob.symbols), list(blob.default_idt_entries)), strict=True))
    return {**said, **found}, blob.text
