"""What a person is told before a kernel boots, and after it panicked."""

import gzip
import lzma

import pytest
from launcher.archives import LINK, PROGRAM, PROGRAM_64, archive, member
from launcher.kernels import EBX_INT, BzImage, text, vmlinux

from kvmhost.launcher import images
from kvmhost.launcher.hints import hint
from kvmhost.launcher.image import Image
from kvmhost.launcher.remarks import remarks

MIB = 1 << 20
ALL = b"Unpacking initramfs Use a HIGHMEM enabled kernel *pde = " + b"\0".join(
    [b"", b"virtio_console", b"virtio_blk", b"virtio_net", b"virtio_rng", b"virtio-pci", b""]
)
GOOD = gzip.compress(archive(init=PROGRAM))


def kernel(release: str = "3.12.9", more: bytes = ALL, config: str | None = None) -> Image:
    return images.parse(vmlinux(text(release, EBX_INT, more, config)), "vmlinux")


def test_nothing_to_say() -> None:
    assert remarks(kernel(), 64 * MIB, "quiet console=hvc0 console=tty0", GOOD) == ()
    assert remarks(kernel("4.9"), 64 * MIB, "root=/dev/vda rw", None) == ()
    assert remarks(kernel(more=ALL + archive(init=PROGRAM)), 64 * MIB, "", None) == ()
    assert remarks(kernel(), 64 * MIB, "", member("init", b"bin/sh", LINK) + archive()) == ()


@pytest.mark.parametrize(
    ("image", "memory", "line", "initrd", "said"),
    [
        (kernel(), 64, "", None, "neither --initrd nor root="),
        (kernel(), 64, "console=ttyS0", GOOD, "console=hvc0"),
        (kernel(), 64, "root=/dev/sda1", None, "/dev/vda"),
        (kernel(), 64, "", b"\x7fELF" + bytes(100), "an ELF file"),
        (kernel(), 64, "", b"some text", "neither an archive"),
        (kernel(), 64, "", GOOD[:-30], "cannot be unpacked"),
        (kernel(), 64, "", lzma.compress(archive(init=PROGRAM)), "CONFIG_RD_XZ"),
        (kernel(config="CONFIG_BLK_DEV_INITRD=y\nCONFIG_VIRTIO_CONSOLE=y\n"), 64, "", GOOD, "CONFIG_RD_GZIP"),
        (kernel("2.6.27"), 64, "", lzma.compress(archive(init=PROGRAM)), "try gzip"),
        (kernel(), 64, "", archive(bin_sh=PROGRAM), "has no /init"),
        (kernel(), 64, "", archive(init=b""), "/init is empty"),
        (kernel(), 64, "", archive(init=PROGRAM_64), "32-bit x86"),
        (kernel(), 64, "", member("init", PROGRAM, 0o100644) + archive(), "chmod +x init"),
        (kernel(), 64, "", b"hsqs" + bytes(200), "root=/dev/ram0"),
        (kernel(more=ALL.replace(b"nitramfs", b"")), 64, "", GOOD, "CONFIG_BLK_DEV_INITRD"),
        (kernel(more=ALL.replace(b"virtio_console", b"")), 64, "", GOOD, "CONFIG_VIRTIO_CONSOLE"),
        (kernel("4.1", ALL.replace(b"virtio-pci", b"")), 64, "", GOOD, "CONFIG_VIRTIO_PCI"),
        (kernel("4.1"), 1024, "", GOOD, "no more than about 880 of 1024"),
        (kernel(), 18, "", GOOD, "tight"),
        (kernel(), 64, "", gzip.compress(archive(init=PROGRAM, big=bytes(50 * MIB))), "try --memory 7"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_usually_does_not_work(
    image: Image, memory: int, line: str, initrd: bytes | None, said: str
) -> None:
    (remark,) = remarks(image, memory * MIB, line, initrd)
    assert said in remark


def test_a_kernel_that_cannot_be_looked_into() -> None:
    image = images.parse(BzImage(b"\x89LZO\0" + bytes(100)).bytes(), "bzImage")
    assert any("packed with lzo" in remark for remark in remarks(image, 64 * MIB, "", GOOD))


def test_rdinit_and_a_disk_need_no_init() -> None:
    for line in ("rdinit=/bin/sh", "root=/dev/vda"):
        assert remarks(kernel(), 64 * MIB, line, archive(bin_sh=PROGRAM)) == ()


# The texts of kernels: panics as they reach the Host, and lines before them.
ENDS = [
    ("VFS: Unable to mount root fs on unknown-block(0,0)", b"", "--initrd"),
    (
        "VFS: Unable to mount root fs on unknown-block(0,0)",
        b'VFS: Cannot open root device "(null)" or unknown-block(0,0): error -6\n',
        "--initrd",
    ),
    ("VFS: Unable to mount root fs on unknown-block(254,0)", b"", "no file system that is built"),
    (
        "VFS: Unable to mount root fs on unknown-block(0,0)",
        b'VFS: Cannot open root device "vdb" or unknown-block(0,0): error -6\n',
        "no disk called vdb",
    ),
    (
        "VFS: Unable to mount root fs on unknown-block(0,0)",
        b"Initramfs unpacking failed: compression method xz not configured\r\n",
        "packed with xz",
    ),
    (
        "VFS: Unable to mount root fs on unknown-block(0,0)",
        b"rootfs image is not initramfs (no cpio magic); looks like an initrd\r\n",
        "(no cpio magic)",
    ),
    (
        "VFS: Unable to mount root fs on unknown-block(1,0)",
        b"Initramfs unpacking failed: junk in compressed archive\n",
        "junk",
    ),
    ("No init found.  Try passing init= option to kernel.", b"", "rdinit="),
    ("No working init found.  Try passing", b"Failed to execute /init (error -8)\n", "start /init"),
    ("No init found.  Try passing", b"Failed to execute /init\r\n", "start /init"),
    ("Requested init /bin/foo failed (error -2).", b"", "start /bin/foo"),
    ("Attempted to kill init! exitcode=0x00000000", b"", "first program ended"),
    ("Out of memory and no killable processes...\n", b"", "--memory"),
    ("Attempted to kill init!", b"Out of memory: Kill process 1 (init) score 1\n", "--memory"),
    ("alloc_low_page: ran out of memory", b"", "--memory"),
    ("Out of memory", b"bootmem alloc of 4096 bytes failed!\n", "--memory"),
    ("Cannot find place for new RAMDISK of size 1000", b"", "--memory"),
]


@pytest.mark.parametrize(("reason", "before", "said"), ENDS)
def test_hints(reason: str, before: bytes, said: str) -> None:
    assert said in (hint(reason, b"[    0.1] something\r\n" + before) or "")


def test_no_hint_where_none_is_known_and_none_from_long_ago() -> None:
    assert hint("Fatal exception", b"all was well\n") is None
    assert hint("Fatal exception", b"No init found" + b"." * 10000) is None
