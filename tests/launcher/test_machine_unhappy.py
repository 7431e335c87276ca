"""Loading that fails leaves a Machine as it was; and what it holds for its Guests it holds while they run."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvmhost import ImageError, KvmhostError, Machine
from kvmhost.host import machine as room
from kvmhost.host.outcome import OutcomeKind
from kvmhost.launcher.devices.claim import Disk, DiskError
from kvmhost.launcher.devices.disk import FileDisk
from kvmhost.launcher.equipment import Equipment
from kvmhost.launcher.images import SHIPPED, adopt


class Slot:
    """Memory that a VM has."""

    def __init__(self, vm: Beneath, gpa: int) -> None:
        self.vm, self.gpa = vm, gpa

    def remove(self) -> None:
        self.vm.slots.remove(self)


class Beneath:
    """As much of a KVM, a VM and a Host area as loading asks for."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []

    def add_memory(self, gpa: int, size: int, address: int) -> None:
        self.slots.append(Slot(self, gpa))

    def map_guest(self, start: int, end: int) -> None:
        """The Host would see it now."""

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """One that has everything but a KVM beneath it."""

    def create(self: Any, count: int) -> None:
        self.vm, self.host = Beneath(), Beneath()
        self._guest_cpuid, self._tsc_khz = {}, 0

    monkeypatch.setattr(room, "Kvm", Beneath)
    monkeypatch.setattr(room, "collect", lambda machine: None)
    monkeypatch.setattr(room.Machine, "_create", create)
    with Machine(memory="2M") as machine:
        yield machine


def test_a_guest_whose_devices_cannot_be_had_is_not_there(machine: Machine, tmp_path: Path) -> None:
    image = tmp_path / "root.img"
    image.write_bytes(bytes(1024))
    first = machine.load("hello")
    room_before, slots = machine._next_block, list(machine.vm.slots)
    with pytest.raises(DiskError):
        machine.load("hello", "once", block=[image, tmp_path / "typo.img"])
    assert machine.guests == [first]
    assert (machine._next_block, list(machine.vm.slots)) == (room_before, slots)
    # Its first disk can be had again, and so can its memory, as if nobody had been there.
    second = machine.load("hello", block=[image])
    assert second.ram.read(4096, 8) == bytes(8)
    assert machine.guests == [first, second]


def test_several_copies_are_loaded_together_or_not_at_all(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, fitted = Equipment.fit, []

    def second_fails(self: Equipment, guest: Any, held: Any) -> None:
        fit(self, guest, held)
        fitted.append(guest)
        if len(fitted) == 2:
            raise KvmhostError("no more devices")

    monkeypatch.setattr(Equipment, "fit", second_fails)
    with pytest.raises(KvmhostError, match="no more devices"):
        machine.load_all("pair")
    assert len(fitted) == 2
    assert machine.guests == []
    assert list(machine.vm.slots) == []


def test_a_machine_that_will_not_close_yet_keeps_its_disks(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler cannot close the Machine it runs in; its Guest goes on, with its disk."""
    image = tmp_path / "root.img"
    image.write_bytes(bytes(1024))
    machine.load("hello", block=[image])

    def running() -> None:
        raise KvmhostError("this Machine is running")

    with monkeypatch.context() as patch:
        patch.setattr(machine.scheduler, "rest", running)
        with pytest.raises(KvmhostError, match="is running"):
            machine.close()
        with pytest.raises(DiskError):
            FileDisk.open(Disk(image))
    machine.close()
    FileDisk.open(Disk(image)).close()


def test_a_file_that_is_no_file_of_the_system_is_no_image() -> None:
    image = (SHIPPED / "hello.elf").open("rb")
    image.close()
    for source in (io.BytesIO(b"\x7fELF"), image):
        with pytest.raises(ImageError, match="names no image") as caught:
            adopt(source)
        assert "open file" in caught.value.next_step


def test_every_guest_that_is_over_is_finished_whatever_one_device_does(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a Guest wrote is on its disk when run() returns, also if another one's device cannot be closed."""
    closed = []

    def close(bus: Any) -> None:
        closed.append(bus)
        raise OSError("the device does not stop")

    guests = [machine.load("hello") for _ in range(3)]
    for guest in guests[:2]:
        guest.end(OutcomeKind.POWERED_OFF, "Power down")
    with monkeypatch.context() as patch:
        patch.setattr(type(guests[0].bus), "close", close)
        patch.setattr(machine.scheduler, "run", lambda *_: {})
        with pytest.raises(OSError, match="does not stop"):
            machine.run()
    assert closed == [guest.bus for guest in guests[:2]]
