"""`kvmhost inspect`: what is said about images of every kind, and the exit code."""

import json
from pathlib import Path

import pytest
from launcher.elf_files import NOTE, Elf, Piece, note
from launcher.kernels import EBX_INT, PACKERS, BzImage, text, vmlinux

from kvmhost.cli import main
from kvmhost.cli.failures import DONE, GUEST_FAILED, USAGE

LINUX = text(
    "4.1.15", EBX_INT, b"*pdpt = Use a HIGHMEM enabled kernel virtio_blk\0virtio-pci\0Unpacking initramfs"
)


def inspected(
    path: Path, data: bytes, capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[int, str, str]:
    path.write_bytes(data)
    code = main(["inspect", str(path), *more])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_kernel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = BzImage(PACKERS["xz"](vmlinux(LINUX)), init_size=0x700000)
    code, out, err = inspected(tmp_path / "bzImage", file.bytes(), capsys)
    assert (code, err) == (DONE, "")
    facts = {line[:17].strip(): line[17:] for line in out.splitlines()}
    assert facts["format"] == "bzImage, packed with xz"
    assert facts["kernel"] == "Linux 4.1.15"
    assert "you@there" in facts["built"]
    assert facts["ABI"].startswith("4.1, that of 4.1 to 4.13")
    assert "PCI" in facts["devices by"]
    assert facts["built as a Guest"] == "yes: int 0x1F, argument in ebx"
    assert facts["page tables"] == "3 levels (PAE)"
    assert facts["PAGE_OFFSET"] == "0xc0000000"
    assert facts["drivers"] == "block, pci"
    assert "CONFIG_VIRTIO_CONSOLE" in facts["drivers missing"]
    assert facts["runs up to"] == "0x1700000"
    assert facts["memory"] == "23 MiB for itself, and it uses at most 880 MiB"
    assert out.splitlines()[-1].endswith(f"kvmhost run {tmp_path / 'bzImage'} --initrd FILE")


def test_a_kernel_that_is_no_guest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = inspected(tmp_path / "vmlinux", vmlinux(text("3.2.1", b"")), capsys)
    assert code == GUEST_FAILED
    assert "CONFIG_PARAVIRT_GUEST=y, CONFIG_LGUEST_GUEST=y" in out
    assert "was not built as a Guest" in err
    assert "what to do: build it with" in err
    code, out, _ = inspected(tmp_path / "vmlinux", vmlinux(text("3.2.1", b"")), capsys, "--abi", "3.2")
    assert code == DONE
    assert "said by --abi" in out


def test_json_has_every_field_also_of_what_cannot_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = inspected(tmp_path / "vmlinux", vmlinux(text("5.4.0")), capsys, "--json")
    found = json.loads(out)
    assert (code, err, found["runs"], found["release"]) == (GUEST_FAILED, "", False, "5.4.0")
    assert "too new" in found["problem"]
    assert found["next_step"]
    code, out, err = inspected(tmp_path / "text", b"no image", capsys, "--json")
    found = json.loads(out)
    assert (code, err, found["runs"]) == (GUEST_FAILED, "", False)
    assert found["problem"].endswith("is not an ELF file")


def test_guests_of_our_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "pair"]) == DONE
    out = capsys.readouterr().out
    assert "2 of it are run together" in out
    assert out.endswith("kvmhost can run it: kvmhost run pair\n")
    said = Elf((Piece(), Piece(kind=NOTE, data=note(b"kvmhost", 3, b"2.6.31 pae")))).bytes()
    code, out, _ = inspected(tmp_path / "own", said, capsys)
    assert code == DONE
    assert "2.6.31, that of 2.6.31 to 2.6.33; said by its note" in out
    assert "3 levels" in out


def test_what_a_banner_may_do_to_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = Elf((Piece(), Piece(kind=NOTE, data=note(b"kvmhost", 2, b"nice\x1b[2J\n")))).bytes()
    _, out, _ = inspected(tmp_path / "own", data, capsys)
    assert "\x1b" not in out
    assert "nice\\x1b[2J\\n" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["inspect"], "IMAGE"),
        (["inspect", "no-such-guest"], "there is no Guest"),
        (["inspect", "hello", "--abi", "5.0"], "no generation"),
        (["inspect", "/"], "is not a file"),
    ],
)
def test_usage(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == USAGE
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x1f\x8b\x08" + bytes(50)])
def test_no_image(data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = inspected(tmp_path / "x", data, capsys)
    assert (code, out) == (GUEST_FAILED, "")
    assert "what to do:" in err
