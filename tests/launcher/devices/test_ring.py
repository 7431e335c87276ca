"""Rings that keep the rules: what goes in comes out, in every form a driver may choose."""

import struct
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest
from launcher.devices.driver import BASE, Buffer, Driver, FakeGuest

from kvmhost._native import ffi
from kvmhost.host.memory import VmMemory
from kvmhost.launcher.devices.ring import Place, StopSign, Virtqueue

RING = 0x80000


class Bench:
    """A queue and its driver, face to face."""

    def __init__(self, memory: VmMemory, entries: int, indirect: bool = False) -> None:
        self.guest = FakeGuest(memory)
        self.stop = StopSign()
        place = Place.contiguous(RING, entries)
        self.queue = Virtqueue(
            cast(Any, self.guest), "disk queue 0", place, lambda: self.guest.post(3), self.stop, indirect
        )
        self.driver = Driver(self.guest, place)

    def close(self) -> None:
        self.queue.close()
        self.stop.close()


@pytest.fixture(params=(1, 2, 128, 256))
def bench(memory: VmMemory, request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(memory, request.param)
    yield made
    made.close()


@pytest.fixture
def wide(memory: VmMemory) -> Iterator[Bench]:
    made = Bench(memory, 8, indirect=True)
    yield made
    made.close()


def test_layouts_are_those_of_the_header() -> None:
    assert struct.calcsize("<QIHH") == ffi.sizeof("struct virtio_descriptor")
    fields = [(name, field.offset) for name, field in ffi.typeof("struct virtio_descriptor").fields]
    assert fields == [("address", 0), ("length", 8), ("flags", 12), ("next", 14)]
    assert struct.calcsize("<II") == ffi.sizeof("struct virtio_used_entry")


def test_requests_go_round_the_ring_and_past_65536(bench: Bench) -> None:
    for number in range(66000 if bench.queue.num == 256 else 1000):
        head = bench.driver.add([Buffer(0x1000 + number, 4)])
        chain = bench.queue.pop()
        assert chain is not None
        assert (chain.head, chain.readable, chain.writable) == (head, ((0x1000 + number, 4),), ())
        assert bench.queue.pop() is None
        bench.queue.push(chain, number)
        assert bench.driver.take() == (head, number)
    # Where the indices have gone round, "nothing there" is still seen as such.
    assert not bench.queue.wait(0)


def test_a_full_ring_of_requests_at_once(bench: Bench) -> None:
    heads = [bench.driver.add([Buffer(0x1000, 1)]) for _ in range(bench.queue.num)]
    chains = [bench.queue.pop() for _ in heads]
    assert [chain.head for chain in chains if chain] == heads
    assert bench.queue.pop() is None


@pytest.mark.parametrize("table", (None, 0x70008))
def test_reading_and_writing_through_a_chain(wide: Bench, table: int | None) -> None:
    wide.guest.write(0x1000, b"hello ")
    wide.guest.write(0x3000, b"world")
    parts = [Buffer(0x1000, 6), Buffer(0x3000, 5), Buffer(0x5000, 3, True), Buffer(0x6000, 4, True)]
    wide.driver.add(parts, table)
    chain = wide.queue.pop()
    assert chain is not None
    assert (chain.readable_bytes, chain.writable_bytes) == (11, 7)
    assert wide.queue.read(chain) == b"hello world"
    assert wide.queue.write(chain, b"abcdefgh") == 7
    assert wide.guest.read(0x5000, 4) + wide.guest.read(0x6000, 5) == b"abc\0defg\0"
    assert wide.queue.write(chain, b"XY", 2) == 2
    assert wide.guest.read(0x5000, 3) + wide.guest.read(0x6000, 4) == b"abXYefg"
    assert wide.queue.write(chain, b"Z", 7) == 0
    views = wide.queue.iov(chain.writable, 1, 5)
    assert [bytes(view) for view in views] == [b"bX", b"Yef"]
    views[1][0] = ord("!")
    assert wide.guest.read(0x6000, 4) == b"!efg"


def test_the_last_byte_of_memory_belongs_to_the_guest(wide: Bench) -> None:
    end = wide.guest.state.limit_bytes
    wide.driver.add([Buffer(end - 1, 1, True)])
    chain = wide.queue.pop()
    assert chain is not None
    assert wide.queue.write(chain, b"!") == 1
    assert wide.guest.memory.read(BASE + end - 1, 2) == b"!\0"


@pytest.mark.parametrize("written", [0xFFFFFFFF, 1 << 32, (1 << 40) + 1])
def test_a_request_may_have_more_bytes_than_its_answer_can_tell(wide: Bench, written: int) -> None:
    """Its parts may all be the same memory; the field has 32 bits, and a Guest that fools itself lives."""
    head = wide.driver.add([Buffer(0x1000, 16)])
    chain = wide.queue.pop()
    assert chain is not None
    wide.queue.push(chain, written)
    assert wide.driver.take() == (head, 0xFFFFFFFF)


def test_interrupts_are_raised_unless_nobody_wants_them(wide: Bench) -> None:
    wide.queue.interrupt()
    assert wide.guest.irqs == [3]
    wide.driver.no_interrupts()
    wide.queue.interrupt()
    assert wide.guest.irqs == [3]
    wide.driver.no_interrupts(False)
    wide.queue.interrupt()
    assert wide.guest.irqs == [3, 3]


def test_a_kick_wakes_and_is_wanted_only_asleep(wide: Bench) -> None:
    answers: list[bool] = []
    assert not wide.driver.wants_kick
    thread = threading.Thread(target=lambda: answers.append(wide.queue.wait()))
    thread.start()
    wide.guest.until(lambda: wide.driver.wants_kick)
    assert answers == []
    wide.driver.add([Buffer(0x1000, 1)])
    wide.queue.kick()
    thread.join()
    assert answers == [True]
    assert not wide.driver.wants_kick
    # What is there already needs no kick.
    assert wide.queue.wait()


def test_waiting_ends_by_time_and_by_the_stop_sign(wide: Bench) -> None:
    assert not wide.queue.wait(0)
    assert not wide.driver.wants_kick
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(wide.queue.wait()))
    thread.start()
    wide.guest.until(lambda: wide.driver.wants_kick)
    wide.stop.set()
    thread.join()
    assert answers == [False]
    wide.driver.add([Buffer(0x1000, 1)])
    assert not wide.queue.wait()
    assert not wide.queue.wait_for(0, timeout=0)


def test_after_close_nothing_reaches_memory(memory: VmMemory) -> None:
    bench = Bench(memory, 8)
    bench.driver.add([Buffer(0x1000, 1)])
    bench.close()
    with pytest.raises(ValueError):
        bench.queue.pop()
