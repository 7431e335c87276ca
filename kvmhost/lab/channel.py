"""Channels: what a command in the lab and the one who started the lab say to each other, and nobody else.

Outside, a channel is a socket that was given to run(); inside, it is a virtio-serial port that belongs to the
user. It carries bytes in both directions and knows nothing of what they mean."""

from __future__ import annotations

import os
import select
import time
from pathlib import Path

from kvmhost.lab.errors import LabError

# How many the one who started the lab has given, for those inside.
CHANNELS = "KVMHOST_LAB_CHANNELS"
# The ports below are the lab's own (native/lab/lab.h: PORT_CHANNELS).
FIRST_CHANNEL = 6

PATIENCE = 20.0
PAUSE = 0.002


def channel_count() -> int:
    """How many channels this process can open: none outside of a lab.

    >>> channel_count()
    0
    """
    count = os.environ.get(CHANNELS, "0")
    return int(count) if count.isdecimal() else 0


def open_channel(number: int) -> int:
    """A descriptor of that channel, counted from 0, which nobody else can have open at the same time.

    Raises LabError when there is none.

    >>> open_channel(0)
    Traceback (most recent call last):
    kvmhost.lab.errors.LabError: there is no channel 0
    ...
    """
    missing = LabError(f"there is no channel {number}", next_step="start the command by kvmhost, in a lab")
    if not 0 <= number < channel_count():
        raise missing
    devices = list(Path("/dev").glob(f"vport*p{FIRST_CHANNEL + number}"))
    if not devices:
        raise missing
    try:
        fd = os.open(devices[0], os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise LabError(
            f"channel {number} cannot be opened: {error.strerror}", next_step="use each channel once"
        ) from error
    # A port exists a moment before it counts as connected, and until then reading it says "end of file".
    deadline = time.monotonic() + PATIENCE
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    while any(events & select.POLLHUP for _, events in poll.poll(0)):
        if time.monotonic() > deadline:
            os.close(fd)
            raise LabError(f"nobody answers on channel {number}", next_step="start the lab again")
        time.sleep(PAUSE)
    return fd
