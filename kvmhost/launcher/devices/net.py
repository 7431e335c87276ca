"""A network card: frames from a Guest's ring go into a cable, and what the cable brings goes into its
buffers.

The card knows rings and virtio's header; what hangs at the other end of the cable (a TAP of this machine,
or a user's own network stack) is a Link's business (net_tap.py, net_user.py).  One thread receives and
another one sends, so that neither a slow Guest nor a slow network holds up the other direction, or the
vCPU.

Nobody waits for a Guest that has no buffers: what comes meanwhile is kept as far as a queue of ordinary
length goes, and then lost, as on any card.  The other way round the sender waits, and the Guest's own queue
fills.  A frame that makes no sense is lost alone; only a chain that is no frame at all (no room for a
header) breaks a rule.
"""

from __future__ import annotations

import select
import struct
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from kvmhost._native import ffi, lib
from kvmhost.host.abi import Abi, BusKind
from kvmhost.launcher.devices.device import Device, Wiring
from kvmhost.launcher.devices.ring import Chain, RingBroken, Virtqueue

RX: Final = 0
TX: Final = 1

#: What the frames of 2.6.24 may have at most; its driver stops its kernel at a longer one (abi 10.2).
ORDINARY_FRAME: Final[int] = lib.ETH_FRAME_LEN
SMALLEST_FRAME: Final[int] = lib.ETH_HLEN
#: An IP packet of the largest size behind an Ethernet header with a VLAN tag.
LARGEST_FRAME: Final = 0xFFFF + SMALLEST_FRAME + 4

#: virtio 1.0 has one more field behind the header of before: how many buffers a frame fills.
BUFFERS_AT: Final[int] = ffi.sizeof("struct virtio_net_hdr")
ONE_BUFFER: Final = struct.pack("<H", 1)
#: Bytes of the header that 2.6.24 has: hdr_len is missing.
OLDEST_HEADER: Final = BUFFERS_AT - 2

# mac, status, max_virtqueue_pairs; packed (abi 10.2).
_CONFIG: Final = struct.Struct("<6sHH")

#: Type of the MAC address in 2.6.24's list (abi 10.2).
TLV_MAC: Final = 0x41

INDIRECT_BIT: Final = 1 << int(lib.VIRTIO_F_INDIRECT)
MAC_BIT: Final = 1 << int(lib.VIRTIO_NET_F_MAC)
#: Lets the driver put the header and the frame into one descriptor; virtio 1.0 always may.
ANY_LAYOUT_BIT: Final = 1 << int(lib.VIRTIO_F_ANY_LAYOUT)


class LinkLost(Exception):
    """The other end is gone for good; str() says what became of it."""


@dataclass(slots=True)
class Counters:
    """Frames since the card was made; what is lost was too long, made no sense, or found no room."""

    received: int = 0
    receive_lost: int = 0
    sent: int = 0
    send_lost: int = 0


class Link(ABC):
    """What a card's cable leads to.

    label: for people.  offloads: the feature bits (as a mask) of the checksums and segmentations that the
    other end does, in both directions.  fd: readable when a frame may be there, writable when one may be
    sent.  own: readable when the link has a frame of its own making; -1 if it makes none.  keeps: it must be
    read even if nobody has room (hoard).
    """

    label: str
    offloads: int = 0
    fd: int
    own: int = -1
    keeps: bool = False

    def __init__(self) -> None:
        self.counters = Counters()

    @abstractmethod
    def begin(self, header: int, accepted: int) -> None:
        """A driver comes: headers have so many bytes, and these features were accepted.  Raises LinkLost."""

    @abstractmethod
    def receive(self, queue: Virtqueue, chain: Chain) -> int | None:
        """Put one frame with its header into the chain: its bytes; 0 if it was lost; None if none is there.

        Raises LinkLost.
        """

    @abstractmethod
    def send(self, queue: Virtqueue, chain: Chain) -> bool:
        """Take the frame in the chain; False: not yet, try again when fd is writable.  Raises LinkLost."""

    def flush(self) -> bool:
        """Whether all that was taken is on its way; False: ask again when fd is writable (LinkLost)."""
        return True

    def hoard(self) -> None:
        """The Guest has no room, and the other end must not wait.  Raises LinkLost."""
        return

    @abstractmethod
    def close(self) -> None:
        """Nobody uses it any more.  Twice is as good as once."""


