"""What a Guest is given besides memory: a console, disks, network cards, random numbers.

Whoever names a thing (a file, a TAP) wants it opened and closed again with the machine; whoever brings it
open keeps it.  Devices come to the bus in the order of the command line: the first disk is the Guest's first.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kvmhost.launcher.devices.bus import attach
from kvmhost.launcher.devices.console import Console

if TYPE_CHECKING:
    from kvmhost.host.guest import Guest
    from kvmhost.launcher.devices.claim import Disk
    from kvmhost.launcher.devices.device import Device
    from kvmhost.launcher.devices.disk import OpenDisk
    from kvmhost.launcher.devices.net_spec import NetSpec


@dataclass(frozen=True, slots=True)
class Equipment:
    """One Guest's devices, as somebody wants them.

    console: None for one that nobody types at.  block: disks, by name ("root.img", "data.img,ro"), as a Disk,
    or open.  net: cards, by name ("user", "tap=tap0"), or as a NetSpec, whose TAP stays open.  rng: whether
    there is a source of random numbers.
    """

    console: Console | None = None
    block: Sequence[str | os.PathLike[str] | Disk | OpenDisk] = ()
    net: Sequence[str | NetSpec] = ()
    rng: bool = False

    def fit(self, guest: Guest, held: ExitStack) -> None:
        """Make the devices and put them on the Guest's bus; what was opened for it is closed with `held`.

        Raises DiskError, NetError and DeviceError; `held` then has everything that is to be closed.
        """
        console = Console() if self.console is None else self.console
        if console.output is None:
            console.output = guest.write_console
        devices: list[Device] = []
        with ExitStack() as undo:
            undo.callback(console.close)
            undo.callback(_close_all, devices)
            if self.block:
                _add_disks(devices, self.block, held)
            if self.net:
                _add_cards(devices, self.net)
            if self.rng:
                from kvmhost.launcher.devices.rng import Rng

                devices.append(Rng())
            devices.append(console)
            attach(guest, devices)
            undo.pop_all()


def _add_disks(
    devices: list[Device], wanted: Sequence[str | os.PathLike[str] | Disk | OpenDisk], held: ExitStack
) -> None:
    from kvmhost.launcher.devices.block import BlockDevice
    from kvmhost.launcher.devices.claim import Disk
    from kvmhost.launcher.devices.disk import FileDisk

    for disk in wanted:
        if isinstance(disk, str):
            disk = Disk.parse(disk)
        elif isinstance(disk, os.PathLike):
            disk = Disk(disk)
        if isinstance(disk, Disk):
            disk = held.enter_context(FileDisk.open(disk))
        devices.append(BlockDevice(disk))


def _add_cards(devices: list[Device], wanted: Sequence[str | NetSpec]) -> None:
    from kvmhost.launcher.devices.net_spec import NetSpec, parse_net

    named = iter(parse_net([net for net in wanted if isinstance(net, str)]))
    for net in wanted:
        if not isinstance(net, NetSpec):
            devices.append(next(named).card())
        elif net.fd is None:
            devices.append(net.card())
        else:
            devices.append(replace(net, fd=os.dup(net.fd)).card())


def _close_all(devices: list[Device]) -> None:
    with ExitStack() as all_of_them:
        for device in devices:
            all_of_them.callback(device.close)
