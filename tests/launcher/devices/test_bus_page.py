"""The descriptor page, driven as the drivers of each generation do."""

import struct
from dataclasses import dataclass
from typing import Any, cast

import pytest
from launcher.devices.driver import Buffer, Driver, FakeGuest
from launcher.devices.mirror import Mirror

from kvmhost.host.memory import VmMemory
from kvmhost.launcher.devices.bus import attach, device_bytes
from kvmhost.launcher.devices.ring import Place
from kvmhost.launcher.errors import DeviceError

RELEASES = ("2.6.24", "2.6.25", "2.6.26", "2.6.32", "3.2", "3.12")
ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED = 1, 2, 4, 0x80


@dataclass
class Found:
    """What a scan of the page finds: offsets are Guest-physical."""

    address: int
    virtio_id: int
    queues: list[tuple[int, int, int]]
    status: int
    features: tuple[int, int]
    config: tuple[int, bytes]


def scan(guest: FakeGuest) -> list[Found]:
    """Read the page as a kernel of this release does (abi 10.2)."""
    found = []
    at = page = guest.state.mem_bytes
    while guest.read(at, 1) != b"\0":
        one = _scan_list(guest, at) if guest.abi.name == "2.6.24" else _scan_arrays(guest, at)
        found.append(one[0])
        at = one[1]
    assert at < page + 4096
    return found


def _scan_list(guest: FakeGuest, at: int) -> tuple[Found, int]:
    kind, size, status = guest.read(at, 3)
    assert status == 0
    end, place = at + 3 + size, at + 3
    queues, config = [], (0, b"")
    while place < end:
        what, length = guest.read(place, 2)
        data = guest.read(place + 2, length)
        if what == 2:
            queues.append(struct.unpack("<HHI", data))
        else:
            config = (what, data)
        place += 2 + length
    assert place == end
    return Found(at, kind, cast(Any, queues), at + 2, (0, 0), config), end


def _scan_arrays(guest: FakeGuest, at: int) -> tuple[Found, int]:
    kind, count, features, config, status = guest.read(at, 5)
    assert status == 0
    place = at + 5
    queues = [struct.unpack("<HHI", guest.read(place + 8 * index, 8)) for index in range(count)]
    place += 8 * count
    taken = place + features
    start = taken + features
    found = Found(at, kind, cast(Any, queues), at + 4, (place, features), (start, guest.read(start, config)))
    return found, start + config


class PageDriver:
    """A driver that found its device."""

    def __init__(self, guest: FakeGuest, found: Found) -> None:
        self.guest, self.found = guest, found
        self.told = guest.abi.first >= (2, 6, 26)
        self.rings = [
            Driver(guest, Place.contiguous(frame * 4096, entries)) for entries, _, frame in found.queues
        ]

    def status(self, value: int, tell: bool = True) -> None:
        self.guest.write(self.found.status, bytes([value]))
        if tell and self.told:
            assert self.guest.bus.notify(self.found.address)

    def kick(self, index: int) -> None:
        assert self.guest.bus.notify(self.rings[index].place.descriptors)

    def say(self, text: bytes, index: int = 0) -> bytes:
        """One request to the mirror, from kick to interrupt."""
        ring, irq = self.rings[index], self.found.queues[index][1]
        before = self.guest.irqs.count(irq)
        self.guest.write(0x1000, text)
        self.guest.write(0x2000, bytes(64))
        head = ring.add([Buffer(0x1000, len(text)), Buffer(0x2000, 64, True)])
        if ring.wants_kick:
            self.kick(index)
        assert ring.take() == (head, len(text))
        self.guest.until(lambda: self.guest.irqs.count(irq) > before)
        return self.guest.read(0x2000, len(text))


def make(memory: VmMemory, release: str, *devices: Mirror) -> tuple[FakeGuest, list[PageDriver]]:
    guest = FakeGuest(memory, release)
    assert guest.state.limit_bytes - guest.state.mem_bytes == device_bytes(guest.abi)
    attach(cast(Any, guest), devices)
    return guest, [PageDriver(guest, found) for found in scan(guest)]


