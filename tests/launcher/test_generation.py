"""The generation an image speaks is found in it, or said by the person who runs it."""

import pytest
from launcher.elf_files import NOTE, Elf, Piece, note
from launcher.kernels import EBX_INT, EBX_VMCALL, EDX_INT, text, vmlinux

from kvmhost.host.abi import DEFAULT
from kvmhost.launcher import images
from kvmhost.launcher.errors import AbiError, ImageError
from kvmhost.launcher.generation import parse_abi


def linux(release: str, init: bytes = b"", more: bytes = b"") -> bytes:
    return vmlinux(text(release, init, more))


@pytest.mark.parametrize(
    ("release", "abi"),
    [
        ("2.6.24", "2.6.24"),
        ("2.6.27.62-dirty", "2.6.26"),
        ("2.6.32.9", "2.6.31"),
        ("3.0.101", "2.6.34"),
        ("3.12.9-00001-gabc", "3.1"),
        ("4.0.0", "4.0"),
        ("4.9.0-rc5+", "4.1"),
    ],
)
def test_by_its_release(release: str, abi: str) -> None:
    image = images.parse(linux(release), "vmlinux")
    assert (image.release, image.abi.name) == (release, abi)
    assert image.kernel.banner == f"Linux version {release} (you@there) (gcc version 4.1.2) #1 Tue"


def said(text: bytes) -> bytes:
    return Elf((Piece(), Piece(kind=NOTE, data=note(b"kvmhost", 3, text)))).bytes()


@pytest.mark.parametrize(
    ("text", "abi", "pae"),
    [(b"2.6.30", "2.6.30", False), (b"2.6.32\0", "2.6.31", False), (b"4.1 pae", "4.1", True)],
)
def test_by_its_note(text: bytes, abi: str, pae: bool) -> None:
    image = images.parse(said(text), "x")
    assert (image.abi.name, image.pae) == (abi, pae)


@pytest.mark.parametrize(
    ("text", "complaint"), [(b"", "nobody knows"), (b"2.6.3\xff", "nobody knows"), (b"4.1 PAE", "'PAE'")]
)
def test_nonsense_in_a_note(text: bytes, complaint: str) -> None:
    with pytest.raises(ImageError, match=complaint) as caught:
        images.parse(said(text), "x")
    assert "let its note" in caught.value.next_step


def test_what_says_nothing_speaks_the_default() -> None:
    image = images.parse(Elf().bytes(), "x")
    assert (image.abi, image.release, image.lguest, image.page_offset) == (DEFAULT, None, None, 0)


@pytest.mark.parametrize("text", ["", "5.0", "2.6.23", "four", "4.14"])
def test_what_is_no_generation(text: str) -> None:
    with pytest.raises(AbiError, match=r"2\.6\.24"):
        parse_abi(text)


@pytest.mark.parametrize(
    ("init", "register", "vmcall"),
    [(EDX_INT, "edx", False), (EBX_VMCALL, "ebx", True), (EBX_INT, "ebx", False)],
)
def test_a_guest_is_known_by_its_first_hypercall(init: bytes, register: str, vmcall: bool) -> None:
    kernel = images.parse(linux("3.2.0", init), "vmlinux").kernel
    assert kernel.lguest is True
    assert kernel.init is not None
    assert (kernel.init.register, kernel.init.vmcall) == (register, vmcall)


def test_a_kernel_without_it_is_none() -> None:
    kernel = images.parse(linux("3.2.0", b"\xb8\x01\0\0\0\xbb\0\0\0\0\xcd\x80"), "vmlinux").kernel
    assert (kernel.lguest, kernel.init) == (False, None)


@pytest.mark.parametrize(
    ("text", "pae"), [(b"", None), (b"*pde = %08lx ", False), (b"*pdpt = %016Lx *pde = %08lx ", True)]
)
def test_pae(text: bytes, pae: bool | None) -> None:
    assert images.parse(linux("3.2.0", more=text), "vmlinux").pae is pae


def test_page_offset() -> None:
    assert images.parse(vmlinux(text(), split=0xB0000000), "vmlinux").page_offset == 0xB0000000
