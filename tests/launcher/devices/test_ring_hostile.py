"""Rings that break the rules: each rule once, then anything at all, with somebody else writing meanwhile."""

import os
import random
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launcher.devices.driver import BASE, INDIRECT, MIB, NEXT, WRITE, Buffer, Driver, FakeGuest

from kvmhost.host.memory import VmMemory
from kvmhost.launcher.devices.ring import Chain, Place, RingBroken, StopSign, Virtqueue

ENTRIES = 16
PLACE = Place.contiguous(0x80000, ENTRIES)
TABLE = 0x70000
LIMIT = MIB + 256 * 4096
# Of each fuzz test, from a fixed seed.
CASES = int(os.environ.get("KVMHOST_FUZZ_CASES", "2000"))


@pytest.fixture
def guest(memory: VmMemory) -> FakeGuest:
    return FakeGuest(memory)


@pytest.fixture
def stop() -> Iterator[StopSign]:
    sign = StopSign()
    yield sign
    sign.close()


def queue_of(guest: FakeGuest, stop: StopSign, place: Place = PLACE, indirect: bool = True) -> Virtqueue:
    return Virtqueue(cast(Any, guest), "disk queue 0", place, lambda: guest.post(1), stop, indirect)


def loop_of_two(driver: Driver) -> None:
    driver.descriptor(0, 0x1000, 1, NEXT, 1)
    driver.descriptor(1, 0x1000, 1, NEXT, 0)
    driver.offer(0)


def itself(driver: Driver) -> None:
    driver.descriptor(5, 0x1000, 1, NEXT, 5)
    driver.offer(5)


def one(address: int, length: int, flags: int = 0, following: int = 0) -> Callable[[Driver], None]:
    def act(driver: Driver) -> None:
        driver.descriptor(0, address, length, flags, following)
        driver.offer(0)

    return act


def table(*entries: tuple[int, int, int, int], length: int | None = None) -> Callable[[Driver], None]:
    """An indirect table of (address, length, flags, next)."""

    def act(driver: Driver) -> None:
        data = b"".join(struct.pack("<QIHH", *entry) for entry in entries)
        driver.guest.write(TABLE, data)
        driver.descriptor(0, TABLE, len(data) if length is None else length, INDIRECT)
        driver.offer(0)

    return act


def readable_last(driver: Driver) -> None:
    driver.add([Buffer(0x1000, 1), Buffer(0x2000, 1, True), Buffer(0x3000, 1)])


def too_many_at_once(driver: Driver) -> None:
    driver.guest.put16(PLACE.available + 2, ENTRIES + 1)


def back_in_time(driver: Driver) -> None:
    driver.guest.put16(PLACE.available + 2, -1)


def longer_than_the_ring(driver: Driver) -> None:
    """A table as long as the ring, behind a direct descriptor."""
    entries = [(0x1000, 1, NEXT, at + 1) for at in range(ENTRIES)]
    table(*entries[:-1], (0x1000, 1, 0, 0))(driver)
    head, length, _, _ = struct.unpack("<QIHH", driver.guest.read(PLACE.descriptors, 16))
    driver.descriptor(1, head, length, INDIRECT)
    driver.descriptor(0, 0x1000, 1, NEXT, 1)


RULES: dict[str, tuple[Callable[[Driver], None], str]] = {
    "a head that is no descriptor": (lambda driver: driver.offer(ENTRIES), "names descriptor 16"),
    "the highest head": (lambda driver: driver.offer(0xFFFF), "names descriptor 65535"),
    "a next that is no descriptor": (one(0x1000, 1, NEXT, ENTRIES), "names descriptor 16"),
    "a loop of one": (itself, "more than 16 descriptors"),
    "a loop of two": (loop_of_two, "more than 16 descriptors"),
    "more chains than entries": (too_many_at_once, "offers 17 chains"),
    "an index that goes back": (back_in_time, "offers 65535 chains"),
    "behind the end of memory": (one(LIMIT, 1), f"memory ends at {LIMIT:#x}"),
    "across the end of memory": (one(LIMIT - 1, 2), "names 0x2 bytes"),
    "the longest": (one(0, 0xFFFFFFFF), "names 0xffffffff bytes"),
    "above 4 GiB": (one(1 << 32, 1), "at 0x100000000"),
    "wrapping 64 bits": (one(0xFFFFFFFFFFFFFFFF, 1), "at 0xffffffffffffffff"),
    "to read behind to write": (readable_last, "something to read behind something to write"),
    "an empty table": (one(TABLE, 0, INDIRECT), "table of 0 bytes"),
    "a table of half an entry": (one(TABLE, 24, INDIRECT), "table of 24 bytes"),
    "a table longer than the ring": (one(TABLE, 16 * 17, INDIRECT), "table of 272 bytes"),
    "a table outside of memory": (one(LIMIT - 16, 32, INDIRECT), f"memory ends at {LIMIT:#x}"),
    "a table that leads on": (one(TABLE, 16, INDIRECT | NEXT, 1), "leads on"),
    "a table in a table": (table((TABLE, 16, INDIRECT, 0)), "inside an indirect table"),
    "a table entry outside of memory": (table((LIMIT, 1, 0, 0)), f"memory ends at {LIMIT:#x}"),
    "a table's next outside": (table((0x1000, 1, NEXT, 1)), "has a loop"),
    "a table's next far outside": (
        table((0x1000, 1, NEXT, 9), (0x1000, 1, 0, 0)),
        "names entry 9 of an indirect table of 2",
    ),
    "a loop in a table": (table((0x1000, 1, NEXT, 0), (0x1000, 1, 0, 0)), "has a loop"),
    "to read behind to write in a table": (
        table((0x1000, 1, WRITE | NEXT, 1), (0x1000, 1, 0, 0)),
        "something to read behind something to write",
    ),
    "a table behind a descriptor": (longer_than_the_ring, "more than 16 descriptors"),
}


