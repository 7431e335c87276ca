"""What is found in kernels, packed or not, and which of them are refused before they run."""

import bz2
import gzip
import lzma
import struct
import tracemalloc
import zlib

import pytest
from launcher.kernels import EBX_INT, EBX_VMCALL, EDX_INT, PACKERS, BzImage, text, vmlinux

from kvmhost.host.abi import ABIS
from kvmhost.launcher import bzimage, images, needs, payload
from kvmhost.launcher.boot import lay_out
from kvmhost.launcher.errors import ImageError
from kvmhost.launcher.memory import LARGEST

MIB = 1 << 20
NATIVE = b"\xb8\x01\0\0\0\xbb\0\0\0\0\xcd\x80"


@pytest.mark.parametrize("how", PACKERS)
@pytest.mark.parametrize("version", [0x0208, 0x020A, 0x020D])
def test_a_kernel_is_found_in_its_bzimage(how: str, version: int) -> None:
    inner = vmlinux(text("3.12.9"), size=0x300000, split=0x80000000)
    image = images.parse(BzImage(PACKERS[how](inner) + b"size", version=version).bytes(), "bzImage")
    assert image.format == f"bzImage, packed with {how}"
    assert (image.release, image.lguest, image.page_offset) == ("3.12.9", True, 0x80000000)
    assert image.needs == 0x1300000
    assert image.segments[0].physical == image.entry == 0x100000


def test_before_2_08_the_payload_is_searched_for_and_need_not_be_elf() -> None:
    pointers = struct.pack("<I", 0xC0123456) * 2000
    raw = gzip.compress(text("2.6.24", EDX_INT, pointers))
    image = images.parse(BzImage(raw, b"2.6.24 (me)\0", 0x0207).bytes(), "bzImage")
    assert (image.release, image.abi.name, image.lguest) == ("2.6.24", "2.6.24", True)
    assert image.page_offset == 0xC0000000


def test_what_only_looks_packed_is_passed_over() -> None:
    packed = gzip.compress(vmlinux(text("2.6.25", EDX_INT)))
    file = BzImage(packed, b"", 0x0207, before=b"\x1f\x8b\x08 is no stream" * 3)
    assert images.parse(file.bytes(), "bzImage").release == "2.6.25"
    nothing = BzImage(b"", b"", 0x0207, before=b"\x1f\x8b\x08 is no stream" * 100)
    assert images.parse(nothing.bytes(), "bzImage").format == "bzImage"


@pytest.mark.parametrize(("magic", "how"), [(b"\x89LZO\0\r\n", "lzo"), (b"\x02\x21L\x18", "lz4")])
def test_what_cannot_be_unpacked_here_may_still_run(magic: bytes, how: str) -> None:
    image = images.parse(BzImage(magic + bytes(100)).bytes(), "bzImage")
    assert image.format == f"bzImage, packed with {how}"
    assert (image.release, image.abi.name, image.lguest, image.page_offset) == ("3.12.9", "3.1", None, None)
    lay_out(image, 16 * MIB)


@pytest.mark.parametrize(
    ("relocatable", "version", "init_size", "needs"),
    [
        (0, 0x020A, 0x500000, 0x2500000),  # where it prefers to
        (1, 0x020A, 0x500000, 0x1500000),  # 1 MiB, aligned as boot_params say
        (1, 0x0208, 0, 0x600000),  # 1 MiB, aligned as it was built: to 2 MiB
        (0, 0x0208, 0, 0x1400000),  # where it is linked to
    ],
)
def test_how_far_it_reaches_when_it_runs(relocatable: int, version: int, init_size: int, needs: int) -> None:
    file = BzImage(
        gzip.compress(vmlinux(text(), size=0x400000)),
        version=version,
        relocatable=relocatable,
        alignment=0x200000,
        pref_address=0x2000000,
        init_size=init_size,
    )
    image = images.parse(file.bytes(), "bzImage")
    assert image.needs == needs
    with pytest.raises(ImageError, match=f"at least {needs >> 20}M") as caught:
        lay_out(image, needs - 4096)
    assert "some more" in caught.value.next_step
    params = dict(lay_out(image, needs).pieces)[0]
    assert struct.unpack_from("<I", params, 0x260) == (init_size,)


@pytest.mark.parametrize(("relocatable", "needs"), [(0, 0x180000), (1, 0x280000)])
def test_a_kernel_without_elf_headers_reaches_at_least_as_far_as_it_is_long(
    relocatable: int, needs: int
) -> None:
    """So those up to 2.6.25 are packed."""
    file = BzImage(
        gzip.compress(text("2.6.24", EDX_INT).ljust(0x80000, b"\0")),
        release=b"2.6.24 (me@here)\0",
        version=0x0207,
        relocatable=relocatable,
        alignment=0x200000,
    )
    image = images.parse(file.bytes(), "bzImage")
    assert (image.abi.name, image.lguest, image.needs) == ("2.6.24", True, needs)
    with pytest.raises(ImageError, match=f"at least {-(-needs >> 20)}M"):
        lay_out(image, needs)
    lay_out(image, needs + 4 * 4096)


