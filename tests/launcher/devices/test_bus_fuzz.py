"""Drivers that do anything at all: each bus ends the Guest or goes on, and gives everything back in the end.

2,000 accesses a bus by default; KVMHOST_FUZZ_CASES=100000 asks for more.
"""

import os
import random
import threading
from typing import Any, cast

import pytest
from launcher.devices.driver import FakeGuest
from launcher.devices.mirror import Mirror

from kvmhost.host.errors import GuestBroke
from kvmhost.host.memory import VmMemory
from kvmhost.launcher.devices.bus import attach

CASES = int(os.environ.get("KVMHOST_FUZZ_CASES", "2000"))
# Registers of the common configuration, by their width.
REGISTERS = {
    1: (20, 21, 58),
    2: (16, 18, 22, 24, 26, 28, 30, 56),
    4: (0, 4, 8, 12, 32, 36, 40, 44, 48, 52, 60),
}
LIFE = (0, 1, 3, 11, 15)


class Wild:
    """Random accesses, most of them near to what a driver does."""

    def __init__(self, guest: FakeGuest, seed: int) -> None:
        self.guest, self.rng = guest, random.Random(seed)

    def value(self, width: int) -> int:
        rng = self.rng
        number = rng.choice((0, 1, 2, 3, 11, 15, 0x80, 256, 0x20000, 0xFFFFFFFF, rng.getrandbits(32)))
        return number & (1 << 8 * width) - 1

    def width(self) -> int:
        return self.rng.choice((1, 2, 4))

    def port(self) -> None:
        rng, bus, width = self.rng, self.guest.bus, self.width()
        port = rng.choice((0xCF8, 0xCFC, 0xCFC, rng.randrange(0xCF0, 0xD08), rng.randrange(0x10000)))
        if rng.random() < 0.5:
            assert bus.read_port(port, width) >= 0
        elif port == 0xCF8:
            device, register = rng.randrange(4), rng.randrange(0xA0)
            bus.write_port(0xCF8, 4, 0x80000000 | device << 11 | register)
        else:
            bus.write_port(port, width, self.value(width))

    def memory(self) -> None:
        rng, bus = self.rng, self.guest.bus
        width = self.width()
        device = rng.choice(bus.devices)
        offset = rng.choice(REGISTERS[width]) if rng.random() < 0.9 else rng.randrange(-8, 140)
        address = device.config.base + offset
        if rng.random() < 0.4:
            found = bus.read_mmio(address, width)
            assert found is None or 0 <= found < 1 << 8 * width
        else:
            bus.write_mmio(address, width, self.value(width))

    def step_of_life(self) -> None:
        """The status that a good driver would write next, with all queues enabled if it is time."""
        device = self.rng.choice(self.guest.bus.devices)
        base, bus = device.config.base, self.guest.bus
        status = device.common.status & 0xF
        following = LIFE[(LIFE.index(status) + 1) % len(LIFE)] if status in LIFE else 0
        if following == 11:
            bus.write_mmio(base + 8, 4, 1)
            bus.write_mmio(base + 12, 4, 1)
        if following == 15:
            for index in range(2):
                bus.write_mmio(base + 22, 2, index)
                if not bus.read_mmio(base + 28, 2):
                    bus.write_mmio(base + 28, 2, 1)
        bus.write_mmio(base + 20, 1, following)

    def page(self) -> None:
        """A byte of the descriptor page or of a ring, then word of it."""
        rng, guest = self.rng, self.guest
        page = guest.state.mem_bytes
        place = page + (rng.randrange(64) if rng.random() < 0.5 else 4096 + rng.randrange(13 * 4096))
        guest.write(place, bytes([rng.choice((0, 1, 3, 7, 0x83, rng.randrange(256)))]))
        known = rng.choice(guest.bus.entries)
        where = rng.choice((known.address, known.lines[rng.randrange(2)].place.descriptors, place))
        assert guest.bus.notify(where) in (True, False)


def survive(memory: VmMemory, release: str, names: tuple[str, ...]) -> None:
    before = threading.active_count()
    broke = went_on = started = 0
    seed = 0
    while broke + went_on < CASES:
        seed += 1
        guest = FakeGuest(memory, release)
        devices = [Mirror(2, config=bytes(12)), Mirror(4)]
        attach(cast(Any, guest), devices)
        wild = Wild(guest, seed)
        tame = wild.rng.choice((0, 0.5, 0.95))
        try:
            for _ in range(100):
                getattr(wild, names[-1] if wild.rng.random() < tame else wild.rng.choice(names))()
                went_on += 1
        except GuestBroke as end:
            assert end.reason
            broke += 1
        started += sum(len(device.accepted) for device in devices)
        guest.bus.close()
        assert all("failed" not in reason for reason, _ in guest.ended)
        memory.release(0x400000, 0x200000 + 4096)
    # A Guest was ended now and then, and devices were really started.
    assert started > CASES // 200
    assert broke or "page" in names
    assert threading.active_count() == before


def test_anything_on_pci(memory: VmMemory) -> None:
    survive(memory, "4.1", ("port", "memory", "step_of_life"))


@pytest.mark.parametrize("release", ["2.6.24", "2.6.32", "3.12"])
def test_anything_on_the_page(memory: VmMemory, release: str) -> None:
    survive(memory, release, ("page",))