@pytest.mark.parametrize("name", RULES)
def test_each_rule(guest: FakeGuest, stop: StopSign, name: str) -> None:
    act, reason = RULES[name]
    queue = queue_of(guest, stop)
    driver = Driver(guest, PLACE)
    act(driver)
    with pytest.raises(RingBroken) as caught:
        queue.pop()
    assert reason in caught.value.reason
    assert caught.value.reason.startswith("its disk queue 0 ")
    queue.close()


def test_tables_only_where_agreed(guest: FakeGuest, stop: StopSign) -> None:
    queue = queue_of(guest, stop, indirect=False)
    table((0x1000, 1, 0, 0))(Driver(guest, PLACE))
    with pytest.raises(RingBroken, match="not agreed upon"):
        queue.pop()
    queue.close()


def test_the_longest_that_may_be(guest: FakeGuest, stop: StopSign) -> None:
    """A chain of all descriptors, and a table as long as the ring."""
    queue, driver = queue_of(guest, stop), Driver(guest, PLACE)
    driver.add([Buffer(0x1000, 1)] * (ENTRIES - 1) + [Buffer(LIMIT - 1, 1, True)])
    chain = queue.pop()
    assert chain is not None
    assert (len(chain.readable), chain.writable) == (ENTRIES - 1, ((LIMIT - 1, 1),))
    queue.push(chain)
    driver.take()
    driver.add([Buffer(0x1000, 0)] * ENTRIES, TABLE)
    chain = queue.pop()
    assert chain is not None
    assert len(chain.readable) == ENTRIES
    assert queue.read(chain) == b""
    queue.close()


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (Place(0, 0x80000, 0x81000, 0x82000), "0 entries"),
        (Place(24, 0x80000, 0x81000, 0x82000), "24 entries"),
        (Place(512, 0x80000, 0x82000, 0x84000), "512 entries"),
        (Place(16, 0x80004, 0x81000, 0x82000), "descriptors at 0x80004"),
        (Place(16, 0x80000, 0x81001, 0x82000), "available ring at 0x81001"),
        (Place(16, 0x80000, 0x81000, 0x82002), "used ring at 0x82002"),
        (Place(16, LIMIT - 240, 0x81000, 0x82000), "memory ends"),
        (Place(16, 0x80000, LIMIT - 34, 0x82000), "memory ends"),
        (Place(16, 0x80000, 0x81000, LIMIT - 128), "memory ends"),
    ],
)
def test_where_no_ring_can_be(guest: FakeGuest, stop: StopSign, place: Place, reason: str) -> None:
    with pytest.raises(RingBroken, match=reason):
        queue_of(guest, stop, place)


# ---- anything at all ---------------------------------------------------------------------


def well_formed(chain: Chain | None, entries: int) -> None:
    """What a device may rely on, whatever the Guest wrote."""
    if chain is None:
        return
    assert 0 <= chain.head < entries
    assert 1 <= len(chain.readable) + len(chain.writable) <= entries
    for address, length in chain.readable + chain.writable:
        assert address >= 0
        assert length >= 0
        assert address + length <= LIMIT


def nasty_word(rng: random.Random) -> int:
    return rng.choice((0, 1, ENTRIES - 1, ENTRIES, 0x7FFF, 0xFFFF, rng.randrange(0x10000)))


def nasty_descriptor(rng: random.Random) -> bytes:
    address = rng.choice(
        (0, 0x1000, TABLE, TABLE + 16, LIMIT - 1, LIMIT, PLACE.descriptors, rng.getrandbits(64))
    )
    length = rng.choice((0, 1, 16, 32, 16 * ENTRIES, 0xFFFFFFFF, rng.getrandbits(12)))
    flags = rng.choice((0, NEXT, NEXT, WRITE, NEXT | WRITE, INDIRECT, INDIRECT | NEXT, rng.randrange(16)))
    following = rng.choice((rng.randrange(ENTRIES), rng.randrange(ENTRIES), nasty_word(rng)))
    return struct.pack("<QIHH", address, length, flags, following)


