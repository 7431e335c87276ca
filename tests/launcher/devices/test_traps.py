"""Both buses as a CPU meets them: ports, registers and kicks that really trap, and devices that answer."""

import struct
from typing import Any, cast

import pytest
from host import tiny_guest as tiny
from launcher.devices.driver import Buffer, Driver
from launcher.devices.mirror import Mirror

from kvmhost._native import lib
from kvmhost.host import Machine, Outcome, OutcomeKind
from kvmhost.host.abi import abi_of
from kvmhost.launcher.devices.bus import attach, device_bytes
from kvmhost.launcher.devices.ring import Place

pytestmark = pytest.mark.lab

RAM = 4 << 20
RESULTS = 0x4000
POWER_DOWN = b"Power down\0\0"


class Code:
    """Instructions in a row, and where their results go."""

    def __init__(self) -> None:
        self.bytes = tiny.init()
        self.results = 0

    def keep(self) -> None:
        """mov %eax, the next result"""
        self.bytes += b"\xa3" + struct.pack("<I", RESULTS + 4 * self.results)
        self.results += 1

    def config(self, device: int, register: int) -> None:
        """Choose a register of configuration space, and leave its data port in EDX."""
        address = 0x80000000 | device << 11 | register & 0xFC
        self.bytes += tiny.mov("eax", address) + tiny.mov("edx", 0xCF8) + b"\xef"
        self.bytes += tiny.mov("edx", 0xCFC + (register & 3))

    def config_read(self, device: int, register: int) -> None:
        self.config(device, register)
        self.bytes += b"\xed"
        self.keep()

    def load8(self, address: int) -> None:
        self.bytes += tiny.mov("eax", 0) + tiny.mov("edx", address) + b"\x8a\x02"
        self.keep()

    def load32(self, address: int) -> None:
        self.bytes += tiny.mov("edx", address) + b"\x8b\x02"
        self.keep()

    def store8(self, address: int, value: int) -> None:
        self.bytes += tiny.mov("eax", value) + tiny.mov("edx", address) + b"\x88\x02"

    def store16(self, address: int, value: int) -> None:
        self.bytes += tiny.mov("eax", value) + tiny.mov("edx", address) + b"\x66\x89\x02"

    def store32(self, address: int, value: int) -> None:
        self.bytes += tiny.mov("eax", value) + tiny.mov("edx", address) + b"\x89\x02"

    def until_used(self, place: Place) -> None:
        """cmpw $0, used.index; je back"""
        self.bytes += b"\x66\x83\x3d" + struct.pack("<I", place.used + 2) + b"\x00\x74\xf6"

    def power_off(self) -> None:
        words = struct.unpack("<III", POWER_DOWN)
        self.bytes += b"".join(tiny.store(0x3000 + 4 * n, word) for n, word in enumerate(words))
        self.bytes += tiny.hypercall(2, 0x3000, 1)


def add(machine: Machine, release: str, *devices: Mirror) -> Any:
    abi = abi_of(release)
    assert abi is not None
    guest = machine.add_guest(RAM, abi=abi, device_bytes=device_bytes(abi))
    attach(guest, devices)
    guest.ram.write(
        tiny.DATA_AT,
        bytes(24) + b"\xff" * 64 + bytes(64 * 20 + 8) + struct.pack("<IIII", 0, 0, tiny.PAGE_OFFSET, 0x80),
    )
    guest.set_entry(tiny.CODE_AT)
    return guest


def run(machine: Machine, guest: Any, code: Code) -> tuple[Outcome, list[int]]:
    guest.ram.write(tiny.CODE_AT, code.bytes)
    outcome = guest.run(timeout=60)
    return outcome, list(struct.unpack(f"<{code.results}I", guest.ram.read(RESULTS, 4 * code.results)))


class Memory:
    """A Guest's RAM, as the tests' driver wants it."""

    def __init__(self, guest: Any) -> None:
        self.read, self.write = guest.ram.read, guest.ram.write

    def put16(self, address: int, value: int) -> None:
        self.write(address, struct.pack("<H", value & 0xFFFF))


@pytest.fixture
def machine():
    with Machine(RAM) as machine:
        yield machine


