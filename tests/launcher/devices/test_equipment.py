"""What a Guest is given is opened in any of its forms, and closed again whatever happens."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest
from launcher.devices.driver import FakeGuest

from kvmhost.host.memory import VmMemory
from kvmhost.launcher import equipment
from kvmhost.launcher.devices.block import BlockDevice
from kvmhost.launcher.devices.claim import Disk, DiskError
from kvmhost.launcher.devices.console import Console
from kvmhost.launcher.devices.device import Device
from kvmhost.launcher.devices.disk import FileDisk
from kvmhost.launcher.devices.net import Net
from kvmhost.launcher.equipment import Equipment


def descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.img" for number in range(4)]
    for path in paths:
        path.write_bytes(bytes(4096))
    return paths


def test_a_disk_by_name_by_path_as_a_disk_and_open(memory: VmMemory, images: list[Path]) -> None:
    before = descriptors()
    guest = FakeGuest(memory)
    with FileDisk.open(Disk(images[3])) as open_disk:
        with ExitStack() as held:
            disks = (f"{images[0]},ro", images[1], Disk(images[2], readonly=True), open_disk)
            Equipment(block=disks, rng=True).fit(cast(Any, guest), held)
            for path in images[1], images[3]:
                with pytest.raises(DiskError, match="being written to"):
                    FileDisk.open(Disk(path, readonly=True))
            for path in images[0], images[2]:
                FileDisk.open(Disk(path, readonly=True)).close()
            guest.bus.close()
        FileDisk.open(Disk(images[1])).close()
        # What came open stays open, and another Guest can have it now.
        open_disk.read([memoryview(bytearray(512))], 0)
        open_disk.take()
    assert descriptors() == before


def test_one_disk_that_cannot_be_closes_all(memory: VmMemory, images: list[Path]) -> None:
    before = descriptors()
    with FileDisk.open(Disk(images[0])) as open_disk:
        for wrong in (os.devnull, images[1], open_disk):
            guest = FakeGuest(memory)
            with ExitStack() as held, pytest.raises(DiskError):
                Equipment(block=(open_disk, images[1], wrong)).fit(cast(Any, guest), held)
            assert guest.bus is None
        # It is nobody's, so it can be had.
        open_disk.take()
    assert descriptors() == before


def test_a_device_that_does_not_stop_keeps_nothing_else_open(
    memory: VmMemory, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each gives back what is its own, and the others are closed all the same."""

    def stuck(device: Device) -> None:
        raise OSError("it does not stop")

    class Cable:
        label, offloads = "nowhere", 0
        closed = False

        def close(self) -> None:
            self.closed = True

    cable, typing = Cable(), Console()
    with FileDisk.open(Disk(images[0])) as disk:
        devices = [BlockDevice(disk), Net(cast(Any, cable), bytes(6)), typing, Console()]
        with monkeypatch.context() as patch:
            patch.setattr(Device, "stop", stuck)
            with pytest.raises(OSError, match="does not stop"):
                equipment._close_all(devices)
        disk.take()
    assert cable.closed
    assert [device.type(b"x") for device in devices if isinstance(device, Console)] == [0, 0]
