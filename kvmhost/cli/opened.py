"""What `kvmhost run` opens while it may still be root, and closes at its end."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvmhost.cli import backend
from kvmhost.cli.disks import open_disks
from kvmhost.cli.failures import UsageError, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kvmhost.launcher.devices.disk import OpenDisk
    from kvmhost.launcher.devices.net_spec import NetSpec
    from kvmhost.launcher.images import OpenImage


@dataclass(frozen=True, slots=True)
class Opened:
    """Everything that was named on the command line.

    images: by the name that was typed; nothing of them has been read.  device: /dev/kvm, None if it cannot
    be had, for then the doctor will say why.  disks: locked.  cards: their TAPs are open.
    """

    images: dict[str, OpenImage]
    initrd: OpenImage | None
    device: int | None
    disks: tuple[OpenDisk, ...]
    cards: tuple[NetSpec, ...]


def open_all(arguments: argparse.Namespace, held: ExitStack) -> Opened:
    """Open everything that was named.  Raises UsageError for a name that cannot be."""
    from kvmhost.launcher import images

    return Opened(
        images={
            name: held.enter_context(as_usage(images.open_image, name))
            for name in dict.fromkeys(arguments.guests)
        },
        initrd=held.enter_context(as_usage(images.open_initrd, arguments.initrd))
        if arguments.initrd is not None
        else None,
        device=open_device(held),
        disks=tuple(open_disks(arguments.block, held)),
        cards=tuple(open_cards(arguments.net, held)),
    )


def open_cards(names: Sequence[str], held: ExitStack) -> Iterator[NetSpec]:
    """The network cards of --net, in order."""
    if names:
        from kvmhost.launcher.devices.net_spec import parse_net

        for spec in parse_net(names):
            opened = spec.open()
            held.callback(opened.close)
            if opened.remark:
                say(opened.remark)
            yield opened


def network_for_lab(cards: Sequence[NetSpec]) -> dict[str, str] | None:
    """What the kvmhost in a lab is told of the lab's network; None if its Guest needs none.

    Raises UsageError for a TAP: it is this machine's, and the lab is another one.
    """
    if not cards:
        return None
    from kvmhost.launcher.devices.net_user import GATEWAY_OUTSIDE

    for card in cards:
        if card.tap is not None:
            raise UsageError(
                f"the lab cannot reach the TAP {card.tap}",
                cause="it belongs to this machine, and the lab, where the Guest has to run, is another one",
                next_step="use --net user, which works in the lab as well",
            )
    return {GATEWAY_OUTSIDE: "1"}


def as_usage(open_it: Callable[[str], OpenImage], name: str) -> OpenImage:
    """What cannot be opened was named wrongly."""
    from kvmhost.launcher.errors import ImageError

    try:
        return open_it(name)
    except ImageError as error:
        raise UsageError(error.message, cause=error.cause, next_step=error.next_step) from error


def open_device(held: ExitStack) -> int | None:
    """/dev/kvm, while we may; None if it cannot be had."""
    try:
        device = os.open(backend.DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    held.callback(os.close, device)
    return device


def check_trace(name: str | None, opened: Opened) -> None:
    """--trace empties its file; UsageError if that is one of those that the Guests are made of."""
    if name is None:
        return
    from kvmhost.launcher.devices.disk import FileDisk

    try:
        wanted = Path(name).stat()
    except (OSError, ValueError):
        return
    files = [(image.name, image.fileno()) for image in (*opened.images.values(), opened.initrd) if image]
    files += [(disk.name, disk.fileno()) for disk in opened.disks if isinstance(disk, FileDisk)]
    for used, fd in files:
        if os.path.samestat(os.fstat(fd), wanted):
            raise UsageError(
                f"the trace would empty {used}, which is in use", next_step="name another file with --trace"
            )


def check_still_openable(opened: Opened) -> None:
    """The lab opens the images again, as the user that this process is by now; UsageError if it could not."""
    from kvmhost.launcher import images
    from kvmhost.launcher.errors import ImageError

    initrd = [] if opened.initrd is None else [opened.initrd.name]
    openings = [(images.open_image, name) for name in opened.images]
    for open_it, name in [*openings, *((images.open_initrd, name) for name in initrd)]:
        try:
            open_it(name).close()
        except ImageError as error:
            raise UsageError(
                f"the lab cannot open {name}",
                cause=f"only root can, and the lab does not run as root: {error.cause}",
                next_step="make the file readable for the user who runs kvmhost",
            ) from error
