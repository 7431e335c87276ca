"""A disk over a stream is the same disk: data, errors, and an end that loses nothing."""

import errno
import os
import random
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmhost.launcher.devices.claim import Disk
from kvmhost.launcher.devices.disk import PIECE, FileDisk
from kvmhost.launcher.devices.remote_disk import ANSWER, QUESTION, Ask, RemoteDisk, Server

SIZE = 8 << 20


def areas(*texts: bytes) -> list[memoryview]:
    return [memoryview(bytearray(text)) for text in texts]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"")
    os.truncate(path, SIZE)
    return path


@pytest.fixture(params=(False, True), ids=("rw", "ro"))
def remote(image: Path, request: pytest.FixtureRequest) -> Iterator[RemoteDisk]:
    with (
        FileDisk.open(Disk(image, request.param)) as disk,
        Server([disk]) as server,
        RemoteDisk("far", os.dup(server.sockets[0].fileno())) as opened,
    ):
        yield opened


def test_it_looks_like_the_file(remote: RemoteDisk, image: Path) -> None:
    assert remote.size == SIZE
    if remote.readonly:
        with pytest.raises(OSError, match="Read-only") as caught:
            remote.write(areas(bytes(512)), 0)
        assert caught.value.errno == errno.EROFS
    data = random.Random(1).randbytes(PIECE)
    image.write_bytes(data + bytes(SIZE - PIECE))
    found = areas(bytes(1), bytes(0), bytes(4095), bytes(70000), bytes(PIECE - 74096))
    remote.read(found, 0)
    assert b"".join(found) == data
    with pytest.raises(OSError, match="beyond the end"):
        remote.read(areas(bytes(512)), SIZE)
    with pytest.raises(OSError):
        remote.read(areas(bytes(512)), 1 << 64)
    with pytest.raises(OSError):
        remote.read(areas(bytes(PIECE), bytes(1)), 0)
    found = areas(bytes(3))
    remote.read(found, 5)
    assert bytes(found[0]) == data[5:8]
    assert remote.troubles == []


def test_writes_and_flushes_reach_the_file(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fdatasync = os.fdatasync

    def told(fd: int) -> None:
        calls.append("fdatasync")
        fdatasync(fd)

    monkeypatch.setattr(os, "fdatasync", told)
    data = random.Random(2).randbytes(PIECE)
    with FileDisk.open(Disk(image)) as disk, Server([disk]) as server:
        remote = RemoteDisk("far", os.dup(server.sockets[0].fileno()))
        remote.write(areas(data[:513], data[513 : 1 << 20], data[1 << 20 :]), 4096)
        assert calls == []
        remote.flush()
        assert calls == ["fdatasync"]
        assert image.read_bytes()[4096 : 4096 + PIECE] == data
        remote.write(areas(b"!"), 0)
        remote.close()
        remote.close()
        assert calls == ["fdatasync"] * 2
    assert len(calls) == 2


def test_who_ends_without_a_word_has_written_all_the_same(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda fd: flushed.set())
    with FileDisk.open(Disk(image)) as disk, Server([disk]) as server:
        stream = server.sockets[0].dup()
        server.sockets[0].close()
        stream.sendall(QUESTION.pack(Ask.WRITE, 4, 0) + b"data")
        assert stream.recv(ANSWER.size, socket.MSG_WAITALL) == ANSWER.pack(0, 0, SIZE)
        # And then a question that is cut off in the middle.
        stream.sendall(QUESTION.pack(Ask.WRITE, 8, 0) + b"lost")
        stream.close()
        assert flushed.wait(60)
    assert image.read_bytes()[:5] == b"data\0"


@pytest.mark.parametrize(
    "question",
    (b"\0" * 16, struct.pack("<IIQ", 99, 0, 0), struct.pack("<IIQ", Ask.WRITE, PIECE + 1, 0), b"\xff" * 16),
)
def test_strange_questions_end_the_conversation(image: Path, question: bytes) -> None:
    with FileDisk.open(Disk(image)) as disk, Server([disk]) as server:
        server.sockets[0].sendall(question)
        server.sockets[0].settimeout(60)
        assert server.sockets[0].recv(1) == b""


def test_an_error_leaves_the_conversation_in_step(image: Path) -> None:
    with FileDisk.open(Disk(image)) as disk, Server([disk]) as server:
        remote = RemoteDisk("far", os.dup(server.sockets[0].fileno()))
        os.truncate(image, 4096)
        for _ in range(3):
            with pytest.raises(OSError, match="shorter"):
                remote.write(areas(bytes(70000)), 0)
            with pytest.raises(OSError, match="shorter"):
                remote.read(areas(bytes(70000)), 0)
            remote.write(areas(b"fits"), 0)
        remote.close()
    assert image.read_bytes() == b"fits" + bytes(4092)


def test_a_host_that_has_gone_is_an_error(image: Path) -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with pytest.raises(OSError):
        RemoteDisk("far", theirs.detach())
    with FileDisk.open(Disk(image)) as disk:
        server = Server([disk])
        with server:
            remote = RemoteDisk("far", server.sockets[0].dup().detach())
            server.sockets[0].shutdown(socket.SHUT_RDWR)
            with pytest.raises(OSError):
                remote.flush()
            remote.close()
            assert remote.troubles[0].startswith("far: the last flush failed")
