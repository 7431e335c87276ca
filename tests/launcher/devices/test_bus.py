"""What both buses share: a device runs or it does not, whoever asks and in whatever order."""

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
from launcher.devices.driver import FakeGuest
from launcher.devices.mirror import Mirror

from kvmhost.host.clock import start_thread
from kvmhost.host.errors import GuestBroke, KvmhostError
from kvmhost.host.memory import VmMemory
from kvmhost.launcher.devices.bus import Line, Slot, close_all, console_at
from kvmhost.launcher.devices.ring import Place, RingBroken


def lines(*places: int) -> list[Line]:
    return [Line(Place.contiguous(at, 8), lambda: None) for at in places]


def test_a_device_starts_once_and_never_after_its_end(memory: VmMemory) -> None:
    device = Mirror()
    slot = Slot(cast(Any, FakeGuest(memory)), device)
    slot.start(1, lines(0x10000, 0x20000))
    slot.start(2, lines(0x10000, 0x20000))
    assert (device.accepted, slot.running) == ([1], True)
    slot.stop()
    assert not slot.running
    slot.kick(0)
    slot.start(3, lines(0x10000, 0x20000))
    slot.close()
    slot.start(4, lines(0x10000, 0x20000))
    assert (device.accepted, slot.running, device.closes) == ([1, 3], False, 1)


def test_a_queue_that_cannot_be_leaves_nothing_behind(memory: VmMemory) -> None:
    device = Mirror()
    slot = Slot(cast(Any, FakeGuest(memory)), device)
    with pytest.raises(RingBroken):
        slot.start(0, lines(0x10000, 0xFFFFF000))
    assert not slot.running
    slot.start(0, lines(0x10000, 0x20000))
    slot.close()
    # Nothing holds the memory any more, so that it can be unmapped now.
    memory.close()
    assert memory._map.closed


def test_all_devices_are_closed_though_one_fails(memory: VmMemory) -> None:
    class Broken(Mirror):
        def close(self) -> None:
            super().close()
            raise OSError(self.label)

    devices = [Mirror(), Broken(label="first"), Broken(label="second"), Mirror()]
    guest = cast(Any, FakeGuest(memory))
    with pytest.raises(OSError, match="first"):
        close_all([Slot(guest, device) for device in devices])
    assert [device.closes for device in devices] == [1, 1, 1, 1]


def test_a_device_that_does_not_start_ends_its_guest_only(
    memory: VmMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of its threads cannot be had."""
    started: list[str] = []

    def reluctant(target: Callable[[], None], name: str) -> threading.Thread:
        started.append(name)
        if len(started) == 2:
            raise KvmhostError("no thread", cause="can't start new thread", next_step="ulimit -u")
        return start_thread(target, name)

    monkeypatch.setattr("kvmhost.launcher.devices.device.start_thread", reluctant)
    device = Mirror(label="disk")
    slot = Slot(cast(Any, FakeGuest(memory)), device)
    with pytest.raises(GuestBroke, match=r"cannot start: can't start new thread\. Next: look"):
        slot.start(0, lines(0x10000, 0x20000))
    assert (slot.running, device.threads, device.wiring) == (False, [], None)
    assert not [thread for thread in threading.enumerate() if thread.name in started]
    slot.close()
    memory.close()
    assert memory._map.closed


def test_where_the_console_goes() -> None:
    devices = [Mirror(3, label="console"), Mirror(2, label="disk"), Mirror(1, label="net")]
    assert [device.label for device in console_at(0, devices)] == ["console", "disk", "net"]
    assert [device.label for device in console_at(-1, devices)] == ["disk", "net", "console"]
