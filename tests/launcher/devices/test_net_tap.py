"""A real TAP in the lab, with the kernel's own network stack at the other end."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from launcher.devices.driver import Buffer
from launcher.devices.nic import MAC, OUTGOING, RELEASES, RX, TX, Nic, Stack, internet_checksum
from launcher.devices.tap_peer import ADDRESS, NAME

from kvmhost.host.memory import VmMemory
from kvmhost.launcher.devices.net_tap import OFFLOADS, TapLink

GUEST = "192.168.77.2"
TCP4 = 1
NEEDS_CHECKSUM = 1

pytestmark = pytest.mark.lab


class Peer:
    """The process on the machine's side."""

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(120)
        with theirs:
            line = [sys.executable, "-P", "-m", "launcher.devices.tap_peer", str(theirs.fileno())]
            tests = Path(__file__).parent.parent.parent
            environment = {**os.environ, "PYTHONPATH": str(tests)}
            self.process = subprocess.Popen(line, pass_fds=[theirs.fileno()], env=environment)
        told, (self.tap,), _, _ = socket.recv_fds(self.channel, 100, 1)
        self.told = told.decode().split()

    def order(self, what: bytes) -> None:
        self.channel.send(what)
        assert self.channel.recv(100) == b"done"

    def close(self) -> None:
        os.close(self.tap)
        self.channel.close()
        assert self.process.wait(60) == 0


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    """One for all tests that leave it as it was: starting a Python takes its time in the lab."""
    made = Peer()
    yield made
    made.close()


@pytest.fixture
def own_peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


def card(memory: VmMemory, peer: Peer, release: str, room: int = 1518) -> Nic:
    return Nic(memory, TapLink(os.dup(peer.tap), NAME), release, room)


@pytest.mark.parametrize("release", RELEASES)
def test_what_a_guest_can_do_on_a_tap(memory: VmMemory, peer: Peer, release: str) -> None:
    """ARP, ping, datagrams: with the offloads refused, every checksum is complete on both sides."""
    assert peer.told == ["False", "True"]
    with card(memory, peer, release) as nic:
        nic.device.stop()
        nic.accepted = 0
        nic.start()
        stack = Stack(nic, GUEST, ADDRESS)
        stack.arp()
        assert stack.ping(b"are you there") == b"are you there"
        data = random.Random(1).randbytes(1400)
        assert stack.udp(7, data) == hashlib.sha256(data).digest()
        assert nic.guest.ended == []


def test_work_that_was_agreed_upon_is_left_to_the_other_side(memory: VmMemory, peer: Peer) -> None:
    """Frames of many packets come in, and a checksum that was left undone on the way out is done."""
    with card(memory, peer, "4.1", room=65000) as nic:
        assert nic.device.features(nic.guest.abi) & OFFLOADS == OFFLOADS
        assert bin(OFFLOADS).count("1") == 8
        nic.device.stop()
        nic.start()
        for number in range(4):
            at = 0x100000 + 0x11000 * number
            nic.rx.add([Buffer(at, 12, True), Buffer(at + 16, 65000, True)])
        nic.kick(RX)
        talk = Offloaded(nic)
        content = talk.read(80)
        whole = bytes(range(251)) * (100_000 // 251 + 1)
        assert content == whole
        assert talk.largest > 1514, "no frame of several packets ever came"
        assert nic.guest.ended == []


class Offloaded:
    """A TCP that leaves its checksums to the card, and takes frames of many packets (virtio 1.0, 5.1.6)."""

    def __init__(self, nic: Nic) -> None:
        self.nic = nic
        self.largest = 0
        self.gateway_mac = b""

    def read(self, port: int) -> bytes:
        self.arp()
        ours, theirs = 1001, 0
        received = bytearray()
        self.segment(port, 2, 1000, 0)
        while True:
            header, frame = self.frame()
            if frame[12:14] != b"\x08\x00" or frame[23] != 6:
                continue
            self.largest = max(self.largest, len(frame))
            if len(frame) > 1514:
                assert header[1] & 0x7F == TCP4
                assert struct.unpack_from("<H", header, 4)[0] == 1460
            tcp = frame[34 : 14 + struct.unpack_from(">H", frame, 16)[0]]
            sequence, flags = struct.unpack_from(">I", tcp, 4)[0], tcp[13]
            assert not flags & 4
            data = tcp[4 * (tcp[12] >> 4) :]
            if flags & 2:
                theirs = sequence + 1 & 0xFFFFFFFF
                self.segment(port, 16, ours, theirs)
                self.segment(port, 24, ours, theirs, b"please")
                ours += 6
                continue
            if sequence == theirs:
                received += data
                theirs = theirs + len(data) + (flags & 1) & 0xFFFFFFFF
            self.segment(port, 16 | (flags & 1), ours, theirs)
            if flags & 1:
                return bytes(received)

    def frame(self) -> tuple[bytes, bytes]:
        nic = self.nic
        nic.guest.until(nic.rx.done)
        at = nic.rx.place.used + 4 + 8 * (nic.rx.collected % nic.rx.place.entries)
        head = struct.unpack("<I", nic.guest.read(at, 4))[0]
        address = struct.unpack("<Q", nic.guest.read(nic.rx.place.descriptors + 16 * head, 8))[0]
        _, length = nic.rx.take()
        header, frame = nic.guest.read(address, 12), nic.guest.read(address + 16, length - 12)
        nic.rx.add([Buffer(address, 12, True), Buffer(address + 16, 65000, True)])
        nic.kick(RX)
        return header, frame

    def arp(self) -> None:
        ours, theirs = socket.inet_aton(GUEST), socket.inet_aton(ADDRESS)
        question = struct.pack(">HHBBH", 1, 0x800, 6, 4, 1) + MAC + ours + bytes(6) + theirs
        self.nic.send(b"\xff" * 6 + MAC + b"\x08\x06" + question)
        self.nic.sent()
        while not self.gateway_mac:
            _, frame = self.frame()
            if frame[12:14] == b"\x08\x06" and frame[28:32] == theirs and frame[20:22] == b"\0\2":
                self.gateway_mac = frame[22:28]

    def segment(self, port: int, flags: int, sequence: int, acknowledged: int, data: bytes = b"") -> None:
        addresses = socket.inet_aton(GUEST) + socket.inet_aton(ADDRESS)
        # The largest segment we take is told once, and our window is far larger: so many come at once.
        options = struct.pack(">BBH", 2, 4, 1460) if flags & 2 else b""
        words = 5 + len(options) // 4
        partial = ~internet_checksum(addresses + struct.pack(">HH", 6, 4 * words + len(data))) & 0xFFFF
        head = struct.pack(
            ">HHIIBBHHH", 40001, port, sequence, acknowledged, words << 4, flags, 0xFFFF, partial, 0
        )
        tcp = head + options + data
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0) + addresses
        ip = ip[:10] + struct.pack(">H", internet_checksum(ip)) + ip[12:]
        header = struct.pack("<BBHHHHH", NEEDS_CHECKSUM, 0, 54, 0, 34, 16, 0)
        self.nic.send(self.gateway_mac + MAC + b"\x08\x00" + ip + tcp, header)
        self.nic.sent()


