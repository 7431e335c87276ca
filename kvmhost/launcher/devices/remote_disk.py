"""A disk that another process has open: how the Guests in a lab come by their disks.

The process that started the lab opens and locks the file, or the block device, on the real machine, and
serves it over a byte stream; the process inside the lab asks for what its Guest asks for.  So a lab reaches
exactly the disks that were named, whatever else the user may write, and a flush is answered when the real
fdatasync has returned.

A question is 16 bytes (what, how many bytes, where) and, for a write, the data.  An answer is 16 bytes too
(errno, how much follows, a size) and then the data read, or a sentence.  One question at a time.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Sequence
from enum import IntEnum
from functools import partial
from socket import MSG_WAITALL, socket, socketpair
from typing import Final, Self

from kvmhost.host.clock import start_thread
from kvmhost.launcher.devices.disk import MOST_AREAS, PIECE, Areas, OpenDisk

QUESTION: Final = struct.Struct("<IIQ")
ANSWER: Final = struct.Struct("<IIQ")
# A virtio-serial port gives a reader at most so many bytes at once.  Areas cut to fit take one call.
PORTION: Final = 4096


class Ask(IntEnum):
    """What is asked.  HELLO is answered with the size, and one byte more if the disk is for reading only."""

    HELLO = 1
    READ = 2
    WRITE = 3
    FLUSH = 4


class RemoteDisk(OpenDisk):
    """The asking side.  `name`: what people call it.  `fd`: our end of the stream, ours from now on.

    Raises OSError if nobody answers, or not as it should be.
    """

    def __init__(self, name: str, fd: int) -> None:
        self._fd = fd
        self._one_at_a_time = threading.Lock()
        try:
            self._send(Ask.HELLO, 0, 0)
            readonly, size = self._answer()
            self._receive([memoryview(bytearray(readonly))])
        except BaseException:
            os.close(fd)
            raise
        super().__init__(name, bool(readonly), size)

    def read(self, areas: Areas, at: int) -> None:
        """See OpenDisk."""
        count = sum(map(len, areas))
        with self._one_at_a_time:
            self._send(Ask.READ, count, at)
            if self._answer()[0] != count:
                raise OSError(errno.EIO, "the lab's host answered with less")
            self._receive(areas)

    def write(self, areas: Areas, at: int) -> None:
        """See OpenDisk."""
        count = sum(map(len, areas))
        with self._one_at_a_time:
            self._send(Ask.WRITE, count, at, areas)
            self._answer()

    def flush(self) -> None:
        """See OpenDisk."""
        with self._one_at_a_time:
            self._send(Ask.FLUSH, 0, 0)
            self._answer()

    def close(self) -> None:
        """See OpenDisk.  Whoever serves it lets go of the file when the lab has ended."""
        if self._fd < 0:
            return
        self.flush_at_last()
        fd, self._fd = self._fd, -1
        os.close(fd)

    def _send(self, what: Ask, count: int, at: int, areas: Areas = ()) -> None:
        # One piece of memory: a port would take each area by an exit of its own.
        if not 0 <= at < 1 << 64 or count > PIECE:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        data = memoryview(b"".join([QUESTION.pack(what, count, at), *areas]))
        while data:
            data = data[os.write(self._fd, data) :]

    def _answer(self) -> tuple[int, int]:
        """How many bytes follow, and the size; an answer that is an error is raised."""
        head = memoryview(bytearray(ANSWER.size))
        self._receive([head])
        number, count, size = ANSWER.unpack(head)
        if number:
            text = memoryview(bytearray(count))
            self._receive([text])
            raise OSError(number, bytes(text).decode(errors="replace"))
        return count, size

    def _receive(self, areas: Areas) -> None:
        todo = cut(areas, PORTION)
        while todo:
            count = os.readv(self._fd, todo[:MOST_AREAS])
            if not count:
                raise OSError(errno.EIO, "the lab's host has gone")
            while todo and count >= len(todo[0]):
                count -= len(todo.pop(0))
            if count:
                todo[0] = todo[0][count:]


def cut(areas: Areas, most: int) -> list[memoryview]:
    """The same memory in areas of at most so many bytes, none of them empty.

    >>> [len(area) for area in cut([memoryview(bytes(5)), memoryview(b""), memoryview(b"x")], 2)]
    [2, 2, 1, 1]
    """
    return [area[start : start + most] for area in areas for start in range(0, len(area), most)]


class Server:
    """The answering side: a thread for each disk, for as long as the block runs.

    `sockets` are what the other sides are given, one for each disk; the disks stay the caller's.  The end of
    the block waits until everybody has gone: whoever has the sockets must have closed them.

    >>> import tempfile
    >>> from kvmhost.launcher.devices.claim import Disk
    >>> from kvmhost.launcher.devices.disk import FileDisk
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.truncate(1024)
    ...     with FileDisk.open(Disk(file.name)) as disk, Server([disk]) as server:
    ...         with RemoteDisk("far away", os.dup(server.sockets[0].fileno())) as remote:
    ...             remote.write([memoryview(b"a word")], 512)
    ...     os.pread(file.fileno(), 6, 512)
    b'a word'
    """

    def __init__(self, disks: Sequence[OpenDisk]) -> None:
        self._disks = disks
        self.sockets: list[socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        for disk in self._disks:
            ours, theirs = socketpair()
            self.sockets.append(theirs)
            self._threads.append(start_thread(partial(serve, disk, ours), f"serves {disk.name}"))
        return self

    def __exit__(self, *_: object) -> None:
        for theirs in self.sockets:
            theirs.close()
        for thread in self._threads:
            thread.join()


def serve(disk: OpenDisk, stream: socket) -> None:
    """Answer questions until the stream ends, and then flush.  The stream is closed, the disk is not."""
    with stream:
        try:
            while len(head := stream.recv(QUESTION.size, MSG_WAITALL)) == QUESTION.size:
                answer(disk, stream, *QUESTION.unpack(head))
        except OSError:
            pass  # The lab was switched off, perhaps in the middle of a word.
    disk.flush_at_last()


def answer(disk: OpenDisk, stream: socket, what: int, count: int, at: int) -> None:
    """One answer.  A question that nobody of ours would ask ends the conversation: OSError."""
    if what not in set(Ask) or count > PIECE:
        raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
    follows = b""
    try:
        if what == Ask.HELLO:
            follows = b"r" if disk.readonly else b""
        elif what == Ask.READ:
            data = bytearray(count)
            disk.read([memoryview(data)], at)
            follows = bytes(data)
        elif what == Ask.WRITE:
            disk.write([memoryview(take(stream, count))], at)
        else:
            disk.flush()
    except ConnectionError:
        raise
    except OSError as error:
        text = str(error.strerror).encode()
        stream.sendall(ANSWER.pack(error.errno or errno.EIO, len(text), 0) + text)
    else:
        stream.sendall(ANSWER.pack(0, len(follows), disk.size) + follows)


def take(stream: socket, count: int) -> bytearray:
    """Exactly so many bytes; ConnectionError if the stream ends before."""
    data = bytearray(count)
    left = memoryview(data)
    while left:
        got = stream.recv_into(left)
        if not got:
            raise ConnectionError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        left = left[got:]
    return data
