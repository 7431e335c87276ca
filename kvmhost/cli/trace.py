"""--trace: from the name of a file to the lines in it.

The file is opened by the user that kvmhost has become, before anything runs.  When the Guests run in a lab
the file stays with the process outside, which writes down what comes through a channel: the one behind those
of the disks.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from kvmhost.cli.failures import UsageError, say

if TYPE_CHECKING:
    from kvmhost.host.trace import TraceFile

BUFFER_BYTES = 1 << 20


def open_file(name: str, channel: int, held: ExitStack) -> TextIO:
    """The file `name`, emptied; inside a lab, channel number `channel` where whoever started it has it open.

    Raises UsageError if it cannot be written.
    """
    from kvmhost.lab import channel_count, open_channel

    if channel < channel_count():
        file = os.fdopen(open_channel(channel), "w", buffering=BUFFER_BYTES, encoding="utf-8")
        held.callback(_close, file)
        return file
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UsageError(
            f"no trace can be written to {name}",
            cause=str(error.strerror),
            next_step="name a file in a folder where this user may write",
        ) from error
    file = os.fdopen(descriptor, "w", buffering=BUFFER_BYTES, encoding="utf-8")
    held.callback(_close, file)
    return file


def _close(file: TextIO) -> None:
    """What could not be written was told when it was flushed."""
    with suppress(OSError):
        file.close()


@contextmanager
def traced(name: str | None, channel: int) -> Iterator[TraceFile | None]:
    """A trace into the file `name` for as long as the block runs; what goes wrong with the file is told."""
    if name is None:
        yield None
        return
    from kvmhost.host.trace import TraceFile

    with ExitStack() as held:
        with TraceFile(open_file(name, channel, held)) as trace:
            yield trace
        if trace.error is not None:
            say(f"the trace in {name} is not whole: {trace.error.strerror}")


@contextmanager
def served(name: str | None) -> Iterator[list[int]]:
    """Write down in `name` what a lab says of it while the block runs; what to give the lab as channels."""
    if name is None:
        yield []
        return
    with ExitStack() as held:
        file = open_file(name, 0, held)
        ours, labs = socket.socketpair()
        writer = threading.Thread(target=_write_down, args=(ours, file, name), name="trace")
        with ours:
            with labs:
                writer.start()
                yield [labs.fileno()]
            writer.join()


def _write_down(source: socket.socket, file: TextIO, name: str) -> None:
    """Copy until the lab is gone; a lab whose trace nobody takes would stand still, so it is read on."""
    with source.makefile("rb") as lines:
        try:
            shutil.copyfileobj(lines, file.buffer)
            file.flush()
        except OSError as error:
            say(f"the trace in {name} is not whole: {error.strerror}")
            while lines.read(BUFFER_BYTES):
                pass