@pytest.mark.parametrize("release", RELEASES)
def test_what_is_on_the_page(memory: VmMemory, release: str) -> None:
    console = Mirror(3, label="console")
    disk = Mirror(2, bits=1 << 9 | 1 << 2, config=b"12345678")
    net = Mirror(1, bits=1 << 28 | 1 << 5, config=b"\x02\0\0\0\0\x01")
    guest, drivers = make(memory, release, console, disk, net)
    assert [driver.found.virtio_id for driver in drivers] == [2, 1, 3]
    entries = 128 if release == "2.6.24" else 256
    queues = [queue for driver in drivers for queue in driver.found.queues]
    assert [queue[:2] for queue in queues] == [(entries, irq) for irq in range(1, 7)]
    pages = 2 if release == "2.6.24" else 3
    frames = [queue[2] for queue in queues]
    assert frames == [guest.state.mem_bytes // 4096 + 1 + pages * at for at in range(6)]
    if release == "2.6.24":
        assert drivers[0].found.config == (0x41, b"12345678")
    else:
        assert drivers[0].found.config[1] == b"12345678"
        offered = [guest.read(*driver.found.features) for driver in drivers]
        assert offered == ([b"", b"", b""] if release == "2.6.25" else [b"\4\2", b"\x20\0\0\x10", b""])
    guest.bus.close()
    assert (disk.closes, net.closes, console.closes) == (1, 1, 1)


@pytest.mark.parametrize("release", RELEASES)
def test_a_device_from_reset_to_reset_and_again(memory: VmMemory, release: str) -> None:
    device = Mirror(bits=0x0205)
    guest, (driver,) = make(memory, release, device)
    for _ in range(3 if driver.told else 1):
        driver.status(0)
        driver = PageDriver(guest, driver.found)
        driver.status(ACKNOWLEDGE)
        driver.status(ACKNOWLEDGE | DRIVER)
        if driver.told:
            # More than was offered, which is not to be believed.
            guest.write(driver.found.features[0] + 2, b"\x01\xff")
        assert not device.threads
        # Before DRIVER_OK, as drivers do that read a disk while they probe it.
        assert driver.say(b"early") == b"ylrae"
        driver.status(ACKNOWLEDGE | DRIVER | DRIVER_OK, tell=release == "2.6.32")
        assert driver.say(b"hello", 1) == b"olleh"
        assert [driver.say(bytes([number])) for number in range(200)] == [bytes([n]) for n in range(200)]
    if driver.told:
        assert device.accepted == [0x0201 & 0x0205] * 3
        driver.status(0)
        assert not device.threads
        assert guest.read(driver.found.features[0] + 2, 2) == b"\0\0"
        for ring in driver.rings:
            assert guest.read(ring.place.descriptors, 4096 * 3) == bytes(4096 * 3)
    guest.bus.close()
    guest.bus.close()
    assert guest.ended == []


def test_driver_ok_starts_a_device_without_any_kick(memory: VmMemory) -> None:
    device = Mirror()
    guest, (driver,) = make(memory, "2.6.32", device)
    driver.status(0)
    driver.status(7)
    driver.status(7)
    assert len(device.accepted) == 1
    guest.until(lambda: all(ring.wants_kick for ring in driver.rings))
    driver.status(FAILED | 7)
    assert not device.threads
    guest.bus.close()


def test_any_page_of_a_ring_is_the_ring(memory: VmMemory) -> None:
    guest, (driver,) = make(memory, "2.6.24", Mirror())
    ring = driver.rings[0]
    head = ring.add([Buffer(0x1000, 1), Buffer(0x2000, 1, True)])
    assert guest.bus.notify(ring.place.used + 12)
    assert ring.take() == (head, 1)
    guest.bus.close()


def test_other_addresses_are_texts(memory: VmMemory) -> None:
    guest, (driver,) = make(memory, "3.12", Mirror())
    for address in (0, 0x5000, driver.found.address + 1, guest.state.limit_bytes, 0xFFFFFFFF):
        assert not guest.bus.notify(address)
    guest.bus.close()


def test_2_6_24_has_no_status_to_tell(memory: VmMemory) -> None:
    guest, (driver,) = make(memory, "2.6.24", Mirror())
    assert not guest.bus.notify(driver.found.address)
    guest.bus.close()


def test_no_ports_and_no_registers(memory: VmMemory) -> None:
    guest, _ = make(memory, "3.12", Mirror())
    assert guest.bus.read_port(0xCF8, 4) == 0xFFFFFFFF
    guest.bus.write_port(0xCF8, 4, 0x80000000)
    assert guest.bus.read_mmio(guest.state.mem_bytes, 4) is None
    assert not guest.bus.write_mmio(guest.state.mem_bytes, 4, 0)
    guest.bus.close()


@pytest.mark.parametrize("release", ["2.6.24", "2.6.27", "3.12"])
def test_the_keyboard_controller_takes_commands(memory: VmMemory, release: str) -> None:
    """Bit 1 of its status says that it is busy; a kernel that restarts by it asks 65,536 times before it
    gives that up, each time by a trap."""
    guest, _ = make(memory, release, Mirror())
    assert guest.bus.read_port(0x64, 1) & 0xFF == 1
    guest.bus.close()


def test_a_new_configuration_is_there_for_who_reads_next(memory: VmMemory) -> None:
    device = Mirror(config=b"\x50\0\x19\0")
    guest, (driver,) = make(memory, "3.12", device)
    device.bytes_of_config = b"\x84\0\x2b\0"
    device.config_changed()
    assert guest.read(driver.found.config[0], 4) == b"\x84\0\x2b\0"
    assert guest.irqs == []
    guest.bus.close()
    device.bytes_of_config = b"none"
    device.config_changed()
    assert guest.read(driver.found.config[0], 4) == b"\x84\0\x2b\0"


def test_a_failing_device_ends_its_guest(memory: VmMemory) -> None:
    guest, (driver,) = make(memory, "3.12", Mirror(label="mirror on the wall"))
    guest.write(0x1000, b"fail")
    driver.rings[1].add([Buffer(0x1000, 4)])
    driver.kick(1)
    guest.until(lambda: bool(guest.ended))
    assert guest.ended[0][0] == "its mirror on the wall failed: OSError: the mirror is blind"
    guest.bus.close()


@pytest.mark.parametrize(
    ("release", "devices", "cause"),
    [
        ("3.12", [Mirror() for _ in range(8)], "15 interrupts"),
        ("3.12", [Mirror(config=bytes(255)) for _ in range(2)] * 2, None),
        ("3.12", [Mirror(config=bytes(256))], "256 bytes do not fit"),
        ("2.6.24", [Mirror(config=bytes(240))], "do not fit"),
    ],
)
def test_too_much(memory: VmMemory, release: str, devices: list[Mirror], cause: str | None) -> None:
    guest = FakeGuest(memory, release)
    if cause is None:
        attach(cast(Any, guest), devices).close()
        return
    with pytest.raises(DeviceError) as caught:
        attach(cast(Any, guest), devices)
    assert cause in str(caught.value)
    assert guest.bus is None


@pytest.mark.parametrize(("pages", "cause"), [(0, "nothing is left above its RAM"), (4, "3 pages for rings")])
def test_too_little_memory_above_ram(memory: VmMemory, pages: int, cause: str) -> None:
    guest = FakeGuest(memory, "3.12", device_pages=pages)
    with pytest.raises(DeviceError) as caught:
        attach(cast(Any, guest), [Mirror()])
    assert cause in str(caught.value)


def test_one_bus_is_enough(memory: VmMemory) -> None:
    guest, _ = make(memory, "3.12", Mirror())
    with pytest.raises(DeviceError):
        attach(cast(Any, guest), [])
    guest.bus.close()
