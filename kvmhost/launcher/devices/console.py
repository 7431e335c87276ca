"""The console: what a Guest prints, and what somebody types.

Queue 1 carries text out.  A Linux Guest waits for each piece of it with interrupts off, so it is said at
once and given back at once, by a thread of its own: somebody who does not read what we print holds up this
thread and whoever waits for it, and nobody else.  Queue 0 carries what is typed in.  It is taken from a
Typing only when there is a buffer to put it in, so nothing is lost while no driver is there, nor when a Guest
is restarted.

A driver asks for the size of the window at different times.  That of 2.6.26 to 2.6.34 looks when the terminal
is opened, later ones only when they are told of a change: on PCI, for lguest's page has no way to.  So on PCI
they are told with the first sign of life in both directions, by when the driver has a place to keep it.

Before there is a driver a Guest of 4.0 on prints through the register emerg_wr, a character at a time; an
older one by hypercall, which does not come here at all.  All three ways end at the same function, in order
(abi 9.7, 10.2).
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Final

from kvmhost.host.abi import BusKind
from kvmhost.launcher.devices.device import Device, Wiring

if TYPE_CHECKING:
    from kvmhost.host.abi import Abi
    from kvmhost.launcher.devices.ring import Virtqueue

# Virtio 1.0, "Console Device": feature bits, and struct virtio_console_config.
F_SIZE: Final = 1 << 0
F_EMERG_WRITE: Final = 1 << 2
_SIZE: Final = struct.Struct("<HH")
_CONFIG: Final = struct.Struct("<HHII")
EMERG_WRITE_AT: Final = 8
PORTS: Final = 1

INPUT, OUTPUT = 0, 1
#: How much of a Guest's text is copied at a time, however much it offers.
PIECE: Final = 65536
#: How much of it is still said when the device is to stop: more than a driver ever leaves behind.
LAST_WORDS: Final = 1 << 20
#: Seconds without a word, nor any more room for input, after which a driver is one that only reads.
SILENCE: Final = 5.0


class Typing:
    """What was typed and nobody has read yet, at most MOST bytes of it.

    One side puts and may wait for room, the other polls `fd` (readable while there is something) and takes.

    >>> typing = Typing()
    >>> typing.put(b"reboot"), typing.take(2), typing.take(9), typing.take(9)
    (6, b're', b'boot', b'')
    """

    MOST: Final = 65536

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._waiting = bytearray()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, typed: bytes) -> int:
        """Add what there is room for; returns how many bytes that was."""
        with self._changed:
            if self._closed:
                return 0
            accepted = typed[: self.MOST - len(self._waiting)]
            if accepted and not self._waiting:
                os.eventfd_write(self.fd, 1)
            self._waiting += accepted
        return len(accepted)

    @property
    def room(self) -> int:
        """How many bytes put() would take now."""
        return self.MOST - len(self._waiting)

    def take(self, most: int) -> bytes:
        """The oldest bytes, at most so many."""
        with self._changed:
            taken = bytes(self._waiting[:most])
            del self._waiting[:most]
            if taken:
                self._changed.notify_all()
                if not self._waiting:
                    os.eventfd_read(self.fd)
        return taken

    def wait_for_room(self) -> bool:
        """Sleep until there is room: True; False once it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._waiting) < self.MOST)
            return not self._closed

    def close(self) -> None:
        """Nothing more can be typed.  After every Console that reads it has been closed."""
        with self._changed:
            if not self._closed:
                self._closed = True
                os.close(self.fd)
            self._changed.notify_all()


