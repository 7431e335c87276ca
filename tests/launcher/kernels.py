"""Kernels made by hand: vmlinux and bzImage with the few bytes that tell what they are."""

import bz2
import gzip
import lzma
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from launcher.elf_files import Elf, Piece

ADDRESS: Final = struct.pack("<I", 0x1234C0)
# By hand, from abi 8.1: mov $1, %eax; mov $address, %edx or %ebx; int $0x1F or vmcall.
EDX_INT: Final = b"\xb8\x01\0\0\0\xba" + ADDRESS + b"\xcd\x1f"
EBX_INT: Final = b"\xb8\x01\0\0\0\xbb" + ADDRESS + b"\xcd\x1f"
EBX_VMCALL: Final = b"\xbb" + ADDRESS + b"\xb8\x01\0\0\0\x0f\x01\xc1"

PACKERS: Final = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
}


def text(
    release: str = "3.12.9", init: bytes = EBX_INT, more: bytes = b"", config: str | None = None
) -> bytes:
    """The bytes of a kernel in memory: a first hypercall, a banner, whatever else it says."""
    carried = b"" if config is None else b"IKCFG_ST" + gzip.compress(config.encode()) + b"IKCFG_ED"
    banner = f"<4>Linux version {release} (you@there) (gcc version 4.1.2) #1 Tue\n\0".encode()
    return b"\x90" * 16 + init + banner + more + carried


def vmlinux(
    content: bytes, physical: int = 0x1000000, size: int | None = None, split: int = 0xC0000000
) -> bytes:
    """An ELF file of one segment, linked to `split` above its physical address."""
    data = bytearray(Elf((Piece(physical, content, size),), entry=physical).bytes())
    struct.pack_into("<I", data, 52 + 8, physical + split)  # p_vaddr of the first program header
    return bytes(data)


@dataclass(frozen=True)
class BzImage:
    """A bzImage around `payload`, with everything right unless told otherwise; 0 fields are not there."""

    payload: bytes = b""
    release: bytes = b"3.12.9 (me@here) #1\0"
    version: int = 0x020A
    loadflags: int = 1
    relocatable: int = 0
    alignment: int = 0x1000000
    pref_address: int = 0x1000000
    init_size: int = 0
    before: bytes = b"\x90" * 64
    after: bytes = b"\x90" * 32
    payload_offset: int | None = None
    payload_length: int | None = None
    more: Mapping[int, bytes] | None = None

    def bytes(self) -> bytes:
        setup = bytearray(4 * 512)
        setup[0x1F1] = 3
        content = self.before + self.payload + self.after
        struct.pack_into("<I", setup, 0x1F4, -(-len(content) // 16))
        setup[0x202:0x206] = b"HdrS"
        struct.pack_into("<H", setup, 0x206, self.version)
        struct.pack_into("<H", setup, 0x20E, 0x400 if self.release else 0)
        setup[0x600 : 0x600 + len(self.release)] = self.release
        setup[0x211] = self.loadflags
        struct.pack_into("<II", setup, 0x214, 0x100000, 0)
        setup[0x234] = self.relocatable
        struct.pack_into("<I", setup, 0x230, self.alignment)
        if self.version >= 0x0208:
            offset = len(self.before) if self.payload_offset is None else self.payload_offset
            length = len(self.payload) if self.payload_length is None else self.payload_length
            struct.pack_into("<II", setup, 0x248, offset, length)
        if self.version >= 0x020A:
            struct.pack_into("<QI", setup, 0x258, self.pref_address, self.init_size)
        for at, value in (self.more or {}).items():
            setup[at : at + len(value)] = value
        return bytes(setup) + content