PACKED = gzip.compress(vmlinux(text()))


@pytest.mark.parametrize(
    ("file", "said"),
    [
        pytest.param(BzImage(PACKED).bytes()[:-20], "truncated", id="its end is missing"),
        pytest.param(
            BzImage(PACKED, payload_length=1 << 20).bytes(), "truncated", id="payload behind the end"
        ),
        pytest.param(BzImage(PACKED, payload_offset=0xFFFFFFF0).bytes(), "truncated", id="payload far away"),
        pytest.param(BzImage(PACKED[:-30] + bytes(30)).bytes(), "damaged", id="payload damaged"),
        pytest.param(BzImage(PACKED, payload_length=60).bytes(), "damaged", id="payload cut"),
        pytest.param(BzImage(gzip.compress(b"\x7fELF\2")).bytes(), "64-bit", id="64-bit inside"),
        pytest.param(BzImage(gzip.compress(b"\x7fELF")).bytes(), "truncated", id="ELF cut inside"),
        pytest.param(
            BzImage(PACKED, more={0x236: b"\1\0"}, version=0x020C).bytes(),
            "3.12.9.* 64-bit",
            id="64-bit entry",
        ),
        pytest.param(BzImage(PACKED, version=0x0206).bytes(), "2.06", id="protocol too old"),
        pytest.param(BzImage(PACKED, loadflags=0).bytes(), "zImage", id="loads low"),
    ],
)
def test_refused_when_read(file: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        images.parse(file, "bzImage")
    assert "bzImage" in caught.value.message
    assert caught.value.next_step


def bomb(how: str, size: int) -> bytes:
    """Zeros that unpack to `size` bytes, made without ever holding them."""
    if how == "gzip":
        packer = zlib.compressobj(9, wbits=31)
        return b"".join(packer.compress(bytes(MIB)) for _ in range(size // MIB)) + packer.flush()
    return lzma.compress(bytes(size), preset=0) if how == "xz" else bz2.compress(bytes(size), 1)


@pytest.mark.parametrize("how", ["gzip", "bzip2", "xz"])
def test_a_bomb_is_refused_and_costs_no_more_than_its_limit(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bzimage, "LARGEST_KERNEL", 8 * MIB)
    file = BzImage(bomb(how, 32 * MIB)).bytes()
    tracemalloc.start()
    with pytest.raises(ImageError, match="more than 8 MiB"):
        images.parse(file, "bomb")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * MIB


def test_a_dictionary_that_wants_gigabytes_is_refused() -> None:
    header = b"\x5d" + struct.pack("<IQ", 0xFF000000, 2**64 - 1)
    with pytest.raises(payload.PayloadError, match="damaged"):
        payload.decompress(header + bytes(100), MIB)


CONFIG = "CONFIG_X86_PAE=y\n# CONFIG_HIGHMEM is not set\nCONFIG_VIRTIO_BLK=y\nCONFIG_VIRTIO_NET=m\n"


def test_a_configuration_tells_everything() -> None:
    kernel = images.parse(vmlinux(text(more=b"*pde = HighMem\0virtio_net\0", config=CONFIG)), "x").kernel
    assert kernel.options is not None
    assert kernel.options["VIRTIO_NET"] == "m"
    assert (kernel.pae, kernel.highmem, kernel.initrd, kernel.drivers) == (True, False, False, {"block"})
    assert "gzip" in kernel.packings


@pytest.mark.parametrize(
    "lie",
    [
        b"IKCFG_ST",
        b"IKCFG_EDIKCFG_ST",
        b"IKCFG_STIKCFG_ED",
        b"IKCFG_ST" + gzip.compress(b"CONFIG_A=y\n")[:-9] + b"IKCFG_ED",
        b"IKCFG_ST" + gzip.compress(b"\xff\0 nothing") + b"IKCFG_ED",
        b"IKCFG_ST" + gzip.compress(bytes(8 * MIB)) + b"IKCFG_ED",
    ],
    ids=["no end", "end first", "empty", "cut", "no text", "bomb"],
)
def test_a_configuration_that_lies_tells_nothing(lie: bytes) -> None:
    kernel = images.parse(vmlinux(text(more=lie)), "x").kernel
    assert kernel.options is None
    assert kernel.lguest is True


def test_without_one_texts_tell() -> None:
    with_all = text(more=b"*pdpt = *pde = HighMem\0Unpacking initramfs virtio_blk\0virtio-pci\0virtio_netx\0")
    kernel = images.parse(vmlinux(with_all), "x").kernel
    assert (kernel.pae, kernel.highmem, kernel.initrd) == (True, True, True)
    assert kernel.drivers == {"block", "pci"}
    assert images.parse(vmlinux(text(more=b"Use a HIGHMEM enabled kernel")), "x").kernel.highmem is False


@pytest.mark.parametrize(
    ("release", "init", "config", "said"),
    [
        ("2.6.32", NATIVE, None, "CONFIG_PARAVIRT_GUEST=y and CONFIG_LGUEST_GUEST=y"),
        ("3.9.11", NATIVE, None, "CONFIG_PARAVIRT_GUEST=y and CONFIG_LGUEST_GUEST=y"),
        ("3.10", NATIVE, None, "CONFIG_HYPERVISOR_GUEST=y and CONFIG_PARAVIRT=y and CONFIG_LGUEST_GUEST=y"),
        (
            "4.9",
            NATIVE,
            "CONFIG_HYPERVISOR_GUEST=y\nCONFIG_PARAVIRT=y\nCONFIG_PCI=y\n",
            "CONFIG_LGUEST_GUEST=y",
        ),
        (
            "4.9",
            NATIVE,
            "CONFIG_HYPERVISOR_GUEST=y\nCONFIG_PARAVIRT=y\n",
            "CONFIG_PCI=y and CONFIG_LGUEST_GUEST",
        ),
        ("4.14.0", EBX_INT, None, "too new"),
        ("6.1.0-13-686", NATIVE, None, "too new"),
        ("2.6.23.17", EDX_INT, None, "too old"),
    ],
)
def test_refused_before_it_runs(release: str, init: bytes, config: str | None, said: str) -> None:
    image = images.parse(vmlinux(text(release, init, config=config)), "vmlinux")
    with pytest.raises(ImageError) as caught:
        lay_out(image, 64 * MIB)
    assert said in str(caught.value)
    assert f"vmlinux (Linux {release})" in caught.value.message


def test_pae_before_guests_knew_it() -> None:
    image = images.parse(vmlinux(text("2.6.30", EDX_INT, b"*pdpt = ")), "vmlinux")
    with pytest.raises(ImageError, match="X86_PAE"):
        lay_out(image, 64 * MIB)
    lay_out(images.parse(vmlinux(text("2.6.31", EBX_VMCALL, b"*pdpt = ")), "vmlinux"), 64 * MIB)


@pytest.mark.parametrize("abi", ABIS, ids=lambda abi: abi.name)
def test_a_guest_of_each_generation_is_taken(abi: object) -> None:
    release = getattr(abi, "name")  # noqa: B009
    image = images.parse(vmlinux(text(release)), "vmlinux")
    assert image.abi is abi
    lay_out(image, 64 * MIB)


def test_the_alignment_is_told_to_those_who_read_it() -> None:
    for release, expected in (("2.6.30", 0), ("2.6.31", 0x1000000), ("4.13", 0x1000000)):
        layout = lay_out(images.parse(vmlinux(text(release)), "vmlinux"), 64 * MIB)
        assert struct.unpack_from("<I", layout.pieces[0][1], 0x230)[0] == expected


def test_tables_made_before_boot_need_memory_too() -> None:
    """17 MiB are 5 tables of 1024 entries and their directory: 24 KiB below the top."""
    image = images.parse(vmlinux(text("2.6.27"), size=MIB - 0x5000), "vmlinux")
    with pytest.raises(ImageError, match="page tables take 24 KiB"):
        lay_out(image, 17 * MIB)
    lay_out(images.parse(vmlinux(text("2.6.27"), size=MIB - 0x6000), "vmlinux"), 17 * MIB)
    lay_out(images.parse(vmlinux(text("3.2"), size=MIB), "vmlinux"), 17 * MIB)


LOW = b"Use a HIGHMEM enabled kernel"


@pytest.mark.parametrize(
    ("release", "more", "split", "most"),
    [
        ("3.12", LOW, 0xC0000000, 880),
        ("2.6.32", LOW, 0x80000000, 1904),
        ("3.12", b"HighMem\0", 0xC0000000, 4000),
        ("4.1", LOW, 0xC0000000, 4000),
    ],
)
def test_memory_that_would_hide_the_devices(release: str, more: bytes, split: int, most: int) -> None:
    image = images.parse(vmlinux(text(release, more=more), split=split), "vmlinux")
    lay_out(image, most * MIB)
    if most < 4000:
        with pytest.raises(ImageError, match=f"at most {most}M"):
            lay_out(image, most * MIB + 4096)


def test_an_initrd_that_no_memory_is_large_enough_for() -> None:
    """More memory would only lead to the refusal above."""
    for more, most in ((LOW, 880), (b"HighMem\0", LARGEST // MIB)):
        image = images.parse(vmlinux(text("3.12", more=more)), "vmlinux")
        with pytest.raises(ImageError, match=f"smaller initrd: .* {most} at most"):
            needs.check_memory(image, 64 * MIB, most * MIB)
        with pytest.raises(ImageError, match=f"give it at least {most}M"):
            needs.check_memory(image, 64 * MIB, most * MIB - image.needs)


@pytest.mark.parametrize("line", ["mem=32M", "quiet highmem=64M", "memmap=exactmap memmap=32M@0"])
def test_arguments_that_would_hide_the_devices(line: str) -> None:
    with pytest.raises(ImageError, match="--memory"):
        lay_out(images.parse(vmlinux(text("3.12")), "vmlinux"), 64 * MIB, line)
    lay_out(images.parse(vmlinux(text("4.1")), "vmlinux"), 64 * MIB, line)
    lay_out(images.parse(vmlinux(text("3.12")), "vmlinux"), 64 * MIB, "vmem=32M")