def net_header(flags: int, gso: int, head: int, size: int, start: int, offset: int) -> bytes:
    return struct.pack("<BBHHHH", flags, gso, head, size, start, offset)


LIES = {
    "a checksum beyond the frame": net_header(1, 0, 0, 0, 5000, 16),
    "a checksum at the last byte": net_header(1, 0, 0, 0, 59, 16),
    "a checksum field beyond the frame": net_header(1, 0, 0, 0, 34, 0xFFFF),
    "segments of no kind": net_header(1, 0x55, 54, 1460, 34, 16),
    "segments of no size": net_header(1, TCP4, 54, 0, 34, 16),
    "segments without a checksum": net_header(0, TCP4, 54, 1460, 0, 0),
    "headers longer than the frame": net_header(1, TCP4, 0xFFFF, 1460, 34, 16),
    "every bit": b"\xff" * 10,
}


@pytest.mark.parametrize("release", ("2.6.24", "4.1"))
def test_a_header_that_lies_costs_its_frame_alone(memory: VmMemory, peer: Peer, release: str) -> None:
    with card(memory, peer, release) as nic:
        for header in LIES.values():
            nic.send(bytes(range(60)), header.ljust(nic.header, b"\0")[: nic.header])
            nic.sent()
        for size in (0, 1, 13, 14, 65536, 65535 + 18, 65535 + 19, 100_000):
            nic.send(bytes(size))
            nic.sent()
        stack = Stack(nic, GUEST, ADDRESS)
        stack.arp()
        assert stack.ping(b"still there") == b"still there"
        assert nic.said == []
        assert nic.guest.ended == []


def test_an_interface_that_is_switched_off_and_on(memory: VmMemory, peer: Peer) -> None:
    with card(memory, peer, "4.1") as nic:
        stack = Stack(nic, GUEST, ADDRESS)
        stack.arp()
        peer.order(b"off")
        nic.send(bytes(60))
        nic.sent()
        assert nic.device.link.counters.send_lost == 1
        peer.order(b"on")
        stack.arp()
        assert stack.ping(b"and back") == b"and back"
        assert nic.said == []


def test_an_interface_that_is_removed(memory: VmMemory, own_peer: Peer) -> None:
    """The link is lost, which is said once; the Guest sends into the void and lives."""
    with card(memory, own_peer, "4.1") as nic:
        Stack(nic, GUEST, ADDRESS).arp()
        own_peer.order(b"remove")
        for _ in range(40):
            nic.send(bytes(60))
            nic.sent()
        nic.guest.until(lambda: bool(nic.said))
        (line,) = nic.said
        assert f"TAP {NAME}" in line
        assert "its interface was removed" in line
        nic.device.stop()
        nic.start()
        assert len(nic.said) == 1
        assert nic.guest.ended == []


def test_a_tap_floods_a_guest_without_buffers(memory: VmMemory, peer: Peer) -> None:
    """The kernel keeps what it keeps; the Guest sends all the same, and hears again when it has room."""
    with card(memory, peer, "3.12") as nic:
        nic.guest.write(OUTGOING, bytes(nic.header) + bytes(60))
        for _ in range(300):
            nic.tx.add([Buffer(OUTGOING, nic.header + 60)])
            nic.kick(TX)
            nic.sent()
        stack = Stack(nic, GUEST, ADDRESS)
        stack.arp()
        assert stack.ping(b"room again") == b"room again"


def test_a_tap_is_busy_and_told_so() -> None:
    """Two programs cannot have one TAP: the second is told, in a process of its own namespaces."""
    script = (
        "from launcher.devices.tap_peer import *\n"
        "from kvmhost.launcher.devices.net_error import NetError\n"
        "enter_namespaces()\n"
        "first = open_tap(NAME)\n"
        "try:\n    open_tap(NAME)\n"
        "except NetError as error:\n    print(error.cause)\n"
    )
    tests = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env={**os.environ, "PYTHONPATH": str(tests)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "another program uses it already\n", done.stderr
