"""A network card by the rules of each generation, with a far end that the test holds in its hand."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
from launcher.devices.driver import Buffer
from launcher.devices.nic import MAC, OUTGOING, RELEASES, Nic

from kvmhost.host.abi import abi_of
from kvmhost.host.memory import VmMemory
from kvmhost.launcher.devices import net_user
from kvmhost.launcher.devices.net import RX, TX, Net
from kvmhost.launcher.devices.net_error import NetError
from kvmhost.launcher.devices.net_user import MOST_WAITING, UserLink, arp_question

#: What a receive buffer begins with when nobody has anything to say about the frame (abi 10.2, 10.3).
PLAIN_HEADER = {"2.6.24": bytes(8), "2.6.32": bytes(10), "3.12": bytes(10), "4.1": bytes(10) + b"\1\0"}


class FarEnd:
    """In the place of passt: what it gets, what it says, and how it ends."""

    def __init__(self, line: list[str], theirs: socket.socket, stderr: int) -> None:
        self.line = line
        self.socket = theirs.dup()
        self.socket.settimeout(30)
        self.stderr = os.dup(stderr)
        self.code: int | None = None
        self.say(bytes(42))

    def say(self, frame: bytes, length: int | None = None) -> None:
        self.socket.sendall(struct.pack(">I", len(frame) if length is None else length) + frame)

    def hear(self) -> bytes:
        (length,) = struct.unpack(">I", self._exactly(4))
        return self._exactly(length)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            assert more, "the stream ended"
            data += more
        return data

    def end(self, code: int, words: bytes) -> None:
        os.write(self.stderr, words)
        self.code = code
        self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.socket.close()
        os.close(self.stderr)

    # What a link asks of its child.

    def wait(self, timeout: float | None = None) -> int:
        if self.code is None:
            raise subprocess.TimeoutExpired(self.line, timeout or 0)
        return self.code

    def kill(self) -> None:
        self.code = -9


class Cable:
    """A card of some release, and the far end of its cable."""

    def __init__(self, memory: VmMemory, far_ends: list[FarEnd], release: str) -> None:
        self.nic = Nic(memory, UserLink(MAC), release)
        (self.far,) = far_ends
        assert self.far.hear() == arp_question(MAC)
        self.release = release


@pytest.fixture
def far_ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FarEnd]]:
    made: list[FarEnd] = []

    def start(line: list[str], theirs: socket.socket, stderr: int) -> FarEnd:
        made.append(FarEnd(line, theirs, stderr))
        return made[-1]

    monkeypatch.setattr(net_user, "_start", start)
    yield made
    for far in made:
        far.close()


@pytest.fixture(params=RELEASES)
def cable(memory: VmMemory, far_ends: list[FarEnd], request: pytest.FixtureRequest) -> Iterator[Cable]:
    made = Cable(memory, far_ends, request.param)
    yield made
    made.nic.close()


@pytest.fixture
def modern(memory: VmMemory, far_ends: list[FarEnd]) -> Iterator[Cable]:
    made = Cable(memory, far_ends, "4.1")
    yield made
    made.nic.close()


def frame(size: int, seed: int = 0) -> bytes:
    return random.Random(seed or size).randbytes(size)


def test_what_a_driver_is_told(cable: Cable) -> None:
    abi = abi_of(cable.release)
    assert abi is not None
    card = cable.nic.device
    assert (card.virtio_id, card.queues) == (1, 2)
    offered = {"2.6.32": 1 << 5 | 1 << 27 | 1 << 28, "4.1": 1 << 5 | 1 << 28}
    assert card.features(abi) == offered.get(cable.release, card.features(abi))
    assert card.config(abi) == MAC + b"\1\0" + b"\1\0"
    assert card.tlv(abi) == ((0x41, MAC),)


@pytest.mark.parametrize("size", (14, 60, 1514))
@pytest.mark.parametrize("pieces", (1, 3))
def test_a_frame_goes_out_without_its_header(cable: Cable, size: int, pieces: int) -> None:
    cable.nic.send(frame(size), pieces=pieces)
    assert cable.far.hear() == frame(size)
    assert cable.nic.sent() == (size if cable.release == "2.6.24" else 0)


def test_header_and_frame_in_one_piece(cable: Cable) -> None:
    nic = cable.nic
    nic.guest.write(OUTGOING, bytes(nic.header) + frame(100))
    nic.tx.add([Buffer(OUTGOING, nic.header + 100)])
    nic.kick(TX)
    assert cable.far.hear() == frame(100)


def test_frames_come_in_behind_a_plain_header(cable: Cable) -> None:
    cable.nic.post(8)
    for size in (14, 60, 1514):
        cable.far.say(frame(size))
        assert cable.nic.receive() == (PLAIN_HEADER[cable.release], frame(size))
    assert cable.nic.device.link.counters.received == 3


def test_frames_that_come_in_crumbs(cable: Cable) -> None:
    """A stream has no edges: a length may end in the middle, and a frame begin with the end of another."""
    cable.nic.post(16)
    frames = [frame(14 + 7 * number) for number in range(12)]
    stream = b"".join(struct.pack(">I", len(one)) + one for one in frames)
    at, dice = 0, random.Random(4)
    while at < len(stream):
        step = dice.choice((1, 2, 3, 50))
        cable.far.socket.sendall(stream[at : at + step])
        at += step
    assert [cable.nic.receive()[1] for _ in frames] == frames


def test_nobody_waits_for_a_guest_without_buffers(cable: Cable) -> None:
    """Frames that nobody has room for are kept up to a number, what comes then is lost; sending goes on."""
    total = 3 * MOST_WAITING
    for number in range(total):
        cable.far.say(struct.pack(">I", number) + bytes(60))
    cable.nic.send(frame(100))
    assert cable.far.hear() == frame(100)
    cable.nic.sent()
    counters = cable.nic.device.link.counters
    cable.nic.guest.until(lambda: counters.receive_lost == total - MOST_WAITING)
    seen = []
    for _ in range(MOST_WAITING):
        cable.nic.post()
        seen.append(struct.unpack_from(">I", cable.nic.receive()[1])[0])
    assert seen == list(range(MOST_WAITING))


def test_a_frame_longer_than_the_buffer_is_lost_alone(cable: Cable) -> None:
    cable.nic.post(1, room=200)
    for size in (201, 1514, 200):
        cable.far.say(frame(size))
    assert cable.nic.receive()[1] == frame(200)
    assert cable.nic.device.link.counters.receive_lost == 2


def test_the_oldest_kernel_never_sees_a_long_frame(cable: Cable) -> None:
    """2.6.24 stops at one: its frames have 1514 bytes whatever its buffers have (abi 10.2)."""
    cable.nic.post(4, room=1700)
    for size in (1515, 1600, 1514):
        cable.far.say(frame(size))
    first = 1514 if cable.release == "2.6.24" else 1515
    assert cable.nic.receive()[1] == frame(first)


def test_interrupts_are_raised_when_they_are_wanted(modern: Cable) -> None:
    nic = modern.nic
    nic.post(2)
    modern.far.say(frame(60))
    nic.receive()
    nic.guest.until(lambda: 5 in nic.guest.irqs)
    nic.send(frame(60))
    nic.sent()
    nic.guest.until(lambda: 6 in nic.guest.irqs)
    nic.rx.no_interrupts()
    before = len(nic.guest.irqs)
    modern.far.say(frame(61))
    nic.receive()
    # What comes behind it on the other queue shows that the first had its chance.
    nic.send(frame(62))
    nic.sent()
    nic.guest.until(lambda: len(nic.guest.irqs) > before)
    assert nic.guest.irqs[before:] == [6]


SENT_BADLY: dict[str, tuple[Callable[[int], list[tuple[int, int, bool]]], str]] = {
    "nothing at all": (lambda _: [(0x1000, 0, False)], "sends 0 bytes"),
    "half a header": (lambda header: [(0x1000, header - 1, False)], "sends {short} bytes"),
    "a buffer to write": (lambda header: [(0x1000, header, False), (0x2000, 60, True)], "with 60 to write"),
}


@pytest.mark.parametrize("what", SENT_BADLY)
def test_a_chain_that_is_no_frame_ends_the_guest(cable: Cable, what: str) -> None:
    parts, told = SENT_BADLY[what]
    cable.nic.tx.add([Buffer(*part) for part in parts(cable.nic.header)])
    cable.nic.kick(TX)
    cable.nic.guest.until(lambda: bool(cable.nic.guest.ended))
    ((reason, advice),) = cable.nic.guest.ended
    assert told.format(short=cable.nic.header - 1) in reason
    assert "net queue 1" in reason
    assert advice


@pytest.mark.parametrize(
    "parts",
    [
        [(0x1000, 0, True)],
        [(0x1000, 12, True), (0x2000, 9, True)],
        [(0x1000, 12, False), (0x2000, 1518, True)],
        [(0x1000, 1518, False)],
    ],
)
def test_a_receive_buffer_that_is_none_ends_the_guest(
    cable: Cable, parts: list[tuple[int, int, bool]]
) -> None:
    cable.nic.rx.add([Buffer(*part) for part in parts])
    cable.nic.kick(RX)
    cable.nic.guest.until(lambda: bool(cable.nic.guest.ended))
    assert "net queue 0 offers" in cable.nic.guest.ended[0][0]


def lie(flags: int = 0, gso: int = 0) -> bytes:
    return struct.pack("<BB", flags, gso)


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (lie(), 0),
        (lie(), 1),
        (lie(), 13),
        (lie(), 65536),
        (lie(), 65535 + 19),
        (lie(), 200_000),
        (lie(flags=1), 60),
        (lie(gso=1), 60),
        (lie(gso=0x84), 1514),
        (lie(flags=0xFF, gso=0xFF), 60),
    ],
)
def test_a_frame_that_makes_no_sense_is_lost_alone(cable: Cable, header: bytes, size: int) -> None:
    nic = cable.nic
    nic.send(frame(size), header.ljust(nic.header, b"\xff" if any(header) else b"\0"))
    nic.sent()
    nic.send(frame(77))
    nic.sent()
    assert cable.far.hear() == frame(77)
    assert (nic.device.link.counters.sent, nic.device.link.counters.send_lost) == (1, 1)
    assert nic.guest.ended == []


def test_a_far_end_that_does_not_listen_holds_up_nobody_but_the_sender(cable: Cable) -> None:
    """The Guest's queue fills; the device still stops at once, and the stream is whole when it goes on."""
    nic = cable.nic
    link = cast(UserLink, nic.device.link)
    sent = 0
    while len(nic.tx.free) >= 2 or not link._rest:
        while nic.tx.done():
            nic.sent()
        if len(nic.tx.free) >= 2:
            nic.send(struct.pack(">I", sent) + bytes(1500))
            sent += 1
        else:
            nic.guest.until(lambda: nic.tx.done() or bool(link._rest))
    nic.post()
    cable.far.say(frame(90))
    assert nic.receive()[1] == frame(90)
    nic.device.stop()
    nic.start()
    nic.send(b"last" + bytes(60))
    heard = []
    while (got := cable.far.hear())[:4] != b"last":
        assert len(got) == 1504
        heard.append(struct.unpack(">I", got[:4])[0])
    nic.sent()
    assert heard == list(range(len(heard)))
    assert heard


