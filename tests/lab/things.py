"""Small things of the kind that a distribution's kernel package is made of, and the tools to
look at what the lab makes of them."""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path

ELF = b"\x7fELF\x02\x01\x01" + bytes(9)


def module(depends: str = "", *, section: bytes = b".modinfo") -> bytes:
    """A kernel module as far as its section headers go: a table of names, and .modinfo."""
    info = b"license=GPL\0depends=" + depends.encode() + b"\0vermagic=6.1.0 SMP\0"
    names = b"\0" + section + b"\0.shstrtab\0"
    info_at = 64
    names_at = info_at + len(info)
    headers_at = names_at + len(names)
    head = bytearray(ELF + bytes(48))
    struct.pack_into("<Q", head, 0x28, headers_at)
    struct.pack_into("<HHH", head, 0x3A, 64, 3, 2)
    header = struct.Struct("<IIQQQQIIQQ")
    headers = (
        header.pack(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        + header.pack(1, 1, 0, 0, info_at, len(info), 0, 0, 1, 0)
        + header.pack(2 + len(section), 3, 0, 0, names_at, len(names), 0, 0, 1, 0)
    )
    return bytes(head) + info + names + headers


def bz_image(vmlinux: bytes = ELF + b"the kernel", *, sectors: int = 4, tail: bytes = b"SIZE") -> bytes:
    """A bzImage: boot sector, setup sectors, a little code, and the compressed kernel."""
    payload = lzma.compress(vmlinux, check=lzma.CHECK_CRC32) + tail
    code = b"\x90" * 100
    setup = bytearray((sectors + 1) * 512)
    setup[0x1F1] = sectors
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", setup, 0x248, len(code), len(payload))
    return bytes(setup) + code + payload + b"checksum"


def debian_package(path: Path, files: Mapping[str, bytes], kind: str = "xz") -> Path:
    """Writes a .deb with these files; `kind` is how its data is compressed."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        folder = tarfile.TarInfo("./boot")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    data = {"xz": lzma.compress, "gz": gzip.compress, "": bytes}[kind](packed.getvalue())
    name = f"data.tar.{kind}" if kind else "data.tar"
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", name: data}
    path.write_bytes(b"!<arch>\n" + b"".join(_ar_member(*member) for member in members.items()))
    return path


def _ar_member(name: str, content: bytes) -> bytes:
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
    return header + content + b"\n" * (len(content) % 2)


#: What a package of a kernel that suits contains, with one module compressed.
KERNEL_FILES = {
    "boot/vmlinuz-6.1.0": bz_image(),
    "lib/modules/6.1.0/modules.builtin": b"kernel/drivers/virtio/virtio_ring.ko\n",
    "lib/modules/6.1.0/kernel/drivers/virtio/virtio_pci.ko": module("virtio,virtio_ring"),
    "lib/modules/6.1.0/kernel/drivers/virtio/virtio.ko": module(),
    "lib/modules/6.1.0/kernel/drivers/char/virtio_console.ko": module("virtio"),
    "lib/modules/6.1.0/kernel/net/9p/9pnet_virtio.ko": module("9pnet"),
    "lib/modules/6.1.0/kernel/net/9p/9pnet.ko.xz": lzma.compress(module(), check=lzma.CHECK_CRC32),
    "lib/modules/6.1.0/kernel/fs/9p/9p.ko": module("9pnet"),
    "lib/modules/6.1.0/kernel/fs/overlayfs/overlay.ko": module(),
    "lib/modules/6.1.0/kernel/arch/x86/kvm/kvm-amd.ko": module("kvm"),
    "lib/modules/6.1.0/kernel/arch/x86/kvm/kvm.ko": module(),
    "lib/modules/6.1.0/kernel/net/core/failover.ko": module(),
    "lib/modules/6.1.0/kernel/drivers/net/net_failover.ko": module("failover"),
    "lib/modules/6.1.0/kernel/drivers/net/virtio_net.ko": module("net_failover,virtio"),
    "lib/modules/6.1.0/kernel/drivers/net/tun.ko": module(),
    "lib/modules/6.1.0/kernel/sound/kvm.ko": b"not the one",
}
LOAD_ORDER = [
    "virtio",
    "virtio_pci",
    "virtio_console",
    "9pnet",
    "9pnet_virtio",
    "9p",
    "overlay",
    "kvm",
    "kvm_amd",
    "failover",
    "net_failover",
    "virtio_net",
    "tun",
]
PACKAGE = "linux-image-6.1.0-1-amd64"
PACKAGE_FILE = f"{PACKAGE}_6.1.7-1_amd64.deb"


def program(folder: Path, name: str, script: str) -> Path:
    """Writes a shell script that can be found as a program in `folder`."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path
