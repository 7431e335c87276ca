"""--block: the disks of a command line, from their names to the Guest.

They are opened while kvmhost may still be root, and locked.  When the Guests run in a lab the same process
keeps them, and serves each through a channel to the kvmhost inside, which asks for them in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from kvmhost.cli.failures import say

if TYPE_CHECKING:
    from kvmhost.launcher.devices.claim import Disk
    from kvmhost.launcher.devices.disk import OpenDisk


def open_disks(names: Sequence[str], held: ExitStack) -> list[OpenDisk]:
    """Every disk that was named, open and locked until `held` ends; what went wrong with them is told then.

    Raises DiskError.

    >>> with ExitStack() as held:
    ...     open_disks(["/dev/null"], held)
    Traceback (most recent call last):
    ...
    kvmhost.launcher.devices.claim.DiskError: /dev/null cannot be a disk: ...
    """
    if not names:
        return []
    from kvmhost.launcher.devices.claim import Disk
    from kvmhost.launcher.devices.disk import FileDisk

    wanted = [Disk.parse(name) for name in names]
    disks: list[OpenDisk] = []
    held.callback(tell_troubles, disks)
    for number, disk in enumerate(wanted):
        disks.append(held.enter_context(served_disk(disk, number) or FileDisk.open(disk)))
    return disks


def served_disk(disk: Disk, number: int) -> OpenDisk | None:
    """The disk as whoever started this lab serves it; None if nobody does."""
    from kvmhost.lab import channel_count, open_channel

    if number >= channel_count():
        return None
    from kvmhost.launcher.devices.remote_disk import RemoteDisk

    return RemoteDisk(str(disk.path), open_channel(number))


@contextmanager
def served(disks: Sequence[OpenDisk]) -> Iterator[list[int]]:
    """Serve the disks to a lab for as long as the block runs; what to give the lab as channels."""
    if not disks:
        yield []
        return
    from kvmhost.launcher.devices.remote_disk import Server

    with Server(disks) as server:
        yield [socket.fileno() for socket in server.sockets]


def tell_troubles(disks: Sequence[OpenDisk]) -> None:
    """What the Guest heard of as I/O errors, in words for the person."""
    for disk in disks:
        for trouble in disk.troubles:
            say(trouble)
