"""Every request a driver can make of a disk, in each form; and those that no driver would."""

import errno
import os
import random
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from launcher.devices.driver import Buffer, Driver, FakeGuest

from kvmhost._native import ffi, lib
from kvmhost.host.memory import VmMemory
from kvmhost.launcher.devices import block
from kvmhost.launcher.devices.block import BlockDevice
from kvmhost.launcher.devices.claim import Disk
from kvmhost.launcher.devices.device import Wiring
from kvmhost.launcher.devices.disk import Areas, FileDisk
from kvmhost.launcher.devices.ring import Place, StopSign, Virtqueue

RING = 0x80000
HEADER, DATA, STATUS = 0x10000, 0x20000, 0x70000
UNTOUCHED = 0xEE
SECTORS = 64
CONTENT = random.Random(3).randbytes(512 * SECTORS)
IRQ = 5

# Release, bytes of its header, entries of its ring, features its driver takes of those offered.
FORMS = (
    ("2.6.24", 24, 128, 0),
    ("2.6.25", 16, 256, 0),
    ("2.6.26", 16, 256, 1 << 0 | 1 << 2),
    ("2.6.32", 16, 256, 1 << 0 | 1 << 2 | 1 << 5 | 1 << 9),
    ("3.12", 16, 256, 1 << 2 | 1 << 5 | 1 << 9),
    ("4.4", 16, 256, 1 << 2 | 1 << 5 | 1 << 9),
)


