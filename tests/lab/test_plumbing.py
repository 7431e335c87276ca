"""Bytes arrive complete and in order, however slow the reader, and never pile up."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmhost.lab.plumbing import CHUNK, Flow, wait


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def turn(flow: Flow) -> bool:
    """Moves what can be moved now; False when nothing can."""
    events = wait(flow.wishes(), 0)
    flow.move(events)
    return bool(events)


def test_a_slow_reader_slows_the_source(sockets: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    ours, theirs = sockets
    content = os.urandom(3_000_000)
    (tmp_path / "source").write_bytes(content)
    got = bytearray()
    with (tmp_path / "source").open("rb") as source:
        flow = Flow(source.fileno(), ours.fileno())
        while not (flow.source_ended and flow.is_empty):
            while turn(flow):
                pass
            assert len(flow.buffer) < 2 * CHUNK
            # Nobody has read: the flow must have stopped with most of it still in the source.
            assert source.tell() - len(got) < 1_000_000
            got += theirs.recv(100_000)
        ours.close()
        while more := theirs.recv(100_000):
            got += more
    assert got == content
    assert flow.carried == len(content)


def test_a_full_pipe_never_blocks() -> None:
    source, feed = os.pipe()
    sink, target = os.pipe()
    fcntl.fcntl(target, fcntl.F_SETPIPE_SZ, 4096)
    try:
        flow = Flow(source, target)
        os.write(feed, b"x" * 20000)
        while turn(flow):
            pass  # A write that blocked would hang here.
        assert os.read(sink, 65536) == b"x" * 4096
        assert len(flow.buffer) == 20000 - 4096
    finally:
        for fd in (source, feed, sink, target):
            os.close(fd)


def test_a_reader_that_has_gone(sockets: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = sockets
    sink, target = os.pipe()
    try:
        flow = Flow(ours.fileno(), target)
        os.close(sink)
        for _ in range(3):
            theirs.sendall(b"y" * 1000)
            while turn(flow):
                pass
        assert flow.target_gone
        assert flow.is_empty
        assert flow.carried == 3000
    finally:
        os.close(target)


def test_only_the_last_is_kept(sockets: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = sockets
    flow = Flow(ours.fileno(), None, keep=10)
    for piece in (b"12345678", b"abcdefgh"):
        theirs.sendall(piece)
        assert turn(flow)
    assert bytes(flow.buffer) == b"78abcdefgh"
    theirs.close()
    assert turn(flow)
    assert flow.source_ended
    assert not turn(flow)