def test_pci_from_the_first_port_to_the_interrupt(machine: Machine) -> None:
    device = Mirror(2, config=struct.pack("<QI", 0x1122334455667788, 7))
    guest = add(machine, "4.0", device)
    bar = guest.bus.devices[0].config.base
    code = Code()
    code.config_read(0, 0x08)
    code.config_read(1, 0x00)
    code.config_read(1, 0x10)
    code.config_read(2, 0x00)
    for status in (0, 1, 3):
        code.store8(bar + 20, status)
    code.store32(bar, 1)
    code.load32(bar + 4)
    code.store32(bar + 8, 1)
    code.store32(bar + 12, 1)
    code.store8(bar + 20, 11)
    code.load8(bar + 20)
    places = [Place(16, at, at + 0x100, at + 0x200) for at in (0x20000, 0x21000)]
    for index, place in enumerate(places):
        code.store16(bar + 22, index)
        code.store16(bar + 24, 16)
        for register, address in ((32, place.descriptors), (40, place.available), (48, place.used)):
            code.store32(bar + register, address)
        code.store16(bar + 28, 1)
    code.store8(bar + 20, 15)
    code.store16(bar + 56, 1)
    code.until_used(places[1])
    code.load32(bar + 60)
    code.load32(bar + 64)
    code.load8(bar + 58)
    code.load8(bar + 58)
    code.power_off()
    driver = Driver(cast(Any, Memory(guest)), places[1])
    guest.ram.write(0x30000, b"through the looking-glass")
    driver.add([Buffer(0x30000, 25), Buffer(0x31000, 25, True)])
    outcome, results = run(machine, guest, code)
    assert outcome.kind is OutcomeKind.POWERED_OFF, outcome
    assert results[:6] == [0x06000000, 0x10421AF4, bar, 0xFFFFFFFF, 1, 11]
    assert results[6:8] == [0x55667788, 0x11223344]
    assert guest.ram.read(0x31000, 25) == b"through the looking-glass"[::-1]
    # The device may say why only after the Guest looked, but it says it once.
    assert sum(results[8:]) <= 1
    assert device.accepted == [1 << 32]


def test_the_page_from_kick_to_interrupt(machine: Machine) -> None:
    guest = add(machine, "3.12", Mirror(2))
    queues = guest.ram.read(RAM + 5, 16)
    _, irq, frame = struct.unpack("<HHI", queues[8:])
    place = Place.contiguous(frame * 4096, 256)
    code = Code()
    code.bytes += tiny.hypercall(lib.LHCALL_NOTIFY, place.descriptors)
    code.until_used(place)
    code.load32(RAM)  # the first descriptor's type and number of queues
    code.power_off()
    driver = Driver(cast(Any, Memory(guest)), place)
    guest.ram.write(0x30000, b"ecila")
    driver.add([Buffer(0x30000, 5), Buffer(0x31000, 5, True)])
    outcome, results = run(machine, guest, code)
    assert outcome.kind is OutcomeKind.POWERED_OFF, outcome
    assert results == [2 | 2 << 8]
    assert guest.ram.read(0x31000, 5) == b"alice"
    guest.bus.close()
    assert guest.state.irqs_pending >> irq & 1


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        pytest.param(RAM + 0x1000, "unhandled trap 14", id="the window where no device is"),
        pytest.param(RAM + 0x102000, "beyond its", id="behind the window"),
    ],
)
def test_memory_where_no_device_is(machine: Machine, address: int, reason: str) -> None:
    guest = add(machine, "4.0", Mirror(2))
    code = Code()
    code.load32(address)
    outcome, _ = run(machine, guest, code)
    assert outcome.kind is OutcomeKind.KILLED
    assert reason in outcome.reason
    if "trap" in reason:
        assert guest.data.words.cr2 == address


def test_a_driver_that_breaks_a_rule_ends_its_guest_alone(machine: Machine) -> None:
    neighbour = add(machine, "4.0", Mirror(2))
    guest = add(machine, "4.0", Mirror(2, label="disk"))
    good, code = Code(), Code()
    good.power_off()
    neighbour.ram.write(tiny.CODE_AT, good.bytes)
    code.store8(guest.bus.devices[0].config.base + 20, 4)
    guest.ram.write(tiny.CODE_AT, code.bytes)
    outcomes = machine.run(timeout=60)
    outcome = outcomes[guest]
    assert outcome.kind is OutcomeKind.KILLED
    assert outcome.reason == "the driver of its disk said DRIVER_OK before FEATURES_OK"
    assert outcome.report is not None
    assert outcomes[neighbour].kind is OutcomeKind.POWERED_OFF


def test_a_ring_that_breaks_ends_a_guest_that_runs_and_one_that_sleeps(machine: Machine) -> None:
    for end in (tiny.forever(b"\x90"), tiny.forever(tiny.hypercall(lib.LHCALL_HALT))):
        guest = add(machine, "3.12", Mirror(2, label="disk"))
        _, _, frame = struct.unpack("<HHI", guest.ram.read(RAM + 5, 8))
        place = Place.contiguous(frame * 4096, 256)
        Driver(cast(Any, Memory(guest)), place).offer(300)
        code = Code()
        code.bytes += tiny.hypercall(lib.LHCALL_NOTIFY, place.descriptors)
        code.bytes += end
        outcome, _ = run(machine, guest, code)
        assert outcome.kind is OutcomeKind.KILLED, outcome
        assert outcome.reason == "its disk queue 0 names descriptor 300, and has 256"


def test_closing_the_machine_ends_devices_that_wait(machine: Machine) -> None:
    device = Mirror(2)
    guest = add(machine, "3.12", device)
    code = Code()
    code.bytes += tiny.hypercall(lib.LHCALL_NOTIFY, RAM + 4096)
    code.power_off()
    assert run(machine, guest, code)[0].kind is OutcomeKind.POWERED_OFF
    assert all(thread.is_alive() for thread in device.threads)
    machine.close()
    assert (device.threads, device.closes) == ([], 1)
    assert machine.memory._map.closed
