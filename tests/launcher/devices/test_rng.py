"""Random numbers: buffers filled whole, no two alike, and not faster than the allowance."""

import time
from collections.abc import Iterator
from typing import Any, cast

import pytest
from launcher.devices.driver import Buffer, Driver, FakeGuest

from kvmhost.host.memory import VmMemory
from kvmhost.launcher.devices.device import Wiring
from kvmhost.launcher.devices.ring import Place, StopSign, Virtqueue
from kvmhost.launcher.devices.rng import BURST, MOST, RATE, Allowance, Rng

RING, DATA = 0x80000, 0x10000


class Bench:
    def __init__(self, memory: VmMemory) -> None:
        self.guest = FakeGuest(memory, "3.12")
        self.rng = Rng()
        stop = StopSign()
        place = Place.contiguous(RING, 256)
        self.guest.write(RING, bytes(4096 * place.pages))
        self.queue = Virtqueue(cast(Any, self.guest), "rng queue 0", place, lambda: self.guest.post(1), stop)
        self.driver = Driver(self.guest, place)
        self.rng.start(Wiring(cast(Any, self.guest), self.guest.abi, 0, (self.queue,), stop))

    def ask(self, *buffers: Buffer) -> tuple[int, bytes]:
        self.driver.add(buffers)
        self.queue.kick()
        _, length = self.driver.take()
        return length, b"".join(self.guest.read(buffer.address, buffer.length) for buffer in buffers)


@pytest.fixture
def bench(memory: VmMemory) -> Iterator[Bench]:
    bench = Bench(memory)
    yield bench
    bench.rng.close()


def test_a_buffer_is_filled_whole_each_time_anew(bench: Bench) -> None:
    found = {bench.ask(Buffer(DATA, 64, write=True)) for _ in range(20)}
    assert {length for length, _ in found} == {64}
    assert len(found) == 20
    bench.guest.until(lambda: len(bench.guest.irqs) == 20)


def test_several_parts_are_one_buffer(bench: Bench) -> None:
    length, data = bench.ask(Buffer(DATA, 40, write=True), Buffer(DATA + 64, 24, write=True))
    assert length == 64
    assert data[:40].strip(b"\0") and data[40:].strip(b"\0")


def test_of_a_large_buffer_only_so_much(bench: Bench) -> None:
    length, data = bench.ask(Buffer(DATA, 3 * MOST, write=True))
    assert length == MOST
    assert data[MOST:] == bytes(2 * MOST)


def test_a_buffer_without_room_goes_back(bench: Bench) -> None:
    assert bench.ask(Buffer(DATA, 64))[0] == 0


def test_an_empty_store_is_waited_for_but_not_against_a_stop(bench: Bench) -> None:
    bench.rng.allowance.wait_for(BURST + 3600 * RATE)  # an hour's worth of debts
    bench.driver.add([Buffer(DATA, 64, write=True)])
    bench.queue.kick()
    began = time.monotonic()
    bench.rng.close()
    assert time.monotonic() - began < 600
    assert not bench.driver.done()


def test_the_allowance_over_time() -> None:
    now = 0.0
    allowance = Allowance(rate=100, burst=50, clock=lambda: now)
    assert allowance.wait_for(50) == 0
    assert allowance.wait_for(10) == pytest.approx(0.1)
    now = 0.1
    assert allowance.wait_for(0) == 0
    now = 1000.0
    assert allowance.wait_for(50) == 0
    assert allowance.wait_for(1) == pytest.approx(0.01)
