"""virtio 1.0 over PCI, driven port by port and register by register as a kernel of 4.x does it."""

import struct
import threading
from typing import Any, cast

import pytest
from launcher.devices.driver import Buffer, Driver, FakeGuest
from launcher.devices.mirror import Mirror

from kvmhost.host.errors import GuestBroke
from kvmhost.host.memory import VmMemory
from kvmhost.launcher.devices.bus import attach
from kvmhost.launcher.devices.ring import Place, RingBroken
from kvmhost.launcher.errors import DeviceError

COMMON, NOTIFY, ISR, DEVICE, ACCESS = 1, 2, 3, 4, 5
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, FAILED = 1, 2, 4, 8, 0x80
CONSOLE_CONFIG = struct.pack("<HHII", 80, 25, 0, 0)


class Pci:
    """Configuration mechanism 1 and memory, as a driver uses them."""

    def __init__(self, guest: FakeGuest) -> None:
        self.guest = guest

    def outl(self, port: int, value: int, width: int = 4) -> None:
        self.guest.bus.write_port(port, width, value)

    def inl(self, port: int, width: int = 4) -> int:
        """What ends up in the register: the host room masks."""
        return int(self.guest.bus.read_port(port, width)) & (1 << 8 * width) - 1

    def select(self, device: int, register: int, bus: int = 0, function: int = 0) -> None:
        self.outl(0xCF8, 0x80000000 | bus << 16 | device << 11 | function << 8 | register & 0xFC)

    def get(self, device: int, register: int, width: int = 4) -> int:
        self.select(device, register)
        return self.inl(0xCFC + (register & 3), width)

    def put(self, device: int, register: int, value: int, width: int = 4) -> None:
        self.select(device, register)
        self.outl(0xCFC + (register & 3), value, width)

    def load(self, address: int, width: int) -> int:
        value = self.guest.bus.read_mmio(address, width)
        assert value is not None
        return int(value)

    def store(self, address: int, width: int, value: int) -> None:
        assert self.guest.bus.write_mmio(address, width, value)


