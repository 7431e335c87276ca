"""What an initrd is told to be, and that nothing it contains can do more than be reported."""

import gzip
import lzma
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launcher.archives import FOLDER, LINK, PROGRAM, archive, member

from kvmhost.launcher import initrd, payload
from kvmhost.launcher.initrd import carries_init, examine


@pytest.mark.parametrize(
    ("data", "kind", "mistake"),
    [
        (archive(init=PROGRAM), "cpio", None),
        (b"070702" + archive(init=PROGRAM)[6:], "cpio", None),
        (b"hsqs" + bytes(200), "squashfs", None),
        (bytes(0x438) + b"\x53\xef" + bytes(100), "ext2", None),
        (b"-rom1fs-" + bytes(200), "romfs", None),
        (b"\x45\x3d\xcd\x28" + bytes(200), "cramfs", None),
        (bytes(257) + b"ustar" + bytes(300), None, "an archive of tar"),
        (b"070707" + bytes(100), None, "an archive in an old format of cpio"),
        (b"\x7fELF" + bytes(100), None, "an ELF file"),
        (b"#!/bin/sh\n", None, "a script"),
        (b"QFI\xfb" + bytes(100), None, "a qcow2 image"),
        (bytes(4096), None, "nothing but zeros"),
        (b"", None, "empty"),
        (b"something else", None, None),
    ],
)
def test_kinds(data: bytes, kind: str | None, mistake: str | None) -> None:
    found = examine(data)
    assert (found.kind, found.mistake, found.packing) == (kind, mistake, None)
    packed = examine(gzip.compress(data))
    assert (packed.kind, packed.mistake, packed.packing, packed.size) == (kind, mistake, "gzip", len(data))


def test_the_first_program() -> None:
    found = examine(member("bin", mode=FOLDER) + archive(bin_sh=b"sh", init=PROGRAM))
    assert found.init is not None
    assert (found.init.start, found.init.link, found.whole) == (PROGRAM[:64], None, True)
    linked = examine(member("./init", b"bin/sh", LINK) + archive())
    assert linked.init is not None
    assert linked.init.link == "bin/sh"
    assert examine(archive(bin_init=PROGRAM)).init is None


@pytest.mark.parametrize(
    "data",
    [
        archive(bin_sh=b"sh")[:-8],
        archive() + archive(init=PROGRAM),
        archive() + bytes(512) + gzip.compress(archive(init=PROGRAM)),
        member("file", b"x", size=0xFFFFFFFF) + archive(),
        member("file", b"x", name_size=0xFFFFFFFF) + archive(),
        archive(bin_sh=b"sh").replace(b"070701", b"07070X", 2).replace(b"07070X", b"070701", 1),
        b"070701" + b"zzzzzzzz" * 13 + bytes(100),
    ],
    ids=["cut", "another behind", "another, packed", "long member", "long name", "bad header", "no numbers"],
)
def test_what_was_not_seen_to_its_end_is_not_judged(data: bytes) -> None:
    found = examine(data)
    assert (found.kind, found.init, found.whole) == ("cpio", None, False)


def test_damage_and_what_cannot_be_unpacked() -> None:
    damaged = examine(gzip.compress(archive(init=PROGRAM))[:-20])
    assert (damaged.packing, damaged.kind) == ("gzip", None)
    assert damaged.damaged
    assert examine(b"\x28\xb5\x2f\xfd" + bytes(50)).packing == "zstd"


def test_a_bomb_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initrd, "LOOK", 1 << 20)
    found = examine(lzma.compress(archive(init=PROGRAM) + bytes(8 << 20)))
    assert (found.kind, found.size, found.whole) == ("cpio", None, False)
    assert found.init is not None


def test_a_first_program_inside_a_kernel() -> None:
    around = b"\x1f\x8b\x08 no stream 070701 no archive" * 50
    assert carries_init(b"kernel" + archive(init=PROGRAM) + around)
    assert carries_init(b"kernel" + gzip.compress(archive(init=PROGRAM)) + around)
    assert not carries_init(around + archive(dev_console=b""))


def test_a_kernel_full_of_archives_costs_no_more_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is unpacked, and what is looked at of it, has one limit for the whole kernel."""
    unpacked, seen = [], []
    decompress, members = payload.decompress, initrd._members

    def count_bytes(*args: Any, **options: Any) -> bytes:
        unpacked.append(decompress(*args, **options))
        return unpacked[-1]

    def count_members(*args: Any) -> Iterator[Any]:
        for found in members(*args):
            seen.append(found)
            yield found

    monkeypatch.setattr(initrd, "LOOK", 1 << 16)
    monkeypatch.setattr(initrd, "MOST_IN_A_KERNEL", 100)
    monkeypatch.setattr(payload, "decompress", count_bytes)
    monkeypatch.setattr(initrd, "_members", count_members)
    plain = member("a") * 60
    assert not carries_init((plain + gzip.compress(bytes(1 << 15)) + gzip.compress(plain)) * 20)
    assert sum(map(len, unpacked)) <= 1 << 16
    assert len(seen) == 100


def test_a_member_of_less_than_nothing_ends_an_archive() -> None:
    """It would lead back to itself."""
    header = bytearray(member("a"))
    header[54:62] = b"-0000070"
    assert list(initrd._members(bytes(header) + archive(init=PROGRAM))) == []


@settings(deadline=None)
@given(st.binary(max_size=300), st.data())
def test_no_bytes_whatever_are_more_than_looked_at(noise: bytes, data: st.DataObject) -> None:
    seed = bytearray(
        data.draw(st.sampled_from([archive(init=PROGRAM, x=b"y"), gzip.compress(archive(init=b"#!"))]))
    )
    for at in data.draw(st.lists(st.integers(0, len(seed) - 1), max_size=8)):
        seed[at] = data.draw(st.integers(0, 255))
    for image in (noise, bytes(seed), bytes(seed) + noise):
        found = examine(image)
        assert found.size is None or found.size <= initrd.LOOK
        carries_init(image)


def test_packings_are_known_by_their_first_bytes() -> None:
    assert payload.method(lzma.compress(b"x")) == "xz"
    assert payload.method(lzma.compress(b"x", format=lzma.FORMAT_ALONE)) == "lzma"
