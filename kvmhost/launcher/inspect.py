"""Everything that can be said about an image without running it, as data: `kvmhost inspect` prints it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kvmhost.host.abi import BusKind
from kvmhost.launcher import images, needs, verdict
from kvmhost.launcher.errors import ImageError
from kvmhost.launcher.image import Image

BUSES: Final = {
    BusKind.TLV: "page of descriptors above memory (each a list of type, length, value)",
    BusKind.DESCRIPTORS: "page of descriptors above memory",
    BusKind.PCI: "virtio 1.0 over PCI",
}


@dataclass(frozen=True, slots=True)
class Inspection:
    """What an image is. Addresses are Guest-physical and sizes are bytes; None is what cannot be known.

    runs: kvmhost can run it; where it cannot, problem, cause and next_step say why and what to do.
    missing: the options without which a kernel is no Guest.  missing_drivers: those of the devices that it
    would not find.  most: bytes of memory that it can use.  tables: levels of its page tables.
    """

    name: str
    format: str
    about: str
    release: str | None
    banner: str | None
    abi: str
    releases: str
    abi_from: str
    bus: str
    guest: bool | None
    init: str | None
    tables: int | None
    page_offset: int | None
    highmem: bool | None
    most: int | None
    entry: int
    start: int
    end: int
    needs: int
    copies: int
    drivers: tuple[str, ...] | None
    missing_drivers: tuple[str, ...]
    initrd: bool | None
    carries_init: bool
    configuration: bool
    missing: tuple[str, ...]
    runs: bool
    problem: str = ""
    cause: str = ""
    next_step: str = ""


def inspect(image: Image) -> Inspection:
    """All about `image`, and whether it can run. Nothing is raised that is a matter of the image.

    >>> inspect(images.parse(images.open_image("hello").read(), "hello")).runs
    True
    """
    refusal = _refusal(image)
    kernel = image.kernel
    init = kernel.init
    return Inspection(
        name=image.name,
        format=image.format,
        about=images.about(image),
        release=image.release,
        banner=kernel.banner,
        abi=image.abi.name,
        releases=image.abi.releases,
        abi_from=_where_from(image),
        bus=BUSES[image.abi.bus],
        guest=True if image.release is None and refusal is None else image.lguest,
        init=f"{'vmcall' if init.vmcall else 'int 0x1F'}, argument in {init.register}" if init else None,
        tables=None if image.pae is None else 3 if image.pae else 2,
        page_offset=image.page_offset,
        highmem=kernel.highmem,
        most=needs.most_memory(image),
        entry=image.entry,
        start=min(segment.physical for segment in image.segments),
        end=image.end,
        needs=image.needs,
        copies=1 if refusal else images.copies(image),
        drivers=None if kernel.drivers is None else tuple(sorted(kernel.drivers)),
        missing_drivers=verdict.missing_drivers(image),
        initrd=kernel.initrd,
        carries_init=kernel.carries_init,
        configuration=kernel.options is not None,
        missing=verdict.missing_options(image),
        runs=refusal is None,
        problem=refusal.message if refusal else "",
        cause=refusal.cause if refusal else "",
        next_step=refusal.next_step if refusal else "",
    )


def _refusal(image: Image) -> ImageError | None:
    """Why `image` would not be run, whatever memory it gets."""
    try:
        verdict.check(image)
        images.copies(image)
    except ImageError as error:
        return error
    return None


def _where_from(image: Image) -> str:
    """What the generation was told by."""
    if image.insisted:
        return "--abi"
    if image.told:
        return "its note"
    return "its release" if image.release else "nothing: what most Guests speak"