class PciDriver:
    """A driver of one device: finds its registers by the capabilities and trusts nothing else."""

    def __init__(self, guest: FakeGuest, number: int) -> None:
        self.guest, self.pci, self.number = guest, Pci(guest), number
        self.bar = self.pci.get(number, 0x10)
        self.irq = self.pci.get(number, 0x3C, 1)
        self.caps: dict[int, tuple[int, int, int]] = {}
        at = self.pci.get(number, 0x34, 1)
        while at:
            assert self.pci.get(number, at, 1) == 9
            kind = self.pci.get(number, at + 3, 1)
            assert self.pci.get(number, at + 4, 1) == 0
            self.caps[kind] = (at, self.pci.get(number, at + 8), self.pci.get(number, at + 12))
            at = self.pci.get(number, at + 1, 1)
        self.rings: list[Driver] = []

    def get(self, offset: int, width: int) -> int:
        return self.pci.load(self.bar + offset, width)

    def put(self, offset: int, width: int, value: int) -> None:
        self.pci.store(self.bar + offset, width, value)

    def features(self) -> int:
        self.put(0, 4, 0)
        low = self.get(4, 4)
        self.put(0, 4, 1)
        return low | self.get(4, 4) << 32

    def accept(self, bits: int) -> None:
        for half in (0, 1):
            self.put(8, 4, half)
            self.put(12, 4, bits >> 32 * half & 0xFFFFFFFF)

    def agree(self, bits: int | None = None) -> bool:
        """From reset to FEATURES_OK; True if the device agrees."""
        self.put(20, 1, 0)
        assert self.get(20, 1) == 0
        self.put(20, 1, ACKNOWLEDGE)
        self.put(20, 1, ACKNOWLEDGE | DRIVER)
        self.accept(self.features() if bits is None else bits)
        self.put(20, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK)
        return bool(self.get(20, 1) & FEATURES_OK)

    def set_up(self, index: int, place: Place) -> None:
        self.put(22, 2, index)
        assert self.get(24, 2) == 256
        assert self.get(28, 2) == 0
        assert self.get(30, 2) == 0
        self.put(24, 2, place.entries)
        for at, address in ((32, place.descriptors), (40, place.available), (48, place.used)):
            self.put(at, 4, address & 0xFFFFFFFF)
            self.put(at + 4, 4, address >> 32)

    def enable(self, index: int) -> None:
        self.put(22, 2, index)
        self.put(28, 2, 1)
        assert self.get(28, 2) == 1

    def bring_up(self, entries: int = 256) -> None:
        """Everything up to DRIVER_OK, rings as 4.1 lays them out: the used part on a cache line."""
        assert self.agree()
        assert self.get(18, 2) == 2
        self.rings = []
        for index in range(2):
            base = 0x20000 + 0x10000 * self.number + 0x4000 * index
            used = -(-(base + 18 * entries + 6) // 64) * 64
            self.guest.write(base, bytes(0x4000))
            place = Place(entries, base, base + 16 * entries, used)
            self.set_up(index, place)
            self.rings.append(Driver(self.guest, place))
        for index in range(2):
            self.enable(index)
        self.put(20, 1, 0xF)
        assert self.get(20, 1) == 0xF

    def say(self, text: bytes, index: int = 0) -> bytes:
        ring = self.rings[index]
        before = self.guest.irqs.count(self.irq)
        self.guest.write(0x1000, text)
        head = ring.add([Buffer(0x1000, len(text)), Buffer(0x2000, 64, True)])
        if ring.wants_kick:
            self.put(56, 2, index)
        assert ring.take() == (head, len(text))
        self.guest.until(lambda: self.guest.irqs.count(self.irq) > before)
        assert self.get(58, 1) == 1
        assert self.get(58, 1) == 0
        return self.guest.read(0x2000, len(text))


@pytest.fixture
def guest(memory: VmMemory) -> FakeGuest:
    return FakeGuest(memory, "4.1")


def make(guest: FakeGuest, *devices: Mirror) -> list[PciDriver]:
    attach(cast(Any, guest), devices)
    return [PciDriver(guest, number) for number in range(1, len(devices) + 1)]


def test_the_mechanism_is_found_as_a_kernel_looks_for_it(guest: FakeGuest) -> None:
    make(guest)
    pci = Pci(guest)
    pci.outl(0xCFB, 1, 1)
    saved = pci.inl(0xCF8)
    pci.outl(0xCF8, 0x80000000)
    assert pci.inl(0xCF8) == 0x80000000
    assert [pci.inl(0xCF8 + part, 1) for part in range(4)] == [0, 0, 0, 0x80]
    assert pci.get(0, 0x0A, 2) == 0x0600
    assert pci.get(0, 0) == 0
    pci.outl(0xCF8, saved)
    assert pci.inl(0xCF8) == saved == 0x01000000
    assert pci.inl(0x64, 1) == 1
    assert (pci.inl(0x60, 1), pci.inl(0x71, 1), pci.inl(0x3FD, 1), pci.inl(0xCF7, 1)) == (255,) * 4
    pci.outl(0x80, 0, 1)
    pci.outl(0xCF8, 0xFF0007FF)
    assert pci.inl(0xCF8) == 0xFF0007FF
    pci.outl(0xCFA, 0x1234, 2)
    assert pci.inl(0xCF8) == 0x123407FF
    assert pci.inl(0xCF9, 2) == 0x3407
    guest.bus.close()


def test_what_does_not_exist_reads_as_all_ones(guest: FakeGuest) -> None:
    make(guest, Mirror())
    pci = Pci(guest)
    assert pci.get(1, 0) == 0x10421AF4
    assert [pci.get(device, 0) for device in range(2, 32)] == [0xFFFFFFFF] * 30
    for device in (0, 1):
        pci.select(device, 0, bus=1)
        assert pci.inl(0xCFC) == 0xFFFFFFFF
        pci.select(device, 0, function=1)
        assert pci.inl(0xCFC, 2) == 0xFFFF
        assert pci.get(device, 0x98) == 0xFFFFFFFF
        assert pci.get(device, 0xFC, 1) == 0xFF
        assert pci.get(device, 0x94) != 0xFFFFFFFF or device
    pci.outl(0xCF8, 1 << 11)
    assert pci.inl(0xCFC) == 0xFFFFFFFF
    pci.outl(0xCFC, 0x12345678)
    # Bits 0, 1 and 24 to 30 of the address say nothing.
    pci.outl(0xCF8, 0xFF000803)
    assert pci.inl(0xCFC) == 0x10421AF4
    assert pci.inl(0xCFD) == 0xFFFFFFFF
    guest.bus.close()


def test_devices_and_their_headers(guest: FakeGuest) -> None:
    devices = [Mirror(1, config=bytes(10)), Mirror(4), Mirror(2, config=bytes(36))]
    make(guest, *devices, Mirror(3, config=CONSOLE_CONFIG))
    pci = Pci(guest)
    assert [pci.get(number, 0) >> 16 for number in range(1, 5)] == [0x1043, 0x1041, 0x1044, 0x1042]
    assert [pci.get(number, 0) & 0xFFFF for number in range(1, 5)] == [0x1AF4] * 4
    classes = [pci.get(number, 0x08) for number in range(1, 5)]
    assert classes == [0x07000001, 0x02000001, 0xFF000001, 0x01800001]
    for number in range(1, 5):
        assert pci.get(number, 0x04) == 0x00100000
        assert pci.get(number, 0x0E, 1) == 0
        assert pci.get(number, 0x2C) == 0x00400000
        assert pci.get(number, 0x3C) == number
    sizes = []
    end = guest.state.limit_bytes + 256 * 4096
    for number in range(1, 5):
        before = pci.get(number, 0x10)
        pci.put(number, 0x10, 0xFFFFFFFF)
        size = (~pci.get(number, 0x10) & 0xFFFFFFFF) + 1
        pci.put(number, 0x10, before)
        assert pci.get(number, 0x10) == before
        assert before % size == 0
        assert before >= end
        end = before + size
        sizes.append(size)
    assert sizes == [128, 128, 64, 128]
    assert end <= guest.state.mmio_end < end + 4096
    assert guest.state.mmio_end % 4096 == 0
    guest.bus.close()


def test_what_cannot_be_written(guest: FakeGuest) -> None:
    make(guest, Mirror(3, config=CONSOLE_CONFIG))
    pci = Pci(guest)
    before = [pci.get(1, at) for at in range(0, 0x94, 4)]
    for at in range(0, 0x94, 4):
        if at not in (0x10, 0x88, 0x8C, 0x90):
            pci.put(1, at, 0xFFFFFFFF)
    after = [pci.get(1, at) for at in range(0, 0x94, 4)]
    before[3] |= 0xFFFF  # cache line size and latency timer are storage
    assert after == before
    pci.put(1, 0x0D, 0x40, 1)
    assert pci.get(1, 0x0C) == 0x40FF
    pci.put(1, 0x04, 6, 2)
    assert pci.get(1, 0x04, 2) == 0
    pci.put(1, 0x30, 0xFFFFF800)
    assert pci.get(1, 0x30) == 0
    guest.bus.close()


def test_the_capabilities(guest: FakeGuest) -> None:
    console, rng = make(guest, Mirror(3, config=CONSOLE_CONFIG), Mirror(4))
    assert list(console.caps) == [COMMON, NOTIFY, ISR, ACCESS, DEVICE]
    assert list(rng.caps) == [COMMON, NOTIFY, ISR, ACCESS]
    assert [console.caps[kind][1:] for kind in (COMMON, NOTIFY, ISR, ACCESS, DEVICE)] == [
        (0, 56), (56, 2), (58, 1), (0, 0), (60, 12),
    ]  # fmt: skip
    pci = Pci(guest)
    assert [pci.get(1, console.caps[kind][0] + 2, 1) for kind in (1, 2, 3, 4, 5)] == [16, 20, 16, 16, 20]
    assert pci.get(1, console.caps[NOTIFY][0] + 16) == 0
    guest.bus.close()


def test_the_early_console_writes_through_the_window(guest: FakeGuest) -> None:
    device = Mirror(3, config=CONSOLE_CONFIG)
    (driver,) = make(guest, device)
    at, pci = driver.caps[ACCESS][0], Pci(guest)
    for character in b"Linux\r\n":
        pci.put(1, at + 4, 0, 1)
        pci.put(1, at + 12, 4)
        pci.put(1, at + 8, driver.caps[DEVICE][1] + 8)
        pci.put(1, at + 16, character)
    assert device.written == [(8, bytes([character, 0, 0, 0])) for character in b"Linux\r\n"]
    # The other way: the size, in two halves, and the status.
    pci.put(1, at + 12, 2)
    pci.put(1, at + 8, 62)
    assert pci.get(1, at + 16) & 0xFFFF == 25
    pci.put(1, at + 12, 1)
    pci.put(1, at + 8, 20)
    pci.put(1, at + 16, 1, 1)
    assert driver.get(20, 1) == 1
    assert pci.get(1, at + 16, 1) == 1
    guest.bus.close()


@pytest.mark.parametrize(
    ("bar", "offset", "length"),
    [(1, 0, 4), (0, 128, 4), (0, 126, 4), (0, 0, 3), (0, 0, 0), (0, 61, 2), (0, 0xFFFFFFFC, 4), (0, 0, 8)],
)
def test_a_window_to_nowhere(guest: FakeGuest, bar: int, offset: int, length: int) -> None:
    device = Mirror(3, config=CONSOLE_CONFIG)
    (driver,) = make(guest, device)
    at, pci = driver.caps[ACCESS][0], Pci(guest)
    pci.put(1, at + 4, bar, 1)
    pci.put(1, at + 8, offset)
    pci.put(1, at + 12, length)
    pci.put(1, at + 16, 0)
    assert pci.get(1, at + 16) == 0xFFFFFFFF
    assert device.written == []
    guest.bus.close()


@pytest.mark.parametrize("entries", [256, 128, 1, 2])
def test_a_device_from_reset_to_reset_and_again(guest: FakeGuest, entries: int) -> None:
    device = Mirror(2, bits=1 << 2 | 1 << 28, config=bytes(36))
    (driver,) = make(guest, device)
    for _ in range(3):
        assert driver.features() == 1 << 32 | 1 << 28 | 1 << 2
        driver.bring_up(max(entries, 2))
        assert device.accepted[-1] == 1 << 32 | 1 << 28 | 1 << 2
        assert driver.say(b"hello") == b"olleh"
        assert driver.say(b"again", 1) == b"niaga"
        driver.put(20, 1, 0)
        assert driver.get(20, 1) == 0
        assert not device.threads
        driver.put(22, 2, 1)
        assert (driver.get(24, 2), driver.get(28, 2), driver.get(32, 4)) == (256, 0, 0)
        # A kick for a device that does not run is nothing.
        driver.put(56, 2, 0)
    assert len(device.accepted) == 3
    guest.bus.close()
    guest.bus.close()
    assert guest.ended == []


def test_two_devices_do_not_meet(guest: FakeGuest) -> None:
    first, second = make(guest, Mirror(2), Mirror(2))
    first.bring_up()
    second.bring_up()
    assert second.say(b"two") == b"owt"
    assert 1 not in guest.irqs
    assert first.say(b"one") == b"eno"
    guest.bus.close()


def test_registers_follow_bar_0(guest: FakeGuest) -> None:
    (driver,) = make(guest, Mirror(2))
    old, new = driver.bar, guest.state.limit_bytes + 0x40
    driver.pci.put(1, 0x10, new | 0x3F)
    assert driver.pci.get(1, 0x10) == new
    assert guest.bus.read_mmio(old, 4) is None
    assert not guest.bus.write_mmio(old, 4, 0)
    driver.bar = new
    driver.bring_up()
    assert driver.say(b"moved") == b"devom"
    guest.bus.close()


def test_memory_where_no_device_is(guest: FakeGuest) -> None:
    (driver,) = make(guest, Mirror(2))
    assert guest.bus.read_mmio(driver.bar - 4, 4) is None
    assert guest.bus.read_mmio(driver.bar + 62, 4) is None
    assert guest.bus.read_mmio(driver.bar + 64, 1) is None
    assert not guest.bus.write_mmio(driver.bar + 64, 1, 0)
    assert driver.get(59, 1) == 0
    driver.put(59, 1, 7)
    assert not guest.bus.notify(driver.bar)
    guest.bus.close()


def test_a_new_configuration_is_told_by_the_interrupt(guest: FakeGuest) -> None:
    device = Mirror(3, config=CONSOLE_CONFIG)
    (driver,) = make(guest, device)
    device.config_changed()
    assert (driver.get(58, 1), guest.irqs) == (0, [])
    driver.bring_up()
    generation = driver.get(21, 1)
    device.bytes_of_config = struct.pack("<HHII", 132, 43, 0, 0)
    thread = threading.Thread(target=device.config_changed)
    thread.start()
    thread.join()
    assert guest.irqs == [1]
    assert (driver.get(58, 1), driver.get(58, 1)) == (2, 0)
    assert driver.get(21, 1) != generation
    assert (driver.get(60, 2), driver.get(62, 2), driver.get(60, 4)) == (132, 43, 43 << 16 | 132)
    driver.put(68, 4, ord("!"))
    assert device.written == [(8, b"!\0\0\0")]
    driver.put(20, 1, 0)
    device.config_changed()
    assert guest.irqs == [1]
    guest.bus.close()


def test_features_that_cannot_be_agreed_upon(guest: FakeGuest) -> None:
    (driver,) = make(guest, Mirror(2, bits=4))
    assert not driver.agree(4)  # not virtio 1.0
    assert not driver.agree(1 << 32 | 1 << 3)  # not offered
    driver.put(0, 4, 2)
    assert driver.get(4, 4) == 0
    driver.put(8, 4, 7)
    driver.put(12, 4, 0xFFFFFFFF)
    assert driver.get(12, 4) == 0
    assert driver.agree(1 << 32)
    guest.bus.close()


def test_odd_but_harmless(guest: FakeGuest) -> None:
    device = Mirror(2)
    (driver,) = make(guest, device)
    driver.bring_up()
    driver.put(20, 1, 0xF)
    driver.put(22, 2, 9)
    assert (driver.get(24, 2), driver.get(28, 2), driver.get(32, 4)) == (0, 0, 0)
    driver.put(24, 2, 7)
    driver.put(32, 4, 7)
    driver.put(16, 2, 3)
    driver.put(18, 2, 9)
    driver.put(56, 2, 9)
    assert (driver.get(16, 2), driver.get(18, 2), driver.get(26, 2)) == (0xFFFF, 2, 0xFFFF)
    assert driver.get(18, 4) == 2 | 0xF << 16
    assert driver.get(21, 1) == 0
    assert len(device.accepted) == 1
    driver.put(20, 1, 0x8F)
    assert not device.threads
    assert driver.get(20, 1) == 0x8F
    guest.bus.close()


def ready(driver: PciDriver, **changed: int) -> None:
    """One queue set up, the other not; then DRIVER_OK or what is asked for."""
    assert driver.agree()
    place = {"entries": 256, "descriptors": 0x20000, "available": 0x21000, "used": 0x22000} | changed
    for index in range(2):
        driver.set_up(index, Place(**place))
        driver.enable(index)
    driver.put(20, 1, 0xF)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"entries": 3}, "3 entries"),
        ({"entries": 0}, "0 entries"),
        ({"entries": 512}, "512 entries"),
        ({"descriptors": 0x20008}, "no multiple of 16"),
        ({"available": 0x21001}, "no multiple of 2"),
        ({"used": 0x22002}, "no multiple of 4"),
        ({"descriptors": (1 << 20) - 16}, "memory ends at 0x100000"),
        ({"available": (1 << 20) - 514}, "memory ends at 0x100000"),
        ({"used": (1 << 20) - 2048}, "memory ends at 0x100000"),
        ({"descriptors": 1 << 32 | 0x20000}, "memory ends at 0x100000"),
        ({"used": 1 << 63}, "memory ends at 0x100000"),
    ],
)
def test_queues_that_cannot_be(guest: FakeGuest, changed: dict[str, int], reason: str) -> None:
    device = Mirror(2)
    (driver,) = make(guest, device)
    with pytest.raises(GuestBroke) as caught:
        ready(driver, **changed)
    assert reason in caught.value.reason
    assert isinstance(caught.value, RingBroken) == ("entries" not in changed)
    assert not device.threads
    guest.bus.close()


