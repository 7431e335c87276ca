"""Kernels that lie: whatever a header, a payload, a configuration or an archive says, it is taken or refused.

The cases are made from whole images, good ones, in which fields are changed and pieces cut, swapped or packed
again, so that most of them get past the first checks.  There are 2,000 of them; with KVMHOST_FUZZ_CASES=60000
in the environment there are 100,000.
"""

import gzip
import lzma
import os

from hypothesis import given, settings
from hypothesis import strategies as st
from launcher.archives import PROGRAM, archive
from launcher.elf_files import Elf, Piece
from launcher.kernels import EBX_INT, EDX_INT, BzImage, text, vmlinux

from kvmhost.host.errors import KvmhostError
from kvmhost.launcher import images
from kvmhost.launcher.boot import lay_out
from kvmhost.launcher.errors import ImageError
from kvmhost.launcher.inspect import inspect
from kvmhost.launcher.remarks import remarks

MIB = 1 << 20
CASES = int(os.environ.get("KVMHOST_FUZZ_CASES", "1200"))
CONFIG = "CONFIG_X86_32=y\nCONFIG_LGUEST_GUEST=y\n"
KERNELS = (
    text("3.12.9", EBX_INT, b"*pde = \0virtio_blk\0" + archive(init=PROGRAM), CONFIG),
    text("2.6.24", EDX_INT, b"Use a HIGHMEM enabled kernel\0" + gzip.compress(archive(init=PROGRAM))),
)
INNER = [vmlinux(kernel, size=len(kernel) + 4096) for kernel in KERNELS]
WHOLE = [
    *INNER,
    Elf((Piece(0x100000, KERNELS[0]), Piece(0x200000, KERNELS[1], 0x100000))).bytes(),
    BzImage(gzip.compress(INNER[0]), init_size=0x400000).bytes(),
    BzImage(lzma.compress(INNER[1], preset=0), version=0x0208, relocatable=1).bytes(),
    BzImage(gzip.compress(KERNELS[1]), version=0x0207).bytes(),
]
INITRDS = (
    archive(init=PROGRAM, bin_sh=b"x" * 100),
    gzip.compress(archive(init=b"#!/bin/sh\n")),
    b"hsqs",
    b"",
)
INTERESTING = [0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFF000, 0xFFFFFFFF]
# The setup header and the ELF header: where a change means most.
FIELDS = [0x1F1, 0x1F4, 0x202, 0x206, 0x20E, 0x211, 0x214, 0x230, 0x234, 0x236, 0x248, 0x24C, 0x258, 0x260]
FIELDS += [16, 18, 24, 28, 42, 44, 52, 56, 60, 64, 68, 72, 84, 88, 92, 96]


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """One of `seeds` with a few words changed, and perhaps a piece cut out, doubled or put at the end."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 5))):
        at = min(draw(st.sampled_from(FIELDS) | st.integers(0, len(data) - 8)), len(data) - 8)
        width = draw(st.sampled_from([1, 2, 4, 8]))
        value = draw(st.sampled_from(INTERESTING) | st.integers(0, 2**64 - 1)) % 256**width
        data[at : at + width] = value.to_bytes(width, "little")
    if draw(st.booleans()):
        begin, end = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
        piece = data[begin:end]
        match draw(st.sampled_from(["cut", "double", "end"])):
            case "cut":
                del data[begin:end]
            case "double":
                data[end:end] = piece
            case "end":
                del data[end:]
    return bytes(data)


def judged(data: bytes, memory: int, line: str, initrd: bytes | None) -> None:
    """Everything done with an image before it runs ends well, or with an error that says what to do."""
    try:
        image = images.parse(data, "x")
        assert inspect(image).name == "x"
        for remark in remarks(image, memory, line, initrd):
            assert remark
        layout = lay_out(image, memory, line, initrd)
    except ImageError as error:
        assert error.message
        assert error.next_step
        return
    ranges = sorted((at, at + len(piece)) for at, piece in layout.pieces)
    assert ranges[0][0] == 0
    assert ranges[-1][1] <= memory
    assert image.needs <= memory


@settings(deadline=None, max_examples=CASES)
@given(
    mutated(WHOLE),
    st.integers(2, 64),
    st.sampled_from(["", "mem=1M", "root=/dev/sda x=\udc80"]),
    mutated([*INITRDS[:2]]),
)
def test_lying_images_and_initrds(data: bytes, mib: int, line: str, initrd: bytes) -> None:
    judged(data, mib * MIB, line, initrd)


@settings(deadline=None, max_examples=CASES // 3)
@given(
    mutated(INNER),
    st.sampled_from([gzip.compress, lambda data: lzma.compress(data, preset=0)]),
    st.booleans(),
)
def test_lies_inside_a_good_bzimage(data: bytes, pack: object, relocatable: bool) -> None:
    assert callable(pack)
    judged(BzImage(pack(data), relocatable=int(relocatable)).bytes(), 64 * MIB, "", INITRDS[1])


@settings(deadline=None, max_examples=CASES // 3)
@given(st.binary(max_size=400), st.sampled_from([b"IKCFG_ST", b"070701", b"\x1f\x8b\x08", b" version 3."]))
def test_noise_where_texts_are_looked_for(noise: bytes, magic: bytes) -> None:
    for content in (magic + noise, noise + magic, (magic + noise) * 3 + b"IKCFG_ED"):
        judged(vmlinux(text("3.2", EBX_INT, content)), 64 * MIB, "", content)


def test_what_is_refused_is_never_a_fault_of_ours() -> None:
    assert issubclass(ImageError, KvmhostError)
    for seed in WHOLE:
        for cut in range(0, len(seed), 97):
            judged(seed[:cut], 32 * MIB, "", None)
