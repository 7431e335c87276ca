"""Finding, opening and adopting images: every descriptor is closed again, nothing is read too early."""

import io
import os
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from launcher.elf_files import Elf

from kvmhost.host.abi import ABIS, abi_of
from kvmhost.launcher import images
from kvmhost.launcher.errors import ImageError
from kvmhost.launcher.images import adopt, open_image, shipped_guests

NAMES = ["hello", "pages", "pair", "preempt", "syscalls", "traps"]
KERNEL_BASE = 0xC0000000


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_shipped_guests_say_what_they_show() -> None:
    guests = shipped_guests()
    assert [guest.name for guest in guests if not guest.name.startswith("generation-")] == NAMES
    for guest in guests:
        assert len(guest.about) > 100, guest.name
        assert guest.about.endswith((".", ")")), guest.about


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_guest_is_a_plain_executable(name: str) -> None:
    """By a reader that is not ours: linked at 1 MiB, linear = physical, entry inside, nothing overlapping."""
    with open_image(name) as file:
        data = file.read()
    elf = ELFFile(io.BytesIO(data))
    assert (elf["e_type"], elf["e_machine"], elf.elfclass) == ("ET_EXEC", "EM_386", 32)
    loads = [s for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"]
    spans = sorted((s["p_paddr"], s["p_paddr"] + s["p_memsz"]) for s in loads)
    assert spans[0][0] == 0x100000
    assert all(s["p_paddr"] == s["p_vaddr"] for s in loads)
    assert all(low[1] <= high[0] for low, high in pairwise(spans))
    assert spans[-1][1] < 2 << 20, "it must run in the smallest memory"
    image = images.parse(data, name)
    assert image.entry == elf["e_entry"]
    assert {(s.physical, s.end) for s in image.segments} == {span for span in spans if span[0] != span[1]}
    assert images.copies(image) == (2 if name == "pair" else 1)


def test_the_generations_are_linked_as_kernels_are_and_say_what_they_speak() -> None:
    """One for every generation of the table at least; their names and their notes agree."""
    spoken = set()
    for guest in shipped_guests():
        if not guest.name.startswith("generation-"):
            continue
        data = guest.path.read_bytes()
        elf = ELFFile(io.BytesIO(data))
        loads = {s["p_vaddr"] - s["p_paddr"] for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"}
        assert KERNEL_BASE in loads
        assert 0x100000 <= elf["e_entry"] < 0x200000
        image = images.parse(data, guest.name)
        _, release, *pae = guest.name.split("-")
        assert image.abi is abi_of(release), guest.name
        assert image.pae is bool(pae), guest.name
        spoken.add(image.abi)
    assert spoken == set(ABIS)


def test_the_pairs_report_lies_where_its_header_says() -> None:
    with open_image("pair") as file:
        symbols: Any = ELFFile(io.BytesIO(file.read())).get_section_by_name(".symtab")
    (report,) = symbols.get_symbol_by_name("pair_report")
    assert report["st_value"] == 0x100000


def test_a_path_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_image("hello") as shipped:
        assert len(shipped.read()) > 4096
    Path("hello").write_bytes(b"mine")
    with open_image("hello") as own:
        assert own.read() == b"mine"


def test_opened_once_read_later_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"0123456789")
    before = open_files()
    with path.open("rb") as file, adopt(file) as image:
        file.seek(5)
        path.unlink()
        assert image.read() == b"0123456789" == image.read()
        assert file.tell() == 5
    assert open_files() == before


def test_adopting_leaves_the_callers_file_open(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"x")
    with path.open("rb") as file:
        with adopt(file):
            pass
        assert file.read() == b"x"
    with open_image(path) as image:
        with adopt(image):
            pass
        assert image.read() == b"x"


def test_a_descriptor_is_not_inherited() -> None:
    with open_image("hello") as image:
        assert os.get_inheritable(image.fileno()) is False


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    before = open_files()
    for name, said in {
        "no-such-guest": "hello, pages, pair",
        str(tmp_path / "missing.elf"): "there is no Guest called",
        str(tmp_path): "is not a file",
        str(tmp_path / "fifo"): "is not a file",
        "/dev/null": "is not a file",
        str(tmp_path / "loop"): "cannot be opened",
        "a\0b": "cannot be opened",
        "/": "is not a file",
        "": "no Guest was named",
    }.items():
        with pytest.raises(ImageError) as caught:
            open_image(name)
        assert said in str(caught.value), name
        assert caught.value.next_step
    assert open_files() == before


def test_what_cannot_be_read(tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate((1 << 30) + 1)
    with open_image(sparse) as image, pytest.raises(ImageError, match="too many for an image"):
        image.read()
    with (
        Path("/dev/null").open("rb") as device,
        adopt(device) as image,
        pytest.raises(ImageError, match="not a file"),
    ):
        image.read()
    closed = open_image("hello")
    closed.close()
    closed.close()
    with pytest.raises(ImageError, match="cannot be read"):
        closed.read()


def test_a_damaged_image_leaves_nothing_open(tmp_path: Path) -> None:
    path = tmp_path / "bad"
    path.write_bytes(Elf(kind=3).bytes())
    before = open_files()
    with pytest.raises(ImageError), open_image(path) as image:
        images.parse(image.read(), image.name)
    assert open_files() == before


def test_copies_of_the_pair_are_numbered_by_its_note() -> None:
    with open_image("pair") as file:
        image = images.parse(file.read(), "pair")
    assert list(image.own_notes(1)) == [struct.pack("<I", 2)]


@pytest.mark.parametrize("nothing", [None, 7, object()])
def test_what_names_no_image_is_told_so(nothing: object) -> None:
    with pytest.raises(ImageError, match="names no image"):
        images.adopt(nothing)  # type: ignore[arg-type]