@pytest.mark.parametrize(
    ("offset", "width", "value", "reason"),
    [
        (20, 1, 7, "DRIVER_OK before it enabled queue 0"),
        (20, 1, 3, "only a reset"),
        (12, 4, 0, "after FEATURES_OK"),
        (28, 2, 0, "queue_enable"),
        (28, 2, 2, "queue_enable"),
        (20, 4, 0, "4 bytes at 20"),
        (32, 1, 0, "1 bytes at 32"),
        (33, 1, 0, "1 bytes at 33"),
    ],
)
def test_what_no_driver_may_write(guest: FakeGuest, offset: int, width: int, value: int, reason: str) -> None:
    (driver,) = make(guest, Mirror(2))
    assert driver.agree()
    with pytest.raises(GuestBroke) as caught:
        driver.put(offset, width, value | 8 if (offset, value) == (20, 7) else value)
    assert reason in caught.value.reason
    guest.bus.close()


def test_steps_out_of_order(guest: FakeGuest) -> None:
    (driver,) = make(guest, Mirror(2))
    with pytest.raises(GuestBroke, match="before FEATURES_OK"):
        driver.put(28, 2, 1)
    with pytest.raises(GuestBroke, match="DRIVER_OK before FEATURES_OK"):
        driver.put(20, 1, 7)
    driver.put(20, 1, 0)
    assert driver.agree()
    driver.enable(0)
    for offset, width in ((24, 2), (32, 4), (52, 4), (28, 2)):
        with pytest.raises(GuestBroke, match="queue 0, which is enabled"):
            driver.put(offset, width, 1)
    guest.bus.close()


def test_too_many(guest: FakeGuest) -> None:
    with pytest.raises(DeviceError, match="15 interrupts"):
        make(guest, *[Mirror(2) for _ in range(16)])
    assert guest.bus is None
    assert guest.state.mmio_end == 0
    make(guest, *[Mirror(2) for _ in range(15)])
    guest.bus.close()


def test_no_room_above_memory(memory: VmMemory) -> None:
    guest = FakeGuest(memory, "4.1")
    guest.state.limit_bytes = 0xFFF00000
    with pytest.raises(DeviceError, match="address space"):
        make(guest, Mirror(2))
