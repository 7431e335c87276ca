"""What a Linux kernel says about itself, read from its bytes: nothing of it is run.

Most of it is text that the kernel keeps for people, such as the line it prints first.  Whether it was built
as a Guest is seen where it counts: the first instructions of a Guest's own make hypercall 1 with the physical
address of its lguest_data (abi 9.4), and no other kernel contains them.
"""

import re
from dataclasses import dataclass
from typing import Final

BANNER: Final = re.compile(rb"Linux version (\d[\x21-\x7e]{0,63}) \(([\x20-\x7e]{0,400})")
# mov $1, %eax and mov $lguest_data, %ebx (%edx before 2.6.31), in either order; then int $0x1F or vmcall.
INIT: Final = re.compile(
    rb"(?:\xb8\x01\0\0\0([\xba\xbb]).{4}|([\xba\xbb]).{4}\xb8\x01\0\0\0)(\xcd\x1f|\x0f\x01\xc1)", re.DOTALL
)
REGISTERS: Final = {b"\xba": "edx", b"\xbb": "ebx"}
VMCALL: Final = b"\x0f\x01\xc1"
# What reports of page faults begin a line with: three levels of tables have the first, two the second alone.
THREE_LEVELS: Final = b"*pdpt = "
TWO_LEVELS: Final = b"*pde = "


@dataclass(frozen=True, slots=True)
class InitCall:
    """How a Guest makes its first hypercall: the register of its argument, and by which instruction."""

    register: str
    vmcall: bool


@dataclass(frozen=True, slots=True)
class Kernel:
    """What a kernel's bytes tell. What cannot be known is None.

    release: as `uname -r` prints it.  built: who built it, with which compiler.  lguest: it was built
    as a Guest.  init: its first hypercall.  pae: its page tables have three levels.
    """

    release: str | None = None
    built: str | None = None
    lguest: bool | None = None
    init: InitCall | None = None
    pae: bool | None = None


UNKNOWN: Final = Kernel()


def examine(data: bytes) -> Kernel:
    """What the uncompressed kernel in `data` (its bytes in memory, in any order) tells.

    >>> examine(b"...Linux version 3.12.9 (me@here) (gcc version 12) #1\\0").release
    '3.12.9'
    """
    banner = BANNER.search(data)
    if banner is None:
        return UNKNOWN
    init = find_init(data)
    return Kernel(
        release=banner[1].decode("ascii"),
        built=banner[0].decode("ascii"),
        lguest=init is not None,
        init=init,
        pae=True if THREE_LEVELS in data else False if TWO_LEVELS in data else None,
    )


def find_init(data: bytes) -> InitCall | None:
    """The first hypercall of a Guest, or None where there is none.

    >>> find_init(bytes.fromhex("b801000000 bb00c05401 cd1f"))
    InitCall(register='ebx', vmcall=False)
    """
    found = INIT.search(data)
    if found is None:
        return None
    return InitCall(REGISTERS[found[1] or found[2]], found[3] == VMCALL)
