"""The generations of lguest's ABI, one table.

lguest promised nothing: a Guest and a Host of one kernel release fitted, others
did not.  So what changed between 2.6.24 and 4.13 is a list of differences, each
with the first release that has it.  An Abi is one line of that list: every other
file asks it, and none asks for a release (abi 8, 9, 10 and 13).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from kvmhost._native import lib

Release = tuple[int, int, int]


class BootTables(Enum):
    """Who maps memory for a Guest's first instructions (abi 9.1, 9.3)."""

    IDENTITY = "tables made before boot, linear = physical"
    IDENTITY_AND_KERNEL = "tables made before boot, linear = physical and at PAGE_OFFSET"
    LINEAR = "none: the Host pretends until the first NEW_PGTABLE"


class BusKind(Enum):
    """How a Guest finds its devices (abi 10.2, 10.3)."""

    TLV = "descriptor page, each device a list of type, length and value"
    DESCRIPTORS = "descriptor page, each device a header and arrays"
    PCI = "virtio 1.0 over PCI"


@dataclass(frozen=True, slots=True)
class Abi:
    """What a range of releases has in common.

    name: the first release, which is what --abi takes.  until: the last release.  data: name of the
    struct of lguest_data in native/abi.  arguments: the registers of a direct call behind EAX.
    calls: the hypercall numbers that exist.  shutdown_reason: SHUTDOWN's second argument tells
    power-off from restart (before, call 2 was CRASH).  vmcall: hypercalls, or some, are VMCALL instructions,
    which are rewritten to int 0x1F.  tables: who maps memory at first.  bus: how devices are found.
    features: devices may offer some (in 2.6.24 they could not be told well, in 2.6.25 the place of
    those accepted is not known).  ring_entries: of a device's queue.  block_header, net_header:
    bytes in front of a request.  kernel_alignment: the decompressor reads it in boot_params; a
    relocatable kernel that finds 0 there moves itself to address 0, over them.
    """

    name: str
    until: str
    data: str
    arguments: tuple[str, ...]
    calls: frozenset[int]
    shutdown_reason: bool = True
    vmcall: bool = False
    tables: BootTables = BootTables.LINEAR
    bus: BusKind = BusKind.DESCRIPTORS
    features: bool = True
    ring_entries: int = 256
    block_header: int = 16
    net_header: int = 10
    kernel_alignment: bool = True

    @property
    def first(self) -> Release:
        """The first release, as numbers that compare."""
        return release_numbers(self.name)

    @property
    def releases(self) -> str:
        """For people.

        >>> abi_of("3.12.9").releases
        '3.1 to 3.19'
        """
        return self.name if self.name == self.until else f"{self.name} to {self.until}"


def release_numbers(text: str) -> Release:
    """The numbers at the start of a release string.  Raises ValueError if there are none.

    >>> release_numbers("2.6.32.9-foo"), release_numbers("4.1"), release_numbers("3.12.0-rc1+")
    ((2, 6, 32), (4, 1, 0), (3, 12, 0))
    """
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if found is None:
        raise ValueError(f"{text!r:.40} is no release of Linux")
    major, minor, patch = found.groups(default="0")
    return int(major), int(minor), int(patch)


_OLD_ORDER: Final = ("edx", "ebx", "ecx")
_NEW_ORDER: Final = ("ebx", "ecx", "edx", "esi")
# 2.6.30 came between: VMCALL and its registers are there, the fourth argument is not.
_FIRST_NEW_ORDER: Final = _NEW_ORDER[:3]

_ALWAYS = frozenset(
    {
        lib.LHCALL_FLUSH_ASYNC, lib.LHCALL_LGUEST_INIT, lib.LHCALL_SHUTDOWN, lib.LHCALL_NEW_PGTABLE,
        lib.LHCALL_FLUSH_TLB, lib.LHCALL_LOAD_IDT_ENTRY, lib.LHCALL_SET_STACK, lib.LHCALL_TS,
        lib.LHCALL_SET_CLOCKEVENT, lib.LHCALL_HALT, lib.LHCALL_SET_PTE, lib.LHCALL_SET_PGD,
        lib.LHCALL_LOAD_TLS,
    }
)  # fmt: skip
_OLDEST = _ALWAYS | {lib.LHCALL_LOAD_GDT, lib.LHCALL_NOTIFY}
_GDT_ENTRY = _ALWAYS | {lib.LHCALL_LOAD_GDT_ENTRY, lib.LHCALL_NOTIFY}
_PAE = _GDT_ENTRY | {lib.LHCALL_SET_PMD, lib.LHCALL_SEND_INTERRUPTS}
_PCI = _PAE - {lib.LHCALL_NOTIFY}

ABIS: Final = (
    Abi(
        "2.6.24", "2.6.24", "struct lguest_data_2624", _OLD_ORDER, _OLDEST, shutdown_reason=False,
        tables=BootTables.IDENTITY, bus=BusKind.TLV, features=False, ring_entries=128, block_header=24,
        net_header=8, kernel_alignment=False,
    ),
    Abi(
        "2.6.25", "2.6.25", "struct lguest_data_2624", _OLD_ORDER, _OLDEST, shutdown_reason=False,
        tables=BootTables.IDENTITY, features=False, kernel_alignment=False,
    ),
    Abi(
        "2.6.26", "2.6.29", "struct lguest_data_2624", _OLD_ORDER, _OLDEST,
        tables=BootTables.IDENTITY, kernel_alignment=False,
    ),
    Abi(
        "2.6.30", "2.6.30", "struct lguest_data_2630", _FIRST_NEW_ORDER, _GDT_ENTRY, vmcall=True,
        tables=BootTables.IDENTITY_AND_KERNEL, kernel_alignment=False,
    ),
    Abi(
        "2.6.31", "2.6.33", "struct lguest_data_2631", _NEW_ORDER, _PAE, vmcall=True,
        tables=BootTables.IDENTITY_AND_KERNEL,
    ),
    Abi(
        "2.6.34", "3.0", "struct lguest_data_2631", _NEW_ORDER, _PAE, vmcall=True,
        tables=BootTables.IDENTITY_AND_KERNEL,
    ),
    Abi("3.1", "3.19", "struct lguest_data_31", _NEW_ORDER, _PAE),
    Abi("4.0", "4.0", "struct lguest_data_31", _NEW_ORDER, _PCI, bus=BusKind.PCI, net_header=12),
    Abi("4.1", "4.13", "struct lguest_data_41", _NEW_ORDER, _PCI, bus=BusKind.PCI, net_header=12),
)  # fmt: skip
"""Every generation from the oldest to the newest."""

# What an image is taken for that does not say what it is: our own Guests and other small ones.
DEFAULT: Final = next(abi for abi in ABIS if abi.name == "3.1")
LAST_RELEASE: Final[Release] = (4, 13, 0xFFFF)


def abi_of(release: str) -> Abi | None:
    """The generation of a kernel release; None before 2.6.24, and where lguest is gone.

    Raises ValueError for what is no release.

    >>> abi_of("2.6.32.9").name, abi_of("4.9.0-rc5+").name, abi_of("5.10"), abi_of("2.6.23")
    ('2.6.31', '4.1', None, None)
    """
    numbers = release_numbers(release)
    if numbers > LAST_RELEASE:
        return None
    return next((abi for abi in reversed(ABIS) if abi.first <= numbers), None)