class Bench:
    """A disk, its device, and a driver of one release."""

    def __init__(self, memory: VmMemory, path: Path, form: tuple[str, int, int, int], readonly: bool) -> None:
        release, self.header_bytes, entries, accepted = form
        self.guest = FakeGuest(memory, release)
        self.disk = FileDisk.open(Disk(path, readonly))
        self.device = BlockDevice(self.disk)
        self.stop = StopSign()
        place = Place.contiguous(RING, entries)
        self.guest.write(RING, bytes(4096 * place.pages))
        self.queue = Virtqueue(
            cast(Any, self.guest), "disk queue 0", place, lambda: self.guest.post(IRQ), self.stop
        )
        self.driver = Driver(self.guest, place)
        offered = self.device.features(self.guest.abi)
        self.device.start(
            Wiring(cast(Any, self.guest), self.guest.abi, accepted & offered, (self.queue,), self.stop)
        )

    def header(self, kind: int, sector: int, at: int = HEADER) -> Buffer:
        packed = struct.pack("<IIQ", kind, 7, sector).ljust(self.header_bytes, b"\x55")
        self.guest.write(at, packed)
        return Buffer(at, self.header_bytes)

    def ask(self, *buffers: Buffer) -> tuple[int, int]:
        """A request of these parts: (the byte at STATUS, bytes the device says it wrote)."""
        self.guest.write(STATUS, bytes([UNTOUCHED]))
        head = self.driver.add(buffers)
        self.queue.kick()
        back, length = self.driver.take()
        assert back == head
        return self.guest.read(STATUS, 1)[0], length

    def write(self, sector: int, data: bytes, kind: int = 1) -> int:
        self.guest.write(DATA, data)
        status, length = self.ask(self.header(kind, sector), Buffer(DATA, len(data)), Buffer(STATUS, 1, True))
        assert length == 1
        return status

    def read(self, sector: int, size: int) -> tuple[int, bytes]:
        self.guest.write(DATA, bytes([UNTOUCHED]) * size)
        status, length = self.ask(self.header(0, sector), Buffer(DATA, size, True), Buffer(STATUS, 1, True))
        assert length == (1 if status else 1 + size)
        return status, self.guest.read(DATA, size)

    def flush(self) -> int:
        return self.ask(self.header(4, 0), Buffer(STATUS, 1, True))[0]

    def close(self, ended: bool = False) -> None:
        self.device.close()
        self.disk.close()
        assert bool(self.guest.ended) == ended, self.guest.ended


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a-disk-with-a-long-name.img"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture(params=FORMS, ids=[form[0] for form in FORMS])
def bench(memory: VmMemory, image: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(memory, image, request.param, False)
    yield made
    made.close()


@pytest.fixture
def modern(memory: VmMemory, image: Path) -> Iterator[Bench]:
    made = Bench(memory, image, FORMS[4], False)
    yield made
    made.close()


@pytest.fixture
def readonly(memory: VmMemory, image: Path) -> Iterator[Bench]:
    made = Bench(memory, image, FORMS[4], True)
    yield made
    made.close()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the kernel is asked to do with the disk, in order."""
    made: list[str] = []

    def tell(name: str) -> None:
        real = getattr(os, name)

        def told(*arguments: object) -> object:
            made.append(name)
            return real(*arguments)

        monkeypatch.setattr(os, name, told)

    for name in ("preadv", "pwritev", "fdatasync"):
        tell(name)
    return made


def test_layouts_are_those_of_the_header() -> None:
    assert block.HEADER.size == ffi.sizeof("struct block_request")
    assert [field.offset for _, field in ffi.typeof("struct block_request").fields] == [0, 4, 8]
    fields = dict(ffi.typeof("struct block_config").fields)
    assert [fields[name].offset for name in ("sectors", "size_max", "segments")] == [0, 8, 12]
    assert block.CONFIG.size == lib.BLOCK_PAGE_CONFIG_BYTES


def test_what_the_driver_is_told(bench: Bench) -> None:
    abi, device = bench.guest.abi, bench.device
    config = device.config(abi)
    assert len(config) == (36 if abi.name == "4.1" else 16)
    assert struct.unpack_from("<QII", config) == (SECTORS, 0, bench.queue.num - 2)
    offered = device.features(abi)
    assert offered & 1 << 2 and offered & 1 << 9 and not offered & 1 << 5
    assert bool(offered & 1 << 0) == (abi.name != "4.1")
    if abi.name == "2.6.24":
        assert device.tlv(abi) == ((0x41, struct.pack("<Q", SECTORS)), (0x43, struct.pack("<I", 126)))


def test_a_disk_for_reading_says_so_and_refuses(readonly: Bench, image: Path) -> None:
    assert readonly.device.features(readonly.guest.abi) & 1 << 5
    assert readonly.write(0, bytes(512)) == 1
    assert readonly.write(0, bytes(512), 1 | 1 << 31) == 1
    assert readonly.flush() == 0
    assert readonly.read(0, 512) == (0, CONTENT[:512])
    assert image.read_bytes() == CONTENT


def test_write_and_read_back(bench: Bench, image: Path) -> None:
    data = random.Random(4).randbytes(4096)
    assert bench.write(3, data) == 0
    assert bench.read(3, 4096) == (0, data)
    assert bench.read(SECTORS - 1, 512) == (0, CONTENT[-512:])
    assert bench.flush() == 0
    assert image.read_bytes() == CONTENT[: 3 * 512] + data + CONTENT[11 * 512 :]
    assert bench.guest.irqs and set(bench.guest.irqs) == {IRQ}


def test_layout_of_a_request_means_nothing(bench: Bench) -> None:
    """Header, data and answer cut and joined at odd places, as later drivers may (ANY_LAYOUT)."""
    data = random.Random(5).randbytes(1024)
    size = bench.header_bytes
    bench.header(1, 8)
    bench.guest.write(HEADER + size, data[:100])
    bench.guest.write(DATA, data[100:])
    status, _ = bench.ask(
        Buffer(HEADER, 5),
        Buffer(HEADER + 5, size + 95),
        Buffer(DATA, 0),
        Buffer(DATA, 900),
        Buffer(DATA + 900, 24),
        Buffer(STATUS, 1, True),
    )
    assert status == 0
    bench.header(0, 8)
    bench.guest.write(STATUS - 24, bytes(24))
    status, length = bench.ask(Buffer(HEADER, size), Buffer(DATA, 1000, True), Buffer(STATUS - 24, 25, True))
    assert (status, length) == (0, 1025)
    assert bench.guest.read(DATA, 1000) + bench.guest.read(STATUS - 24, 24) == data


def test_one_segment_a_page_up_to_what_was_promised(bench: Bench) -> None:
    segments = min(bench.queue.num - 2, SECTORS)
    pages = list(range(segments))
    random.Random(6).shuffle(pages)
    parts = [Buffer(DATA + 1024 * page, 512, True) for page in pages]
    status = DATA + 1024 * segments
    bench.guest.write(status, bytes([UNTOUCHED]))
    bench.driver.add([bench.header(0, 0), *parts, Buffer(status, 1, True)])
    bench.queue.kick()
    assert bench.driver.take()[1] == 1 + 512 * segments
    assert bench.guest.read(status, 1) == b"\0"
    assert b"".join(bench.guest.read(part.address, 512) for part in parts) == CONTENT[: 512 * segments]


def test_get_id(bench: Bench) -> None:
    bench.guest.write(DATA, bytes([UNTOUCHED]) * 21)
    status, length = bench.ask(bench.header(8, 0), Buffer(DATA, 20, True), Buffer(STATUS, 1, True))
    assert (status, length) == (0, 21)
    assert bench.guest.read(DATA, 21) == b"a-disk-with-a-long-n" + bytes([UNTOUCHED])


def test_a_short_name_is_padded(memory: VmMemory, tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.write_bytes(bytes(512))
    bench = Bench(memory, path, FORMS[4], False)
    bench.guest.write(DATA, bytes([UNTOUCHED]) * 20)
    assert bench.ask(bench.header(8, 0), Buffer(DATA, 20, True), Buffer(STATUS, 1, True))[0] == 0
    assert bench.guest.read(DATA, 20) == b"d" + bytes(19)
    bench.close()


@pytest.mark.parametrize("kind", (2, 3, 6, 7, 9, 0x100, 0x7FFFFFFF))
def test_unknown_requests_are_unsupported(modern: Bench, image: Path, kind: int) -> None:
    status, length = modern.ask(modern.header(kind, 0), Buffer(DATA, 512, True), Buffer(STATUS, 1, True))
    assert (status, length) == (2, 1)
    assert image.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "sector", (SECTORS, SECTORS - 7, 1 << 54, (1 << 55) - 1, 1 << 55, (1 << 64) - 8, (1 << 64) - 1)
)
def test_sectors_that_are_not_there(bench: Bench, image: Path, sector: int) -> None:
    assert bench.write(sector, bytes(4096)) == 1
    assert bench.read(sector, 4096) == (1, bytes([UNTOUCHED]) * 4096)
    assert image.read_bytes() == CONTENT
    assert bench.disk.troubles == []


@pytest.mark.parametrize("size", (1, 511, 513, 4095))
def test_data_that_is_no_whole_sector(bench: Bench, image: Path, size: int) -> None:
    assert bench.write(0, bytes(size)) == 1
    assert bench.read(0, size)[0] == 1
    assert image.read_bytes() == CONTENT


def test_headers_that_are_too_short(bench: Bench, image: Path) -> None:
    bench.header(1, 0)
    for size in (0, 1, 15, bench.header_bytes - 1):
        assert bench.ask(Buffer(HEADER, size), Buffer(STATUS, 1, True)) == (1, 1)
    assert bench.ask(Buffer(STATUS, 1, True)) == (1, 1)
    assert image.read_bytes() == CONTENT


@pytest.mark.parametrize("extra", ([], [Buffer(STATUS, 0, True)]), ids=("none", "empty"))
@pytest.mark.parametrize("form", FORMS, ids=[form[0] for form in FORMS])
def test_a_request_without_room_for_an_answer_ends_the_guest(
    memory: VmMemory, image: Path, form: tuple[str, int, int, int], extra: list[Buffer]
) -> None:
    bench = Bench(memory, image, form, False)
    bench.driver.add([bench.header(1, 0), Buffer(DATA, 512), *extra])
    bench.queue.kick()
    bench.guest.until(lambda: bool(bench.guest.ended))
    assert "without room for the answer" in bench.guest.ended[0][0]
    assert image.read_bytes() == CONTENT
    bench.close(ended=True)


def test_no_flush_is_answered_before_it_is_one(modern: Bench, calls: list[str]) -> None:
    assert modern.write(0, bytes(512)) == 0
    assert calls == ["pwritev"]
    assert modern.flush() == 0
    assert calls == ["pwritev", "fdatasync"]
    assert modern.write(0, bytes(512)) == 0
    assert modern.ask(modern.header(5, 0), Buffer(STATUS, 1, True)) == (0, 1)
    assert calls == ["pwritev", "fdatasync"] * 2


def test_a_barrier_stands_between_before_and_after(memory: VmMemory, image: Path, calls: list[str]) -> None:
    bench = Bench(memory, image, FORMS[2], False)
    assert bench.write(0, bytes(512)) == 0
    assert bench.write(1, bytes(512)) == 0
    assert calls == ["pwritev", "pwritev"]
    assert bench.write(2, bytes(512), 1 | 1 << 31) == 0
    assert calls == ["pwritev", "pwritev", "fdatasync", "pwritev", "fdatasync"]
    bench.close()


@pytest.mark.parametrize("form", FORMS[:2], ids=("2.6.24", "2.6.25"))
def test_who_cannot_ask_for_a_flush_gets_one(
    memory: VmMemory, image: Path, form: tuple[str, int, int, int], calls: list[str]
) -> None:
    bench = Bench(memory, image, form, False)
    assert bench.write(0, bytes(512)) == 0
    assert calls == ["pwritev", "fdatasync"]
    # Many at once are flushed at once, and none of them is answered before.
    calls.clear()
    all_at_once(bench, [(sector, bytes([sector]) * 512) for sector in range(10)])
    assert calls == ["pwritev"] * 10 + ["fdatasync"]
    bench.close()


def all_at_once(bench: Bench, writes: list[tuple[int, bytes]]) -> None:
    """Make requests that become visible all at once, and wait for all of them."""
    before = bench.driver.offered
    available = bench.driver.place.available + 2
    statuses = []
    for index, (sector, data) in enumerate(writes):
        at = DATA + 1024 * index
        bench.guest.write(at, data)
        bench.guest.write(STATUS + index, bytes([UNTOUCHED]))
        bench.driver.add(
            [
                bench.header(1, sector, HEADER + 32 * index),
                Buffer(at, len(data)),
                Buffer(STATUS + index, 1, True),
            ]
        )
        bench.guest.put16(available, before)
        statuses.append(STATUS + index)
    bench.guest.put16(available, bench.driver.offered)
    bench.queue.kick()
    for _ in writes:
        bench.driver.take()
    assert [bench.guest.read(at, 1) for at in statuses] == [b"\0"] * len(writes)


def broken(*_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_flush_that_fails_is_told_to_each_that_relied_on_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fdatasync", broken)
    asks_for_flushes = bench.guest.abi.features
    assert bench.write(0, bytes(512)) == (0 if asks_for_flushes else 1)
    assert bench.flush() == 1
    monkeypatch.undo()
    assert bench.flush() == 1
    assert any("flush failed: Input/output error" in trouble for trouble in bench.disk.troubles)


@pytest.mark.parametrize("number", (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO))
def test_no_room_is_an_io_error(bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", full)
        assert bench.write(0, bytes(512)) == 1
    assert bench.write(0, bytes(512)) == 0
    assert bench.disk.troubles == [f"{bench.disk.name}: writing failed: {os.strerror(number)}"]


def test_a_file_that_became_shorter_is_an_io_error(bench: Bench, image: Path) -> None:
    os.truncate(image, 5 * 512)
    assert bench.write(4, bytes(1024)) == 1
    assert bench.read(4, 1024)[0] == 1
    assert bench.write(4, bytes(512)) == 0
    assert bench.read(4, 512) == (0, bytes(512))
    assert image.stat().st_size == 5 * 512


def test_requests_larger_than_one_piece(modern: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block, "PIECE", 1536)
    data = random.Random(7).randbytes(8192)
    modern.guest.write(DATA, data)
    parts = [Buffer(DATA, 1000), Buffer(DATA + 1000, 3000), Buffer(DATA + 4000, 4192)]
    assert modern.ask(modern.header(1, 2), *parts, Buffer(STATUS, 1, True))[0] == 0
    assert modern.read(2, 8192) == (0, data)


def test_stop_waits_for_what_is_in_flight(
    memory: VmMemory, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, let_through = threading.Event(), threading.Event()
    write = FileDisk.write

    def slowly(disk: FileDisk, areas: Areas, at: int) -> None:
        begun.set()
        assert let_through.wait(60)
        write(disk, areas, at)

    bench = Bench(memory, image, FORMS[4], False)
    monkeypatch.setattr(FileDisk, "write", slowly)
    monkeypatch.setattr(block, "PIECE", 512)
    bench.guest.write(DATA, bytes(1024))
    bench.driver.add([bench.header(1, 0), Buffer(DATA, 1024), Buffer(STATUS, 1, True)])
    bench.queue.kick()
    assert begun.wait(60)
    stopped = threading.Event()
    thread = threading.Thread(target=lambda: (bench.device.stop(), stopped.set()))
    thread.start()
    bench.guest.until(bench.stop.is_set)
    assert not stopped.is_set()
    let_through.set()
    thread.join(60)
    assert stopped.is_set()
    # The second piece was not begun any more, and nobody was told that the request was done.
    assert image.read_bytes() == bytes(512) + CONTENT[512:]
    assert not bench.driver.done()
    bench.close()


def test_the_same_disk_serves_again_after_a_reset(memory: VmMemory, image: Path) -> None:
    bench = Bench(memory, image, FORMS[4], False)
    assert bench.write(0, b"1" * 512) == 0
    bench.device.close()
    bench.device.close()
    bench.disk.close()
    again = Bench(memory, image, FORMS[5], False)
    assert again.read(0, 512) == (0, b"1" * 512)
    again.close()