class Net(Device):
    """A network card with the address `mac` (6 bytes) at one end of a link, which it closes with itself.

    say: takes the one line that is told when the link is lost.
    """

    virtio_id = 1
    queues = 2

    def __init__(self, link: Link, mac: bytes, say: Callable[[str], None] | None = None) -> None:
        super().__init__()
        self.link = link
        self.mac = mac
        self.label = f"network card ({link.label})"
        self._say = _say if say is None else say
        self._header = 0
        self._lost = False
        self._losing = threading.Lock()

    def features(self, abi: Abi) -> int:
        """Its address, indirect chains, and what the link can do (abi 10.2)."""
        any_layout = ANY_LAYOUT_BIT if abi.bus is not BusKind.PCI else 0
        return INDIRECT_BIT | MAC_BIT | any_layout | self.link.offloads

    def config(self, abi: Abi) -> bytes:
        """The address, and fields of features that are not offered: the link is up, one pair of queues."""
        return _CONFIG.pack(self.mac, lib.VIRTIO_NET_S_LINK_UP, 1)

    def tlv(self, abi: Abi) -> tuple[tuple[int, bytes], ...]:
        """The address is all that 2.6.24 is told."""
        return ((TLV_MAC, self.mac),)

    def start(self, wiring: Wiring) -> None:
        """Agree with the link, then start receiving and sending."""
        self._header = wiring.abi.net_header
        if not self._lost:
            try:
                self.link.begin(self._header, wiring.accepted)
            except LinkLost as lost:
                self._lose(lost)
        super().start(wiring)

    def serve(self, wiring: Wiring, index: int) -> None:
        """One direction, to its end; when the link is lost what is sent is lost as well, and the Guest
        lives."""
        queue = wiring.queues[index]
        if index == TX:
            self._send(queue, wiring.abi)
        elif not self._lost:
            try:
                self._receive(queue, ORDINARY_FRAME if self._header == OLDEST_HEADER else LARGEST_FRAME)
            except LinkLost as lost:
                self._lose(lost)

    def close(self) -> None:
        """Stop, and unplug."""
        try:
            super().close()
        finally:
            self.link.close()

    # ---- one thread each ---------------------------------------------------------------

    # A buffer first, then a frame to put into it.  The Guest hears of what it got when no more is
    # there, or when it has no buffer left: one interrupt for many frames costs it least.
    def _receive(self, queue: Virtqueue, longest: int) -> None:
        link, counters = self.link, self.link.counters
        incoming = select.poll()
        incoming.register(link.fd, select.POLLIN)
        if link.own >= 0:
            incoming.register(link.own, select.POLLIN)
        incoming.register(queue.stop.fd, select.POLLIN)
        chain: Chain | None = None
        untold = False
        while not queue.stop.is_set():
            if chain is None:
                chain = queue.pop()
                if chain is None:
                    if untold:
                        queue.interrupt()
                        untold = False
                    self._wait_for_room(queue)
                    continue
                self._check_room(queue, chain)
            length = link.receive(queue, chain)
            if length is None:
                if untold:
                    queue.interrupt()
                    untold = False
                incoming.poll()
            elif self._header < length <= self._header + longest:
                queue.push(chain, length)
                counters.received += 1
                chain, untold = None, True
            else:
                counters.receive_lost += 1

    def _wait_for_room(self, queue: Virtqueue) -> None:
        if self.link.keeps:
            self.link.hoard()
            queue.wait(also=self.link.fd)
        else:
            queue.wait()

    def _check_room(self, queue: Virtqueue, chain: Chain) -> None:
        if chain.readable or chain.writable_bytes < self._header + SMALLEST_FRAME:
            raise RingBroken(
                f"its {queue.name} offers {chain.writable_bytes} bytes for a frame, with"
                f" {chain.readable_bytes} to read",
                f"a header of {self._header} bytes and a frame must fit, and nothing else",
            )

    def _send(self, queue: Virtqueue, abi: Abi) -> None:
        # 2.6.24 counts what it is told was sent, all others are told nothing (abi 10.2).
        tells_length = abi.bus is BusKind.TLV
        while queue.wait():
            while (chain := queue.pop()) is not None:
                length = chain.readable_bytes - self._header
                if chain.writable or length < 0:
                    raise RingBroken(
                        f"its {queue.name} sends {chain.readable_bytes} bytes, with"
                        f" {chain.writable_bytes} to write",
                        f"a frame has a header of {self._header} bytes before it, and nothing is answered",
                    )
                if not self._lost and SMALLEST_FRAME <= length <= LARGEST_FRAME:
                    if not self._send_one(queue, chain):
                        return
                else:
                    self.link.counters.send_lost += 1
                queue.push(chain, length if tells_length else 0)
            queue.interrupt()

    def _send_one(self, queue: Virtqueue, chain: Chain) -> bool:
        """False: the device is to stop.  A frame that the link was lost with is lost as well."""
        try:
            for step in (partial(self.link.send, queue, chain), self.link.flush):
                while not step():
                    if not queue.wait_for(self.link.fd, select.POLLOUT):
                        return False
        except LinkLost as lost:
            self._lose(lost)
        return True

    def _lose(self, lost: LinkLost) -> None:
        """Both directions may notice; it is said once."""
        with self._losing:
            told, self._lost = self._lost, True
        if not told:
            self._say(f"{self.label} is cut off: {lost}; the Guest goes on without it")


def _say(text: str) -> None:
    # A terminal that is lent to the Guest does not go back to the left by itself.
    end = "\r\n" if sys.stderr.isatty() else "\n"
    print(f"kvmhost: {text}", file=sys.stderr, end=end, flush=True)
