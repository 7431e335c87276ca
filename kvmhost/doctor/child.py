"""Probe Guests run in a child process, because the worst answer is none.

A Guest that loops is stopped by the alarm in `device`. A KVM that never returns from an ioctl stops
for nobody: then only the parent still has a clock, and it goes on without that child. The child also
takes its VMs with it, whatever state they are in.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import select
import signal
import time
import warnings
from collections.abc import Sequence
from typing import NoReturn

from kvmhost.doctor.device import Device
from kvmhost.doctor.ending import End, Ending, pack, unpack
from kvmhost.doctor.world import ProbeGuest

# What the parent waits beyond a Guest's own limit before it gives the child up.
GRACE_SECONDS = 2.0
# What a Guest gets once another has used up its time: a doctor must answer while somebody waits.
SHORTER_SECONDS = 1.0
MOST_LOST = 2
REAP_SECONDS = 1.0
REAP_STEP_SECONDS = 0.005
LENGTH_BYTES = 4


def run_guests(device: Device, guests: Sequence[ProbeGuest], limit: float) -> list[Ending]:
    """One Ending for each Guest, in order; `limit` is seconds for each, until one used it up.

    Two lost children are enough to know such a KVM: the Guests after them are not tried.
    """
    endings: list[Ending] = []
    for _ in range(MOST_LOST):
        if len(endings) < len(guests):
            endings += _one_child(device, guests[len(endings) :], limit)
        limit = min(limit, SHORTER_SECONDS)
    untried = Ending(End.LOST, where=f"was not started, after {MOST_LOST} others were lost")
    return endings + [untried] * (len(guests) - len(endings))


def _one_child(device: Device, guests: Sequence[ProbeGuest], limit: float) -> list[Ending]:
    """Endings of as many Guests as the child managed, the last of them LOST if that was not all."""
    try:
        child, reader = _start(device, guests, limit)
    except OSError as error:
        return [Ending(End.LOST, where=f"could not be started ({error.strerror})")]
    endings: list[Ending] = []
    try:
        while len(endings) < len(guests):
            message = _receive(reader, limit + GRACE_SECONDS)
            endings.append(message)
            if message.end is End.LOST:
                break
    finally:
        os.close(reader)
        # All is said, so nothing is lost by not waiting for the child's own exit.
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        _reap(child)
    return endings


def _start(device: Device, guests: Sequence[ProbeGuest], limit: float) -> tuple[int, int]:
    """The child's id, and where its messages come from."""
    reader, writer = os.pipe()
    try:
        with warnings.catch_warnings():
            # The child does nothing but ioctls, so other threads' locks do not matter to it.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
    except OSError:
        os.close(reader)
        raise
    else:
        if child == 0:
            _child(device, guests, limit, writer)
    finally:
        os.close(writer)
    return child, reader


def _child(device: Device, guests: Sequence[ProbeGuest], limit: float, writer: int) -> NoReturn:
    """Run the Guests and say how each ended; never returns."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM, signal.SIGINT])
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for guest in guests:
            ending = device.run(guest, limit)
            _send(writer, ending)
            if ending.end is End.TIMED_OUT:
                limit = min(limit, SHORTER_SECONDS)
    except BaseException as error:
        _send(writer, Ending(End.LOST, where=f"failed: {type(error).__name__}: {error}"))
    finally:
        os._exit(0)


def _send(writer: int, ending: Ending) -> None:
    message = marshal.dumps(pack(ending))
    os.write(writer, len(message).to_bytes(LENGTH_BYTES, "little") + message)


def _receive(reader: int, limit: float) -> Ending:
    """The next message, or LOST when it does not come."""
    deadline = time.monotonic() + limit
    try:
        size = int.from_bytes(_exactly(reader, LENGTH_BYTES, deadline), "little")
        return unpack(marshal.loads(_exactly(reader, size, deadline)))
    except TimeoutError:
        return Ending(End.LOST, where=f"hung for {limit:g} seconds, deep in the kernel")
    except EOFError:
        return Ending(End.LOST, where="died without a word")


def _exactly(reader: int, size: int, deadline: float) -> bytes:
    data = b""
    while len(data) < size:
        left = max(0.0, deadline - time.monotonic())
        if not select.select([reader], [], [], left)[0]:
            raise TimeoutError
        piece = os.read(reader, size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _reap(child: int) -> None:
    """Collect the child; one that even SIGKILL does not end is left to the kernel."""
    deadline = time.monotonic() + REAP_SECONDS
    while time.monotonic() < deadline:
        try:
            if os.waitpid(child, os.WNOHANG)[0]:
                return
        except ChildProcessError:
            return
        time.sleep(REAP_STEP_SECONDS)
