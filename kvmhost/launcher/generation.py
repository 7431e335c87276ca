"""Which generation of the ABI an image speaks: what a person says, else its own note, else its release."""

from dataclasses import replace

from kvmhost._native import lib
from kvmhost.host.abi import ABIS, DEFAULT, Abi, abi_of
from kvmhost.launcher.errors import AbiError, ImageError
from kvmhost.launcher.image import Image


def parse_abi(text: str) -> Abi:
    """The generation that `text` names, by its first release or any release of it. Raises AbiError.

    >>> parse_abi("4.1").name, parse_abi("3.12").name
    ('4.1', '3.1')
    >>> parse_abi("5.0")
    Traceback (most recent call last):
    ...
    kvmhost.launcher.errors.AbiError: '5.0' is no generation of lguest's ABI. Next: name one of 2.6.24, ...
    """
    try:
        found = abi_of(text.strip())
    except ValueError:
        found = None
    if found is None:
        names = ", ".join(abi.name for abi in ABIS)
        raise AbiError(
            f"{text!r:.40} is no generation of lguest's ABI",
            next_step=f"name one of {names}, or a release of Linux in between",
        )
    return found


def with_generation(image: Image) -> Image:
    """`image` with the generation it says it speaks: that of its note, else of its release.

    A note may add that the Guest's page tables have three levels: "2.6.31 pae".  Raises ImageError for one
    that says anything else.
    """
    for data in image.own_notes(int(lib.NOTE_ABI)):
        release, _, more = data.rstrip(b"\0").decode("utf-8", "replace").partition(" ")
        try:
            abi = parse_abi(release)
        except AbiError as error:
            step = f"let its note {error.next_step}"
            raise ImageError(f"{image.name} speaks an ABI that nobody knows", step, error.message) from error
        if more not in ("", "pae"):
            raise ImageError(
                f"{image.name} says {more!r:.40} of the ABI it speaks", 'let its note say "pae", or no more'
            )
        return replace(image, abi=abi, kernel=replace(image.kernel, pae=more == "pae"), told=True)
    return replace(image, abi=(abi_of(image.release) if image.release else None) or DEFAULT)
