"""What a Linux kernel says about itself, read from its bytes: nothing of it is run.

Most of it is text that the kernel keeps for people, such as the line it prints first.  Whether it was built
as a Guest is seen where it counts: the first instructions of a Guest's own make hypercall 1 with the physical
address of its lguest_data (abi 9.4), and no other kernel contains them.  A kernel that carries its own
configuration (IKCONFIG) tells everything; it is asked first, and never alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from kvmhost.host.abi import release_numbers
from kvmhost.launcher import payload
from kvmhost.launcher.initrd import carries_init

# The name before it is not asked for: there are trees that call themselves something else than Linux. All
# patterns begin with a literal, because that is what makes a search through megabytes fast.
BANNER: Final = re.compile(
    rb" version (\d+\.\d[\x21-\x7e]{0,60}) \([\x21-\x27\x2a-\x7e]+\) \([\x20-\x7e]{0,300}"
)
NAME: Final = re.compile(rb"[A-Z][\w/-]{0,30}$")
# mov $1, %eax and mov $lguest_data, %ebx (%edx before 2.6.30), in either order; then int $0x1F or vmcall.
INIT: Final = re.compile(rb"\xb8\x01\0\0\0(?:([\xba\xbb]).{4})?(\xcd\x1f|\x0f\x01\xc1)", re.DOTALL)
MOV_BYTES: Final = 5
REGISTERS: Final[dict[bytes | None, str]] = {b"\xba": "edx", b"\xbb": "ebx"}
VMCALL: Final = b"\x0f\x01\xc1"

CONFIG_BEGIN: Final = b"IKCFG_ST"
CONFIG_END: Final = b"IKCFG_ED"
LARGEST_CONFIG: Final = 4 << 20
OPTION: Final = re.compile(r"^CONFIG_(\w+)=(.*)$", re.MULTILINE)

# Drivers: what a kernel calls them, and which option builds them in.
DRIVERS: Final = {
    "console": (b"virtio_console\0", "VIRTIO_CONSOLE"),
    "block": (b"virtio_blk\0", "VIRTIO_BLK"),
    "net": (b"virtio_net\0", "VIRTIO_NET"),
    "rng": (b"virtio_rng\0", "HW_RANDOM_VIRTIO"),
    "pci": (b"virtio-pci\0", "VIRTIO_PCI"),
}
# What only one kind of kernel has to say: for yes, for no, and the option.
THREE_LEVELS: Final = (b"*pdpt = ", b"*pde = ", "X86_PAE")
HIGHMEM: Final = (b"HighMem\0", b"Use a HIGHMEM enabled kernel", "HIGHMEM")
INITRD: Final = (b"nitramfs", b" version ", "BLK_DEV_INITRD")
# How an initrd may be packed: the first release that knows it, the option, a text that comes with it alone.
UNPACKERS: Final = {
    "gzip": ((2, 6, 0), "RD_GZIP", b""),
    "bzip2": ((2, 6, 30), "RD_BZIP2", b"Data integrity error when decompressing"),
    "lzma": ((2, 6, 30), "RD_LZMA", b""),
    "lzo": ((2, 6, 33), "RD_LZO", b""),
    "xz": ((2, 6, 38), "RD_XZ", b"XZ-compressed data is corrupt"),
    "lz4": ((3, 11, 0), "RD_LZ4", b""),
    "zstd": ((5, 9, 0), "RD_ZSTD", b""),
}
# The usual places of PAGE_OFFSET (the choices of VMSPLIT).
SPLITS: Final = (0xC0000000, 0xB0000000, 0x80000000, 0x78000000, 0x40000000)
ENOUGH_POINTERS: Final = 1000


@dataclass(frozen=True, slots=True)
class InitCall:
    """How a Guest makes its first hypercall: the register of its argument, and by which instruction."""

    register: str
    vmcall: bool


@dataclass(frozen=True, slots=True)
class Kernel:
    """What a kernel's bytes tell. What cannot be known is None.

    release: as `uname -r` prints it.  banner: the line that says who built it, with which compiler.
    lguest: it was built as a Guest.  init: its first hypercall.  pae: its page tables have three levels.
    highmem: it can use memory that is not always mapped.  initrd: it can unpack one.  carries_init:
    it has a first program built in.  packings: how an initrd must not be packed.  drivers: those of
    DRIVERS that are built in.  options: its configuration without "CONFIG_", if it carries one.
    """

    release: str | None = None
    banner: str | None = None
    lguest: bool | None = None
    init: InitCall | None = None
    pae: bool | None = None
    highmem: bool | None = None
    initrd: bool | None = None
    carries_init: bool = False
    packings: frozenset[str] = frozenset()
    drivers: frozenset[str] | None = None
    options: Mapping[str, str] | None = field(default=None, hash=False)


UNKNOWN: Final = Kernel()


def examine(data: bytes) -> Kernel:
    """What the uncompressed kernel in `data` (its bytes in memory, in any order) tells.

    >>> examine(b"...Linux version 3.12.9 (me@here) (gcc version 12) #1\\0").release
    '3.12.9'
    """
    banner = BANNER.search(data)
    name = NAME.search(data, max(0, banner.start() - 40), banner.start()) if banner else None
    if banner is None or name is None:
        return UNKNOWN
    options = configuration(data)
    init = find_init(data)
    return Kernel(
        release=banner[1].decode("ascii"),
        banner=(name[0] + banner[0]).decode("ascii"),
        lguest=init is not None or (options or {}).get("LGUEST_GUEST") == "y",
        init=init,
        pae=_either(data, options, *THREE_LEVELS),
        highmem=_either(data, options, *HIGHMEM),
        initrd=_either(data, options, *INITRD),
        carries_init=carries_init(data),
        packings=_unknown_packings(data, options, banner[1].decode("ascii")),
        drivers=frozenset(
            name
            for name, (text, option) in DRIVERS.items()
            if (options is not None and options.get(option) == "y") or (options is None and text in data)
        ),
        options=options,
    )


def find_init(data: bytes) -> InitCall | None:
    """The first hypercall of a Guest, or None where there is none.

    >>> find_init(bytes.fromhex("b801000000 bb00c05401 cd1f"))
    InitCall(register='ebx', vmcall=False)
    """
    for found in INIT.finditer(data):
        before = found.start() - MOV_BYTES
        register = REGISTERS.get(found[1] or data[max(0, before) : before + 1])
        if register:
            return InitCall(register, found[2] == VMCALL)
    return None


def configuration(data: bytes) -> Mapping[str, str] | None:
    """The options a kernel carries (CONFIG_IKCONFIG), without "CONFIG_"; None if it carries none."""
    start = data.find(CONFIG_BEGIN)
    end = data.find(CONFIG_END, start)
    if start < 0 or end < 0:
        return None
    try:
        text = payload.decompress(data[start + len(CONFIG_BEGIN) : end], LARGEST_CONFIG)
    except payload.PayloadError:
        return None
    options = dict(OPTION.findall(text.decode("ascii", "replace")))
    return MappingProxyType(options) if options else None


def guess_page_offset(data: bytes) -> int | None:
    """Where a kernel without ELF headers wants to be mapped: nearly all its pointers point there.

    >>> guess_page_offset(bytes.fromhex("78563412 785610c0") * 2000) == 0xC0000000
    True
    """
    high = data[3::4]
    votes = {split: sum(high.count((split >> 24) + more) for more in range(4)) for split in SPLITS}
    best = max(votes, key=lambda split: votes[split])
    return best if votes[best] >= ENOUGH_POINTERS else None


def _unknown_packings(data: bytes, options: Mapping[str, str] | None, release: str) -> frozenset[str]:
    """What this kernel can surely not unpack an initrd from."""
    numbers = release_numbers(release)
    unknown = set()
    for name, (first, option, text) in UNPACKERS.items():
        # Before 2.6.30 there was gzip alone, and no option for it.
        configured = options is None or numbers < (2, 6, 30) or options.get(option) == "y"
        if numbers < first or not configured or (options is None and text not in data):
            unknown.add(name)
    return frozenset(unknown)


def _either(
    data: bytes, options: Mapping[str, str] | None, yes: bytes, no: bytes, option: str
) -> bool | None:
    """What the configuration says, else whether one text or the other is there."""
    if options is not None:
        return options.get(option) == "y"
    return True if yes in data else False if no in data else None
