"""A network without root: passt, a program that is a gateway to one Guest and an ordinary user to the
machine.

Frames go to it and come from it over a UNIX stream socket, each behind its length.  It answers ARP and DHCP
itself, and turns each connection of the Guest's into a socket of its own, as if a program of that user had
made it; so a ping passes only where the sysctl net.ipv4.ping_group_range lets programs ping.  Pings of the
addresses that are passt's own are answered here (net_echo.py).  There is nobody to leave a checksum to, so
none is offered.

It lives exactly as long as the socket: it ends when our end closes, however that comes about, also when we
are killed.  When it ends first, what it said last is part of what we say.

Source: passt(1); the framing is that of QEMU's "stream" network backend.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from kvmhost._native import lib
from kvmhost.launcher.devices.net import BUFFERS_AT, ONE_BUFFER, SMALLEST_FRAME, Link, LinkLost
from kvmhost.launcher.devices.net_echo import echo_reply
from kvmhost.launcher.devices.net_error import NetError
from kvmhost.launcher.devices.ring import Chain, Virtqueue

if TYPE_CHECKING:
    import subprocess

PASST: Final = "passt"
INSTALL_LINE: Final = "apt-get install --no-install-recommends passt"

# The Guest's side is the same on every machine, and the one that QEMU's users know.
GUEST: Final = "10.0.2.15"
GATEWAY: Final = "10.0.2.2"
PREFIX: Final = 24
DNS: Final = "10.0.2.3"
GATEWAY_MAC: Final = "02:00:0a:00:02:02"
#: Ethernet's; nobody behind the gateway sees a frame, so no other would be better.
MTU: Final = 1500

# Which machine the gateway's address is: unset, the one that kvmhost runs on; "1", the one around it, when
# kvmhost runs in a lab that it started itself: the person typed the command there.
GATEWAY_OUTSIDE: Final = "KVMHOST_GATEWAY_OUTSIDE"

#: Addresses that only a Guest knows, so nobody else can answer a ping of them.
MADE_UP: Final = frozenset(socket.inet_aton(address) for address in (GATEWAY, DNS))

#: Frames that wait for a Guest without buffers, as many as a TAP of Linux keeps.
MOST_WAITING: Final = 1000
#: passt takes nothing longer (ETH_MAX_MTU), and sends nothing longer.
LONGEST_FRAME: Final = 0xFFFF
#: How long it may take to answer its first question; it is slow on an emulated CPU.
PATIENCE: Final = 30.0
_LENGTH: Final = struct.Struct(">I")
_CHUNK: Final = 1 << 18


def command_line(program: str, fd: int) -> list[str]:
    """The line that starts passt on the socket `fd`.

    All addresses are given, so that nothing depends on how this machine is connected; "lo" only keeps it from
    looking for a default route, which need not exist.

    >>> command_line("passt", 5)[:5]
    ['passt', '--foreground', '--stderr', '--quiet', '--fd']
    """
    line = [program, "--foreground", "--stderr", "--quiet", "--fd", str(fd)]
    line += ["--ipv4-only", "--interface", "lo", "--mac-addr", GATEWAY_MAC, "--mtu", str(MTU)]
    line += ["--address", GUEST, "--netmask", str(PREFIX), "--gateway", GATEWAY, "--dns-forward", DNS]
    if os.environ.get(GATEWAY_OUTSIDE) == "1":
        line.append("--no-map-gw")
    return line


def find_passt() -> str:
    """Where passt is; NetError with the line that installs it if it is not.

    >>> find_passt().endswith("passt")
    True
    """
    program = shutil.which(PASST)
    if program is None:
        sudo = "" if os.geteuid() == 0 else "sudo "
        raise NetError(
            "there is no user network",
            cause="passt is not installed",
            next_step=f"{sudo}{INSTALL_LINE} (or the package passt of your distribution), or --net tap=NAME",
        )
    return program


class UserLink(Link):
    """A cable to a passt of our own, for a Guest with the address `mac` (6 bytes).

    Returns when passt has answered a first question.  program: instead of passt, for tests.  Raises NetError.
    """

    keeps = True

    def __init__(self, mac: bytes, program: Sequence[str] | None = None) -> None:
        super().__init__()
        self.label = "user network"
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._stderr, their_stderr = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            line = command_line(find_passt(), theirs.fileno()) if program is None else [*program]
            self._child = _start(line, theirs, their_stderr)
        except NetError:
            ours.close()
            os.close(self._stderr)
            raise
        finally:
            theirs.close()
            os.close(their_stderr)
        self.fd = ours.fileno()
        self.own = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._buffer = bytearray(_CHUNK)
        self._tail = b""
        self._frames: deque[bytes] = deque()
        self._header = b""
        self._rest = memoryview(b"")
        self._closing = threading.Lock()
        self._wait_until_it_answers(mac)
        ours.setblocking(False)

    def begin(self, header: int, accepted: int) -> None:
        """What came for a driver that is gone is not for the next one."""
        self._frames.clear()
        self._header = bytes(header) if header <= BUFFERS_AT else bytes(BUFFERS_AT) + ONE_BUFFER

    def receive(self, queue: Virtqueue, chain: Chain) -> int | None:
        """The oldest frame, behind a header that says nothing."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.own)
        while not self._frames:
            if not self._fill():
                return None
        data = self._header + self._frames.popleft()
        return len(data) if queue.write(chain, data) == len(data) else 0

    def hoard(self) -> None:
        """Read what is there; passt, which is one thread, would otherwise stand still in both directions.

        What has no room is lost, and it is the newest: with the oldest gone, all that waits behind it would
        come out of order, the Guest would ask for the gap once a frame, and passt send everything again.
        """
        if self._fill():
            while len(self._frames) > MOST_WAITING:
                self._frames.pop()
                self.counters.receive_lost += 1

    def send(self, queue: Virtqueue, chain: Chain) -> bool:
        """A frame that asks for work that was not offered is lost.

        It is copied: what of it has no room in the socket must follow, also when the driver is gone
        meanwhile.
        """
        if not self.flush():
            return False
        data = queue.read(chain)
        length = len(data) - len(self._header)
        if data[0] & lib.VIRTIO_NET_HDR_F_NEEDS_CSUM or data[1] or length > LONGEST_FRAME:
            self.counters.send_lost += 1
            return True
        self.counters.sent += 1
        frame = data[len(self._header) :]
        reply = echo_reply(frame, MADE_UP)
        if reply is not None:
            self._answer(reply)
            return True
        self._rest = memoryview(_LENGTH.pack(length) + frame)
        return True

    def _answer(self, reply: bytes) -> None:
        """Keep it for the thread that receives, unless that many wait already."""
        if len(self._frames) < MOST_WAITING:
            self._frames.append(reply)
            os.eventfd_write(self.own, 1)
        else:
            self.counters.receive_lost += 1

    def flush(self) -> bool:
        """Send what is left of the frame that was taken last."""
        if not self._rest:
            return True
        try:
            self._rest = self._rest[self._socket.send(self._rest) :]
        except BlockingIOError:
            return False
        except OSError as error:
            raise LinkLost(self._last_words(error.strerror or str(error))) from error
        return not self._rest

    def close(self) -> None:
        """Let passt end; it is given a moment, and no more."""
        with self._closing:
            if self.fd < 0:
                return
            self.fd = -1
            self._socket.close()
            self._end()
            os.close(self._stderr)
            os.close(self.own)

    # ---- the stream --------------------------------------------------------------------------

    def _fill(self) -> bool:
        """Read once, and cut it into frames, which may be none yet; False if nothing is there."""
        try:
            size = self._socket.recv_into(self._buffer)
        except BlockingIOError:
            return False
        except OSError as error:
            raise LinkLost(self._last_words(error.strerror or str(error))) from error
        if size == 0:
            raise LinkLost(self._last_words("passt ended"))
        data = self._tail + self._buffer[:size]
        at = 0
        while at + _LENGTH.size <= len(data):
            (length,) = _LENGTH.unpack_from(data, at)
            if not SMALLEST_FRAME <= length <= LONGEST_FRAME:
                raise LinkLost(self._last_words(f"passt sent a frame of {length} bytes"))
            end = at + _LENGTH.size + length
            if end > len(data):
                break
            self._frames.append(bytes(data[at + _LENGTH.size : end]))
            at = end
        self._tail = bytes(data[at:])
        return True

    # ---- the child ----------------------------------------------------------------------------

    def _wait_until_it_answers(self, mac: bytes) -> None:
        """Ask where the gateway is.  What is wrong with passt shows here, before a Guest runs."""
        deadline = time.monotonic() + PATIENCE
        try:
            self._socket.settimeout(PATIENCE)
            question = arp_question(mac)
            self._socket.sendall(_LENGTH.pack(len(question)) + question)
            while not self._frames:
                self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
                if not self._fill():
                    raise LinkLost(self._last_words("passt does not answer"))
            self._frames.clear()
        except (LinkLost, OSError) as error:
            cause = str(error) if isinstance(error, LinkLost) else self._last_words("passt does not answer")
            self.close()
            raise NetError(
                "the user network does not work",
                cause=cause,
                next_step="see passt(1) for what its message means, or use --net tap=NAME",
            ) from error

    def _last_words(self, what: str) -> str:
        """What went wrong, and what passt said to it if it has ended."""
        import subprocess

        try:
            code = self._child.wait(1)
        except subprocess.TimeoutExpired:
            return what
        said = "; ".join(_worth_telling(self._said()))
        return f"{what} ({said or f'exit code {code}'})"

    def _said(self) -> str:
        try:
            return os.read(self._stderr, 1 << 16).decode(errors="replace")
        except BlockingIOError:
            return ""

    def _end(self) -> None:
        import subprocess

        try:
            self._child.wait(1)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def arp_question(mac: bytes) -> bytes:
    """The frame that asks, to everybody, who has the gateway's address (RFC 826).

    >>> len(arp_question(bytes.fromhex("020000000001")))
    42
    """
    who_has = struct.pack(">HHBBH", 1, 0x0800, len(mac), 4, 1)
    return (
        b"\xff" * 6 + mac + b"\x08\x06" + who_has
        + mac + socket.inet_aton(GUEST) + bytes(6) + socket.inet_aton(GATEWAY)
    )  # fmt: skip


def _start(line: list[str], theirs: socket.socket, stderr: int) -> subprocess.Popen[bytes]:
    import subprocess

    try:
        return subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=[theirs.fileno()],
            cwd="/",
            start_new_session=True,  # Ctrl-C is the Guest's, or ours, and not passt's to die of.
        )
    except OSError as error:
        raise NetError(
            "the user network cannot be started",
            cause=f"{line[0]}: {error.strerror}",
            next_step="install passt again, or use --net tap=NAME",
        ) from error


def _worth_telling(said: str) -> list[str]:
    """The lines of passt's that say something about us.

    >>> _worth_telling("Failed to send 47 bytes to syslog\\nNo route\\n")
    ['No route']
    """
    noise = ("Failed to send ", "Don't run as root. Changing to nobody")
    return [line.strip() for line in said.splitlines() if line.strip() and not line.startswith(noise)]
