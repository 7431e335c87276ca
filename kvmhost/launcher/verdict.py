"""Whether a kernel can be a Guest at all, told before anything runs, and what it lacks if not.

A kernel that was built for a real machine takes the native path at its first instructions and dies without a
word.  So it is refused here, with the options that make a Guest of it in its release.
"""

from __future__ import annotations

from typing import Final

from kvmhost.host.abi import ABIS, LAST_RELEASE, Abi, BusKind, Release, abi_of, release_numbers
from kvmhost.launcher.errors import ImageError
from kvmhost.launcher.image import Image
from kvmhost.launcher.linux import DRIVERS

FIRST_WITH_HYPERVISOR_GUEST: Final[Release] = (3, 10, 0)
FIRST_WITH_PAE: Final[Release] = (2, 6, 31)
OLDEST: Final = ABIS[0].name
NEWEST: Final = ABIS[-1].until
HOW: Final = "guests/README.md tells how to build one"


def guest_options(release: str) -> tuple[str, ...]:
    """The options that make a kernel of `release` a Guest, in the order in which menus show them.

    >>> guest_options("3.2"), guest_options("4.1")
    (('PARAVIRT_GUEST', 'LGUEST_GUEST'), ('HYPERVISOR_GUEST', 'PARAVIRT', 'PCI', 'LGUEST_GUEST'))
    """
    numbers = release_numbers(release)
    if numbers < FIRST_WITH_HYPERVISOR_GUEST:
        return ("PARAVIRT_GUEST", "LGUEST_GUEST")
    pci = ("PCI",) if numbers >= (4, 0, 0) else ()
    return ("HYPERVISOR_GUEST", "PARAVIRT", *pci, "LGUEST_GUEST")


def driver_options(abi: Abi) -> tuple[str, ...]:
    """The options of the drivers for what kvmhost offers a Guest, console first.

    >>> driver_options(ABIS[-1])[-1]
    'VIRTIO_PCI'
    """
    absent = {BusKind.TLV: ("pci", "rng"), BusKind.DESCRIPTORS: ("pci",), BusKind.PCI: ()}[abi.bus]
    return tuple(option for name, (_, option) in DRIVERS.items() if name not in absent)


def missing_options(image: Image) -> tuple[str, ...]:
    """Which of guest_options() a kernel lacks; all of them where its configuration is not known."""
    if image.lguest or image.release is None:
        return ()
    options = image.kernel.options
    return tuple(name for name in guest_options(image.release) if options is None or options.get(name) != "y")


def missing_drivers(image: Image) -> tuple[str, ...]:
    """The options of drivers that are not built in, of those that kvmhost has devices for."""
    drivers = image.kernel.drivers
    if drivers is None:
        return ()
    wanted = driver_options(image.abi)
    return tuple(option for name, (_, option) in DRIVERS.items() if option in wanted and name not in drivers)


def check(image: Image) -> None:
    """Refuse a kernel that cannot be a Guest: ImageError says why, and what to do.

    Whoever said which ABI an image speaks (`--abi`) knows better: then nothing is refused.

    >>> check(Image("hello", 0x100000, (), ()))
    """
    if image.insisted or image.release is None:
        return
    called = f"{image.name} (Linux {image.release})"
    if abi_of(image.release) is None:
        newer = release_numbers(image.release) > LAST_RELEASE
        raise ImageError(
            f"{called} is too {'new' if newer else 'old'} to be a Guest",
            f"take a kernel of {OLDEST} to {NEWEST}; if it can be one all the same, say which ABI with --abi",
            "lguest left Linux with 4.14" if newer else "Guests of 2.6.23 have devices of another kind",
        )
    if image.lguest is False:
        missing = missing_options(image)
        known = image.kernel.options is not None
        listed = " and ".join(f"CONFIG_{name}=y" for name in missing)
        raise ImageError(
            f"{called} was not built as a Guest",
            f"build it with {listed}; {HOW}",
            f"its configuration lacks {listed}" if known else "nothing in it makes lguest's first hypercall",
        )
    if image.pae and image.abi.first < FIRST_WITH_PAE:
        raise ImageError(
            f"{called} has page tables of three levels",
            "build it without CONFIG_X86_PAE (High Memory Support: off or 4GB)",
            "Guests know PAE from 2.6.31 on",
        )