def scribble(guest: FakeGuest, rng: random.Random) -> None:
    """One change to something the queue reads."""
    what = rng.randrange(10)
    if what < 4:
        guest.write(PLACE.descriptors + 16 * rng.randrange(ENTRIES), nasty_descriptor(rng))
    elif what < 7:
        guest.write(TABLE + 16 * rng.randrange(2 * ENTRIES), nasty_descriptor(rng))
    elif what < 9:
        guest.put16(PLACE.available + 4 + 2 * rng.randrange(ENTRIES), nasty_word(rng))
    else:
        guest.put16(PLACE.available, nasty_word(rng))


def test_any_ring_gives_a_checked_chain_or_breaks(guest: FakeGuest, stop: StopSign) -> None:
    rng = random.Random(1)
    ends = {True: 0, False: 0}
    for _ in range(CASES):
        guest.write(PLACE.used, bytes(4 + 8 * ENTRIES))
        for _ in range(30):
            scribble(guest, rng)
        guest.put16(PLACE.available + 2, rng.choice((1, 2, ENTRIES, ENTRIES + 1)))
        queue = queue_of(guest, stop, indirect=rng.random() < 0.8)
        broke = False
        try:
            while (chain := queue.pop()) is not None:
                well_formed(chain, ENTRIES)
        except RingBroken:
            broke = True
        ends[broke] += 1
        queue.close()
    # Both ways out were really taken.
    assert min(ends.values()) > CASES // 50


def test_a_ring_that_is_rewritten_meanwhile(guest: FakeGuest, stop: StopSign) -> None:
    """One thread serves as devices do; another one changes all it can reach, as fast as it can."""
    over = threading.Event()

    def vandal() -> None:
        rng = random.Random(2)
        while not over.is_set():
            scribble(guest, rng)

    thread = threading.Thread(target=vandal)
    thread.start()
    beyond = guest.memory.read(BASE + LIMIT, 4096)
    ends = {"served": 0, "broken": 0}
    try:
        rng = random.Random(3)
        for number in range(CASES):
            queue = queue_of(guest, stop)
            for _ in range(30):
                scribble(guest, rng)
            guest.put16(PLACE.available + 2, 1 + number % ENTRIES)
            try:
                while (chain := queue.pop()) is not None:
                    well_formed(chain, ENTRIES)
                    ends["served"] += 1
                    # Lengths may be gigantic together, as long as each part exists: look at the ends only.
                    pieces = [bytes(view[-8:]) for view in queue.iov(chain.readable)]
                    queue.push(chain, queue.write(chain, b"".join(pieces)))
            except RingBroken:
                ends["broken"] += 1
            finally:
                queue.close()
    finally:
        over.set()
        thread.join()
    assert min(ends.values()) > 0
    assert guest.memory.read(BASE + LIMIT, 4096) == beyond


parts = st.lists(
    st.tuples(st.integers(0, LIMIT), st.integers(0, 5000), st.booleans()), min_size=1, max_size=20
)


@settings(deadline=None, max_examples=max(300, CASES // 10))
@given(items=parts, through_table=st.booleans(), data=st.binary(max_size=3000), offset=st.integers(0, 3000))
def test_chains_are_what_the_driver_meant(
    items: list[tuple[int, int, bool]], through_table: bool, data: bytes, offset: int
) -> None:
    """A driver's requests, right and wrong, against what the rules say of them."""
    with VmMemory() as memory:
        guest, stop = FakeGuest(memory), StopSign()
        queue, driver = queue_of(guest, stop), Driver(guest, PLACE)
        try:
            allowed = (
                len(items) <= ENTRIES
                and all(address + length <= LIMIT for address, length, _ in items)
                and sorted(write for _, _, write in items) == [write for _, _, write in items]
            )
            if len(items) > ENTRIES and not through_table:
                return
            driver.add([Buffer(*item) for item in items], TABLE if through_table else None)
            if not allowed:
                with pytest.raises(RingBroken):
                    queue.pop()
                return
            chain = queue.pop()
            assert chain is not None
            assert list(chain.readable) == [item[:2] for item in items if not item[2]]
            assert list(chain.writable) == [item[:2] for item in items if item[2]]
            assert queue.read(chain) == b"".join(guest.read(*part) for part in chain.readable)
            room = max(0, chain.writable_bytes - offset)
            spread = [bytes(view) for view in queue.iov(chain.writable, offset, len(data))]
            assert sum(map(len, spread)) == min(room, len(data))
            assert queue.write(chain, data, offset) == min(room, len(data))
        finally:
            queue.close()
            stop.close()