class Console(Device):
    """A virtio console.

    output: takes what the Guest prints (a Machine makes it the Guest's own list of listeners if it is None).
    typing: where input comes from; None for one of its own, to be filled by type().  size: columns and rows,
    if there is somebody to tell them; a Guest is offered them where its driver may know what they are.
    on_start, on_stop: told that the driver has come, and has gone.

    >>> console = Console(size=(132, 43))
    >>> console.type(b"ls\\n")
    3
    """

    virtio_id: ClassVar[int] = 3
    queues: ClassVar[int] = 2
    label = "console"

    def __init__(
        self,
        output: Callable[[bytes], object] | None = None,
        typing: Typing | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.output = output
        self.on_start: Callable[[], object] | None = None
        self.on_stop: Callable[[], object] | None = None
        self._own_typing = typing is None
        self.typing = Typing() if typing is None else typing
        self._size = size
        self._size_told: set[int] = set()

    # ---- what the driver is told ----------------------------------------------------------

    def features(self, abi: Abi) -> int:
        """The size where there is one, and on PCI the register for early text."""
        size = 0 if self._size is None else F_SIZE
        return size | F_EMERG_WRITE if abi.bus is BusKind.PCI else size

    def config(self, abi: Abi) -> bytes:
        columns, rows = self._size or (0, 0)
        if abi.bus is BusKind.PCI:
            return _CONFIG.pack(columns, rows, PORTS, 0)
        return _SIZE.pack(columns, rows) if self._size is not None and abi.features else b""

    def write_config(self, offset: int, data: bytes) -> None:
        """emerg_wr prints its lowest byte, whether there is a driver or not."""
        if offset == EMERG_WRITE_AT:
            self._say(data[:1])

    # ---- from outside --------------------------------------------------------------------------

    def type(self, typed: bytes) -> int:
        """Something is typed; returns how many bytes of it had room.  From any thread."""
        return self.typing.put(typed)

    def resize(self, columns: int, rows: int) -> None:
        """Its window has another size; nothing happens if there was none at first.  From any thread."""
        if self._size is not None and self._size != (columns, rows):
            self._size = columns & 0xFFFF, rows & 0xFFFF
            self.config_changed()

    # ---- life ----------------------------------------------------------------------------------

    def start(self, wiring: Wiring) -> None:
        self._size_told = set()
        self._spoken = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            super().start(wiring)
        except BaseException:
            os.close(self._spoken)
            raise
        if self.on_start is not None:
            self.on_start()

    def stop(self) -> None:
        was_running = self.wiring is not None
        super().stop()
        if was_running:
            os.close(self._spoken)
            if self.on_stop is not None:
                self.on_stop()

    def close(self) -> None:
        try:
            super().close()
        finally:
            if self._own_typing:
                self.typing.close()

    def serve(self, wiring: Wiring, index: int) -> None:
        if index == INPUT:
            self._serve_input(wiring, wiring.queues[INPUT])
        else:
            self._serve_output(wiring, wiring.queues[OUTPUT])

    def _serve_input(self, wiring: Wiring, queue: Virtqueue) -> None:
        if wiring.abi.bus is BusKind.PCI and not self._wait_for_its_port(queue):
            return
        while queue.wait_for(self.typing.fd):
            while (chain := queue.pop()) is None:
                if not queue.wait():
                    return
            written = queue.write(chain, self.typing.take(chain.writable_bytes))
            queue.push(chain, written)
            queue.interrupt()
            self._tell_size(INPUT)

    def _wait_for_its_port(self, queue: Virtqueue) -> bool:
        """Drivers of 4.x throw away what comes before they have made their port.

        When the Guest has said something through it, it is made; and when it has long offered room, and no
        more of it lately, for the port comes right behind that.  False if the device is to stop.
        """
        offered = 0
        while not queue.wait_for(self._spoken, timeout=SILENCE):
            if queue.stop.is_set():
                return False
            before, offered = offered, queue.waiting
            if offered and offered == before:
                break
        return True

    def _serve_output(self, wiring: Wiring, queue: Virtqueue) -> None:
        told = wiring.abi.bus is BusKind.TLV
        more = True
        left = LAST_WORDS
        # A Guest may have ended right behind its last kick: when we are to stop, its words are still said.
        # But a few descriptors may name all of its memory again and again.
        while more:
            more = queue.wait()
            heard = False
            while (chain := queue.pop()) is not None:
                for view in queue.iov(chain.readable):
                    for at in range(0, len(view), PIECE):
                        left -= PIECE if wiring.stop.is_set() else 0
                        if left < 0 or not self._utter(wiring, bytes(view[at : at + PIECE])):
                            return
                queue.push(chain, chain.readable_bytes if told else 0)
                heard = True
            if heard:
                os.eventfd_write(self._spoken, 1)
                queue.interrupt()
                self._tell_size(OUTPUT)

    def _tell_size(self, occasion: int) -> None:
        """Once for each occasion: a driver that has seen it asks again, and finds what it had."""
        if self._size is not None and occasion not in self._size_told:
            self._size_told.add(occasion)
            self.config_changed()

    def _utter(self, wiring: Wiring, words: bytes) -> bool:
        """Say it; False, and the end of the run, if that cannot be done."""
        try:
            self._say(words)
        except Exception as error:
            wiring.guest.machine.fail(error)
            return False
        return True

    def _say(self, words: bytes) -> None:
        if self.output is not None:
            self.output(words)
