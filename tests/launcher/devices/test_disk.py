"""Files as disks: who may have one, and what reaches it."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmhost.launcher.devices import claim
from kvmhost.launcher.devices.claim import Disk, DiskError
from kvmhost.launcher.devices.disk import FileDisk

SIZE = 1 << 20

# Holds a disk until its stdin ends, and says first whether it got it.
HOLDER = """
import sys
from kvmhost.launcher.devices.claim import Disk, DiskError
from kvmhost.launcher.devices.disk import FileDisk
try:
    disk = FileDisk.open(Disk(sys.argv[1], sys.argv[2] == "ro"))
except DiskError as error:
    print("refused", error, flush=True)
else:
    print("open", flush=True)
    sys.stdin.read()
    disk.close()
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"")
    os.truncate(path, SIZE)
    return path


@pytest.fixture
def disk(image: Path) -> Iterator[FileDisk]:
    with FileDisk.open(Disk(image)) as opened:
        yield opened


class Holder:
    """Another process that has a disk."""

    def __init__(self, path: Path, mode: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", HOLDER, str(path), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.answer = self.process.stdout.readline()

    def __enter__(self) -> "Holder":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate(timeout=60)


def areas(*texts: bytes) -> list[memoryview]:
    return [memoryview(bytearray(text)) for text in texts]


def test_what_is_written_is_read_back_however_it_is_cut(disk: FileDisk, image: Path) -> None:
    disk.write(areas(b"ab", b"", b"cdefg"), 1000)
    disk.flush()
    assert image.read_bytes()[998:1009] == b"\0\0abcdefg\0\0"
    found = areas(bytes(3), bytes(0), bytes(1), bytes(4))
    disk.read(found, 1000)
    assert b"".join(found) == b"abcdefg\0"


def test_more_areas_than_one_call_takes(disk: FileDisk) -> None:
    texts = [bytes([number % 251]) * 3 for number in range(2500)]
    disk.write(areas(*texts), 512)
    found = areas(*(bytes(7) for _ in range(1072)))
    disk.read(found, 512)
    assert b"".join(found)[:7500] == b"".join(texts)


def test_calls_that_do_only_a_part_are_continued(disk: FileDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    def few(call, limit):  # type: ignore[no-untyped-def]
        def partial(fd, buffers, at):  # type: ignore[no-untyped-def]
            first = next(buffer for buffer in buffers if len(buffer))
            return call(fd, [first[:limit]], at)

        return partial

    monkeypatch.setattr(os, "pwritev", few(os.pwritev, 3))
    monkeypatch.setattr(os, "preadv", few(os.preadv, 5))
    text = bytes(range(97))
    disk.write(areas(text[:10], text[10:11], text[11:]), 7)
    found = areas(bytes(40), bytes(57))
    disk.read(found, 7)
    assert b"".join(found) == text


@pytest.mark.parametrize("at", (SIZE - 511, SIZE, 1 << 62, (1 << 64) * 512, -1))
def test_nothing_beyond_the_end(disk: FileDisk, image: Path, at: int) -> None:
    for move in (disk.read, disk.write):
        with pytest.raises(OSError) as caught:
            move(areas(bytes(512)), at)
        assert caught.value.errno == errno.EIO
    assert image.stat().st_size == SIZE


def test_a_file_that_became_shorter_is_an_error_and_stays_short(disk: FileDisk, image: Path) -> None:
    os.truncate(image, 4096)
    for move in (disk.read, disk.write):
        with pytest.raises(OSError, match="shorter"):
            move(areas(bytes(1024)), 3584)
        with pytest.raises(OSError, match="shorter"):
            move(areas(bytes(512)), SIZE - 512)
        move(areas(bytes(512)), 3584)
    assert image.stat().st_size == 4096


def test_no_room_is_an_error(image: Path) -> None:
    """A limit on the size of files stands for a full file system; Python ignores the signal with it."""
    code = f"""
import resource, sys
from kvmhost.launcher.devices.claim import Disk
from kvmhost.launcher.devices.disk import FileDisk
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
disk = FileDisk.open(Disk({str(image)!r}))
disk.write([memoryview(bytes(1024))], 64512)
for at in 65536, 65024:
    try:
        disk.write([memoryview(b"x" * 1024)], at)
    except OSError as error:
        print(error.errno)
disk.flush()
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"{errno.EFBIG}\n" * 2, "")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 65536


def test_a_disk_for_reading_is_not_written(image: Path) -> None:
    with FileDisk.open(Disk(image, readonly=True)) as disk:
        with pytest.raises(OSError) as caught:
            disk.write(areas(bytes(512)), 0)
        assert caught.value.errno == errno.EROFS
        disk.flush()


def test_a_flush_is_a_system_call_and_only_when_there_is_something(
    disk: FileDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fdatasync", flushed.append)
    disk.flush()
    assert flushed == []
    disk.write(areas(bytes(512)), 0)
    disk.flush()
    disk.flush()
    assert flushed == [disk.fileno()]


def test_a_flush_that_failed_has_failed_for_ever(disk: FileDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    disk.write(areas(bytes(512)), 0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(OSError, match="Input/output error"):
            disk.flush()
    # fdatasync works again and would say so, though the kernel has dropped what it could not write.
    disk.write(areas(bytes(512)), 0)
    for _ in range(2):
        with pytest.raises(OSError, match="an earlier flush failed"):
            disk.flush()
    disk.close()
    assert len(disk.troubles) == 1
    assert "the last flush failed" in disk.troubles[0]


def test_close_flushes_and_lets_go(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fdatasync", flushed.append)
    disk = FileDisk.open(Disk(image))
    disk.write(areas(bytes(512)), 0)
    disk.close()
    disk.close()
    assert len(flushed) == 1
    FileDisk.open(Disk(image)).close()


def test_one_writer_or_many_readers(image: Path) -> None:
    with Holder(image, "rw") as writer:
        assert writer.answer == "open\n"
        for mode in ("rw", "ro"):
            with Holder(image, mode) as other:
                assert other.answer.startswith("refused")
                assert str(image) in other.answer
                assert f"process {writer.process.pid} (python" in other.answer
    with Holder(image, "ro") as reader, Holder(image, "ro") as second:
        assert (reader.answer, second.answer) == ("open\n", "open\n")
        with Holder(image, "rw") as third:
            assert third.answer.startswith("refused")
    with Holder(image, "rw") as last:
        assert last.answer == "open\n"


def test_a_holder_that_is_killed_holds_nothing(image: Path) -> None:
    with Holder(image, "rw") as holder:
        assert holder.answer == "open\n"
        holder.process.kill()
    FileDisk.open(Disk(image)).close()


@pytest.mark.parametrize("link", (os.link, os.symlink))
def test_one_file_under_two_names_is_one_disk(disk: FileDisk, image: Path, link) -> None:  # type: ignore[no-untyped-def]
    other = image.with_name("other.img")
    link(image, other)
    for readonly in (False, True):
        with pytest.raises(DiskError, match="this very process") as caught:
            FileDisk.open(Disk(other, readonly))
        assert str(other) in caught.value.message


def test_refused_disks_leave_no_descriptor(tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    (tmp_path / "empty").touch()
    (tmp_path / "odd").write_bytes(bytes(513))
    os.mkfifo(tmp_path / "fifo")
    before = descriptors()
    for name, words in (
        ("nothing", "there is no disk"),
        ("empty", "is empty"),
        ("odd", "truncate -s 1024"),
        ("fifo", "neither a file nor a block device"),
        (".", "a folder"),
        ("a\0b", "cannot be opened"),
        ("x" * 300, "cannot be opened"),
    ):
        with pytest.raises(DiskError, match=words) as caught:
            FileDisk.open(Disk(f"{tmp_path}/{name}"))
        assert caught.value.next_step
    with pytest.raises(DiskError, match="neither a file nor a block device"):
        FileDisk.open(Disk("/dev/zero"))
    assert descriptors() == before


@pytest.mark.parametrize("number", (errno.EACCES, errno.EROFS, errno.EPERM, errno.ETXTBSY))
def test_what_may_not_be_written_can_perhaps_be_read(
    image: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DiskError, match=r"cannot be opened for writing.*FILE,ro"):
        FileDisk.open(Disk(image))
    with pytest.raises(DiskError) as caught:
        FileDisk.open(Disk(image, readonly=True))
    assert "for writing" not in str(caught.value)


def test_block_devices_are_had_alone(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file passes for a block device; the size of one is where its end is."""
    flags: list[int] = []
    real = os.open
    monkeypatch.setattr(claim.stat, "S_ISREG", lambda mode: False)
    monkeypatch.setattr(claim.stat, "S_ISBLK", lambda mode: True)
    monkeypatch.setattr(os, "open", lambda name, flag: flags.append(flag) or real(name, flag & ~os.O_EXCL))
    for readonly in (False, True):
        with FileDisk.open(Disk(image, readonly)) as opened:
            assert opened.size == SIZE
            opened.read(areas(bytes(512)), SIZE - 512)
    assert [bool(flag & os.O_EXCL) for flag in flags] == [True, False]

    def busy(name: str, flag: int) -> int:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(os, "open", busy)
    with pytest.raises(DiskError, match="is in use: it is mounted"):
        FileDisk.open(Disk(image))


def test_an_image_behind_a_loop_device_is_in_use(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = image.parent / "loop7" / "loop" / "backing_file"
    found.parent.mkdir(parents=True)
    found.write_text(f"{image}\n")
    other = image.parent / "loop8" / "loop" / "backing_file"
    other.parent.mkdir(parents=True)
    other.write_text("/somewhere/else (deleted)\n")
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter((other, found)))
    with pytest.raises(DiskError, match="the file behind /dev/loop7"):
        FileDisk.open(Disk(image))
    FileDisk.open(Disk(image, readonly=True)).close()


def test_file_systems_without_locks_are_told(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(claim.fcntl, "fcntl", refuse)
    with pytest.raises(DiskError, match="cannot be locked: its file system says"):
        FileDisk.open(Disk(image))


def test_a_disk_is_one_writing_guests(disk: FileDisk, image: Path, tmp_path: Path) -> None:
    disk.take()
    with pytest.raises(DiskError, match="another Guest's disk"):
        disk.take()
    disk.give_back()
    disk.take()
    other = tmp_path / "other.img"
    other.write_bytes(bytes(512))
    with FileDisk.open(Disk(other, readonly=True)) as shared:
        shared.take()
        shared.take()