def test_a_lost_link_is_said_once_and_the_guest_lives(cable: Cable) -> None:
    nic = cable.nic
    nic.post(2)
    cable.far.end(1, b"Failed to send 9 bytes to syslog\nout of memory\n")
    for number in range(300):
        nic.send(frame(60 + number % 2))
        nic.sent()
    nic.guest.until(lambda: bool(nic.said))
    nic.device.stop()
    nic.start()
    nic.send(frame(60))
    nic.sent()
    (line,) = nic.said
    assert "user network" in line
    assert "out of memory" in line
    assert "syslog" not in line
    assert "the Guest goes on without it" in line
    assert nic.guest.ended == []


def test_a_lost_link_is_said_on_stderr(
    far_ends: list[FarEnd], memory: VmMemory, capsys: pytest.CaptureFixture[str]
) -> None:
    with Nic(memory, UserLink(MAC), "4.1") as nic:
        nic.device._say = Net(nic.device.link, MAC)._say
        far_ends[0].end(1, b"tired\n")
        said: list[str] = []
        while not said:
            nic.send(frame(60))
            nic.sent()
            said = capsys.readouterr().err.splitlines(keepends=True)
    (line,) = said
    assert line.startswith("kvmhost: network card (user network) is cut off: ")
    assert line.endswith(" (tired); the Guest goes on without it\n")


