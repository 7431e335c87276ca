"""From a file to a Guest that runs: whatever names the image, with nothing left behind when it is none."""

import doctest
import os
import struct
from pathlib import Path

import pytest
from launcher.elf_files import Elf, Piece

from kvmhost import ImageError, KvmhostError, Machine, MemorySizeError
from kvmhost.launcher import machine as room
from kvmhost.launcher.images import SHIPPED, open_image

pytestmark = pytest.mark.lab

MIB = 1 << 20


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def holds(path: Path) -> bool:
    """Whether this process has the file open, deleted or not."""
    return any(os.path.realpath(entry).startswith(str(path)) for entry in Path("/proc/self/fd").iterdir())


def test_examples() -> None:
    result = doctest.testmod(room)
    assert (result.failed, result.attempted) == (0, 4)


def test_an_image_by_name_path_file_or_what_was_opened_before(tmp_path: Path) -> None:
    own = tmp_path / "mine.elf"
    own.write_bytes((SHIPPED / "hello.elf").read_bytes())
    before = open_files()
    with Machine(memory="2M") as machine:
        guests = [machine.load("hello"), machine.load(own), machine.load(str(own))]
        with own.open("rb") as file:
            guests.append(machine.load(file))
        with open_image(own) as opened:
            own.unlink()
            guests.append(machine.load(opened))
            assert holds(own)
        assert not holds(own)
        assert [guest.name for guest in guests] == ["hello", "mine", "mine", "mine", "mine"]
        outcomes = machine.run(timeout=300)
        assert [outcomes[guest].reason for guest in guests] == ["Power down"] * 5
    assert open_files() == before


def test_what_the_guest_finds_in_its_memory() -> None:
    with Machine(memory="4M") as machine, Path(__file__).open("rb") as initrd:
        guest = machine.load("hello", "quiet", memory="8M", initrd=initrd)
        size = Path(__file__).stat().st_size
        rounded = -(-size // 4096) * 4096
        assert guest.state.mem_bytes == 8 * MIB
        assert guest.ram.read(4096, 6) == b"quiet\0"
        assert struct.unpack("<II", guest.ram.read(0x218, 8)) == (8 * MIB - rounded, rounded)
        assert guest.ram.read(8 * MIB - rounded, size) == Path(__file__).read_bytes()
        assert struct.unpack("<Q", guest.ram.read(0x2D8, 8)) == (8 * MIB,)
        with open_image("hello") as image:
            (entry,) = struct.unpack_from("<I", image.read(), 24)
        assert guest.frame.eip == entry


def test_one_copy_of_the_pair_unless_all_are_asked_for() -> None:
    with Machine(memory="2M") as machine:
        assert machine.load("pair").name == "pair"
        names = [(guest.name, guest.ram.read(4096, 14)) for guest in machine.load_all("pair", "ticks=1")]
        assert names == [("pair-0", b"ticks=1 copy=0"), ("pair-1", b"ticks=1 copy=1")]
        assert len(machine.load_all("hello")) == 1


def test_a_bad_image_makes_no_guest_and_spoils_nothing(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    with Machine(memory="2M") as machine:
        before = open_files()
        for image, error, said in (
            (Elf(kind=3).bytes(), ImageError, "shared object"),
            (Elf((Piece(0x200000),), entry=0x200000).bytes(), ImageError, "at least 3M"),
            (Elf((Piece(0),), entry=0).bytes(), ImageError, "boot parameters"),
        ):
            bad.write_bytes(image)
            with pytest.raises(error, match=said):
                machine.load(bad)
        with pytest.raises(MemorySizeError):
            machine.load("hello", memory="1")
        with pytest.raises(ImageError):
            machine.load("hello", "x" * 5000)
        with pytest.raises(ImageError):
            machine.load("hello", initrd=tmp_path / "missing")
        assert machine.guests == []
        assert open_files() == before
        assert machine.load("hello").run(timeout=300).succeeded


def test_a_machine_that_is_full_says_so() -> None:
    with Machine(memory="2G") as machine:
        machine.load("hello")
        with pytest.raises(KvmhostError, match="do not fit"):
            machine.load("hello")
        assert len(machine.guests) == 1


def test_a_bad_size_opens_nothing() -> None:
    before = open_files()
    for size in ("0", "1", "5G", "lots"):
        with pytest.raises(MemorySizeError):
            Machine(memory=size)
    assert open_files() == before


def test_a_guest_that_could_not_be_equipped_leaves_its_room_to_another(tmp_path: Path) -> None:
    image = tmp_path / "root.img"
    image.write_bytes(bytes(1024))
    with Machine(memory="2M") as machine:
        slots = machine.vm.slots
        for _ in range(3):
            with pytest.raises(KvmhostError):
                machine.load("hello", "full of words", block=[image, tmp_path / "typo.img"])
        assert (machine.guests, machine.vm.slots) == ([], slots)
        outcomes = [machine.load("hello", block=[image]), machine.load("hello")]
        assert [guest.run(timeout=60).reason for guest in outcomes] == ["Power down"] * 2
