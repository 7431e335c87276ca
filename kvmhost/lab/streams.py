"""The three streams that a command in the lab is connected to, and making sure that they are
streams: a service may have none of them open, and a background job must not touch the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kvmhost.lab import terminal


@dataclass(frozen=True, slots=True)
class Streams:
    """The three descriptors that the command's streams are connected to.

    >>> Streams(stdout=2)
    Streams(stdin=0, stdout=2, stderr=2)
    """

    stdin: int = 0
    stdout: int = 1
    stderr: int = 2


@contextmanager
def usable(streams: Streams) -> Iterator[Streams]:
    """The same streams, with /dev/null for each that cannot be used, for as long as the block runs.

    What Python has buffered for its own stdout and stderr is written first, so that the
    command's words come after it.

    >>> with usable(Streams(stdout=12345)) as streams:
    ...     os.path.samestat(os.fstat(streams.stdout), os.stat(os.devnull))
    True
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    # A number that is free is taken here and now: the lab's own sockets must not get it.
    nothing = [os.open(os.devnull, os.O_RDWR) for _ in range(3)]
    try:
        stdin = streams.stdin
        # A background job that reads the terminal is stopped; the command gets no input instead.
        held_back = _is_open(stdin, nothing) and os.isatty(stdin) and not terminal.is_ours(stdin)
        yield Streams(
            stdin if _is_open(stdin, nothing) and not held_back else nothing[0],
            streams.stdout if _is_open(streams.stdout, nothing) else nothing[1],
            streams.stderr if _is_open(streams.stderr, nothing) else nothing[2],
        )
    finally:
        for fd in nothing:
            os.close(fd)


def _is_open(fd: int, ours: list[int]) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return fd not in ours
