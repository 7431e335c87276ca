"""The Guest's side of a network card, and the far end of its cable, for the tests of both kinds of link."""

import hashlib
import os
import socket
import struct
import threading
from pathlib import Path
from typing import Any, Self, cast

from launcher.devices.driver import Buffer, Driver, FakeGuest

from kvmhost.host.memory import VmMemory
from kvmhost.launcher.devices.device import Wiring
from kvmhost.launcher.devices.net import RX, TX, Link, Net
from kvmhost.launcher.devices.ring import Place, StopSign, Virtqueue

MAC = bytes.fromhex("02000000beef")
RING = (0x10000, 0x20000)
IRQ = (5, 6)
BUFFERS = 0x40000
OUTGOING = 0x30000
RELEASES = ("2.6.24", "2.6.32", "3.12", "4.1")


class Nic:
    """A Guest of a release with a driver on a card that really runs, on threads of its own."""

    def __init__(self, memory: VmMemory, link: Link, release: str = "3.12", room: int = 1518) -> None:
        self.guest = FakeGuest(memory, release, ram=4 << 20)
        self.said: list[str] = []
        self.device = Net(link, MAC, self.said.append)
        self.room = room
        self.header = self.guest.abi.net_header
        self.accepted = self.device.features(self.guest.abi) if self.guest.abi.features else 0
        self.start()

    def start(self) -> None:
        stop = StopSign()
        places = [Place.contiguous(at, self.guest.abi.ring_entries) for at in RING]
        for place in places:
            self.guest.write(place.descriptors, bytes(4096 * place.pages))
        queues = tuple(
            Virtqueue(cast(Any, self.guest), f"net queue {n}", place, self._poster(IRQ[n]), stop, True)
            for n, place in enumerate(places)
        )
        self.rx, self.tx = (Driver(self.guest, place) for place in places)
        self.queues = queues
        self.device.start(Wiring(cast(Any, self.guest), self.guest.abi, self.accepted, queues, stop))

    def _poster(self, irq: int) -> Any:
        return lambda: self.guest.post(irq)

    def kick(self, index: int) -> None:
        if (self.rx, self.tx)[index].wants_kick:
            self.queues[index].kick()

    def post(self, count: int = 1, room: int | None = None) -> None:
        """Give the card so many receive buffers: a descriptor for the header, one for the frame."""
        for _ in range(count):
            at = BUFFERS + 0x800 * self.rx.free[0]
            self.rx.add([Buffer(at, self.header, True), Buffer(at + 16, room or self.room, True)])
        self.kick(RX)

    def receive(self) -> tuple[bytes, bytes]:
        """The header and the frame in the oldest buffer."""
        self.guest.until(lambda: self.rx.done() or bool(self.guest.ended))
        assert self.rx.done(), self.guest.ended
        head, length = self.rx.take()
        assert length >= self.header, "a used length that has no room for the header"
        at = BUFFERS + 0x800 * head
        return self.guest.read(at, self.header), self.guest.read(at + 16, length - self.header)

    def send(self, frame: bytes, header: bytes | None = None, pieces: int = 1) -> None:
        """Hand a frame over, its body in so many descriptors; wait() says when the card is done with it."""
        header = bytes(self.header) if header is None else header
        # Its place in memory is that of its first descriptor, so that frames in flight do not share one.
        at = OUTGOING + 0x80000 + 0x800 * self.tx.free[0] if len(frame) < 1600 else OUTGOING
        self.guest.write(at, header + frame)
        step = -(-len(frame) // pieces) or 1
        body = [
            Buffer(at + len(header) + done, min(step, len(frame) - done))
            for done in range(0, len(frame), step)
        ]
        self.tx.add([Buffer(at, len(header)), *body])
        self.kick(TX)

    def sent(self) -> int:
        """Wait until the oldest frame came back; the used length."""
        self.guest.until(lambda: self.tx.done() or bool(self.guest.ended))
        assert self.tx.done(), self.guest.ended
        return self.tx.take()[1]

    def close(self) -> None:
        self.device.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def internet_checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Stack:
    """As much of IPv4 as a Guest needs to ask questions: ARP, UDP, ICMP echo, and a TCP that only reads."""

    def __init__(self, nic: Nic, address: str, gateway: str, buffers: int = 32) -> None:
        self.nic = nic
        self.address, self.gateway = socket.inet_aton(address), socket.inet_aton(gateway)
        self.gateway_mac = b""
        nic.post(buffers)

    def frame(self) -> bytes:
        header, frame = self.nic.receive()
        assert header[:2] == bytes(2), "work that nobody agreed to do"
        self.nic.post()
        return frame

    def send(self, kind: int, payload: bytes, to: bytes | None = None) -> None:
        self.nic.send((to or self.gateway_mac) + MAC + struct.pack(">H", kind) + payload)
        self.nic.sent()

    def arp(self) -> bytes:
        """Learn where the gateway is."""
        question = struct.pack(">HHBBH", 1, 0x800, 6, 4, 1)
        self.send(0x806, question + MAC + self.address + bytes(6) + self.gateway, b"\xff" * 6)
        while True:
            frame = self.frame()
            if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2" and frame[28:32] == self.gateway:
                self.gateway_mac = frame[22:28]
                return self.gateway_mac

    def ip(
        self, protocol: int, payload: bytes, source: bytes | None = None, to: bytes | None = None
    ) -> bytes:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0)
        head += (source or self.address) + (to or self.gateway)
        return head[:10] + struct.pack(">H", internet_checksum(head)) + head[12:] + payload

    def datagram(self, protocol: int) -> bytes:
        """The payload of the next IP packet of that protocol; its checksums were right."""
        while True:
            frame = self.frame()
            if frame[12:14] != b"\x08\x00" or frame[23] != protocol:
                continue
            packet = frame[14 : 14 + struct.unpack(">H", frame[16:18])[0]]
            assert internet_checksum(packet[:20]) == 0
            payload = packet[20:]
            if protocol == 1:
                assert internet_checksum(payload) == 0
            elif protocol == 6 or payload[6:8] != b"\0\0":
                assert internet_checksum(self.pseudo(packet[12:20], protocol, payload) + payload) == 0
            return payload

    @staticmethod
    def pseudo(addresses: bytes, protocol: int, payload: bytes) -> bytes:
        return addresses + struct.pack(">HH", protocol, len(payload))

    def udp(self, port: int, data: bytes, source_port: int = 40000) -> bytes:
        """Send a datagram to the gateway, and return the answer."""
        datagram = struct.pack(">HHHH", source_port, port, 8 + len(data), 0) + data
        checksum = internet_checksum(self.pseudo(self.address + self.gateway, 17, datagram) + datagram)
        self.send(0x800, self.ip(17, datagram[:6] + struct.pack(">H", checksum or 0xFFFF) + data))
        while True:
            answer = self.datagram(17)
            if struct.unpack(">HH", answer[:4]) == (port, source_port):
                return answer[8:]

    def ping(self, data: bytes) -> bytes:
        """An ICMP echo to the gateway; the data of the reply."""
        echo = struct.pack(">BBHHH", 8, 0, 0, 7, 1) + data
        self.send(0x800, self.ip(1, echo[:2] + struct.pack(">H", internet_checksum(echo)) + echo[4:]))
        while True:
            reply = self.datagram(1)
            if reply[0] == 0:
                return reply[8:]

    def tcp_segment(self, port: int, flags: int, sequence: int, acknowledged: int, data: bytes = b"") -> None:
        window = min(0xFFFF, 1460 * 24)
        head = struct.pack(">HHIIBBHHH", 40001, port, sequence, acknowledged, 5 << 4, flags, window, 0, 0)
        whole = head + data
        checksum = internet_checksum(self.pseudo(self.address + self.gateway, 6, whole) + whole)
        self.send(0x800, self.ip(6, whole[:16] + struct.pack(">H", checksum) + whole[18:]))

    def tcp_read(self, port: int, request: bytes) -> bytes:
        """Connect, send the request, and read to the end of the stream."""
        fin, syn, rst, ack = 1, 2, 4, 16
        self.tcp_segment(port, syn, 1000, 0)
        received, ours, theirs = bytearray(), 1001, -1
        while True:
            segment = self.datagram(6)
            sequence = struct.unpack(">I", segment[4:8])[0]
            flags = segment[13]
            assert not flags & rst, "the connection was refused or broken off"
            data = segment[4 * (segment[12] >> 4) :]
            if flags & syn:
                theirs = (sequence + 1) & 0xFFFFFFFF
                self.tcp_segment(port, ack, ours, theirs)
                self.tcp_segment(port, ack | 8, ours, theirs, request)
                ours += len(request)
                continue
            if sequence == theirs:
                received += data
                theirs = (theirs + len(data) + (flags & fin)) & 0xFFFFFFFF
            if data or flags & fin:
                self.tcp_segment(port, ack, ours, theirs)
            if sequence + len(data) + 1 & 0xFFFFFFFF == theirs and flags & fin:
                self.tcp_segment(port, ack | fin, ours, theirs)
                return bytes(received)


class Servers:
    """On 127.0.0.1: UDP that answers with the SHA-256 of what it got, and TCP that sends `content`."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = content
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        for opened in (self.udp, self.tcp):
            opened.bind(("127.0.0.1", 0))
        self.tcp.listen()
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._udp, self._tcp)]
        for thread in self.threads:
            thread.start()

    def _udp(self) -> None:
        while True:
            data, who = self.udp.recvfrom(65536)
            if not data:
                return
            self.udp.sendto(hashlib.sha256(data).digest(), who)

    def _tcp(self) -> None:
        while True:
            client, _ = self.tcp.accept()
            with client:
                if not client.recv(100):
                    return
                client.sendall(self.content)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.udp.getsockname())
        socket.create_connection(self.tcp.getsockname()).close()
        for thread in self.threads:
            thread.join()
        self.udp.close()
        self.tcp.close()


def processes_called(name: str) -> set[int]:
    """The ids of this process's children with that name."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            before, _, after = status.read_text().rpartition(")")
        except OSError:
            continue
        if before.endswith(f"({name}") and int(after.split()[1]) == os.getpid():
            found.add(int(status.parent.name))
    return found