@pytest.mark.parametrize("length", (0, 13, 65536, 0xFFFFFFFF))
def test_a_far_end_that_breaks_the_framing_is_cut_off(modern: Cable, length: int) -> None:
    modern.nic.post(2)
    modern.far.say(frame(100))
    assert modern.nic.receive()[1] == frame(100)
    modern.far.say(b"", length)
    modern.nic.guest.until(lambda: bool(modern.nic.said))
    assert f"a frame of {length} bytes" in modern.nic.said[0]
    assert modern.nic.guest.ended == []


def test_a_new_driver_hears_nothing_of_what_was_kept_for_the_old_one(modern: Cable) -> None:
    counters = modern.nic.device.link.counters
    for number in range(MOST_WAITING + 1):
        modern.far.say(frame(64, number + 1))
    modern.nic.guest.until(lambda: counters.receive_lost == 1)
    modern.nic.device.stop()
    modern.nic.start()
    modern.nic.post()
    modern.far.say(frame(99))
    assert modern.nic.receive()[1] == frame(99)


# ---- the child that is started ---------------------------------------------------------------


def stand_in(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A passt that does something else."""
    path = folder / "passt"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


# Its fifth argument is the socket.
THREE_BYTES = 'import os, sys; os.write(int(sys.argv[1]), b"\\0\\0\\0\\3abc"); sys.stdin.read()'


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo 'no namespaces here' >&2; exit 1", "no namespaces here"),
        ("exit 3", "exit code 3"),
        ("kill -SEGV $$", "exit code -11"),
        (f"exec {sys.executable} -c '{THREE_BYTES}' $5", "a frame of 3 bytes"),
    ],
)
def test_a_passt_that_does_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: str
) -> None:
    stand_in(tmp_path, script, monkeypatch)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(NetError, match="user network does not work") as caught:
        UserLink(MAC)
    assert told in caught.value.cause
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_passt_that_never_answers_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, f"echo $$ >{tmp_path}/pid; exec sleep 1000", monkeypatch)
    monkeypatch.setattr(net_user, "PATIENCE", 0.05)
    with pytest.raises(NetError):
        UserLink(MAC)
    if (tmp_path / "pid").exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)


ORPHAN = """
import sys, time
from kvmhost.launcher.devices.net_user import UserLink
link = UserLink(bytes.fromhex("02000000beef"))
print(link._child.pid, flush=True)
sys.stdin.read()
"""


def test_passt_ends_when_kvmhost_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", ORPHAN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        passt = int(owner.stdout.readline())
        assert Path(f"/proc/{passt}").exists()
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        subprocess.run(["tail", f"--pid={passt}", "-f", "/dev/null"], check=True, timeout=60)
