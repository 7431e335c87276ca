"""Pings that are answered here: by frames put together in the long way, and frames that are none."""

import random
import socket
import struct

import pytest
from launcher.devices.nic import MAC, internet_checksum

from kvmhost.launcher.devices.net_echo import echo_reply

GUEST, GATEWAY = socket.inet_aton("10.0.2.15"), socket.inet_aton("10.0.2.2")
GATEWAY_MAC = bytes.fromhex("02000a000202")
OURS = frozenset({GATEWAY})
ECHO, REPLY = 8, 0


def packet(kind: int, data: bytes, source: bytes, target: bytes, options: bytes = b"") -> bytes:
    """An IPv4 packet with an ICMP message, each of its checksums computed over the whole (RFC 791, 792)."""
    echo = struct.pack(">BBHHH", kind, 0, 0, 7, 1) + data
    echo = echo[:2] + struct.pack(">H", internet_checksum(echo)) + echo[4:]
    size = 20 + len(options)
    head = struct.pack(">BBHHHBBH", 0x40 | size // 4, 0, size + len(echo), 1, 0x4000, 64, 1, 0)
    head += source + target + options
    return head[:10] + struct.pack(">H", internet_checksum(head)) + head[12:] + echo


def question(data: bytes = b"are you there", options: bytes = b"") -> bytes:
    return GATEWAY_MAC + MAC + b"\x08\x00" + packet(ECHO, data, GUEST, GATEWAY, options)


@pytest.mark.parametrize("options", [b"", b"\x01" * 4, b"\x01" * 40], ids=["plain", "options", "all options"])
def test_the_answer_is_what_was_asked(options: bytes) -> None:
    numbers = random.Random(1)
    for size in [*range(9), *(numbers.randrange(1400) for _ in range(200))]:
        data = numbers.randbytes(size)
        answer = echo_reply(question(data, options), OURS)
        assert answer == MAC + GATEWAY_MAC + b"\x08\x00" + packet(REPLY, data, GATEWAY, GUEST, options)


def test_what_fills_a_short_frame_up_is_left_out() -> None:
    assert echo_reply(question(b"x") + bytes(17), OURS) == echo_reply(question(b"x"), OURS)


def test_the_sum_has_an_end_around_carry() -> None:
    """Requests whose checksums are 0xF700 to 0xFFFF: from 0xF800 on, adding 0x0800 overflows."""
    for word in range(0x10000 - 0x0900, 0x10000):
        data = struct.pack(">H", ~(word + 0x0800 + 7 + 1) & 0xFFFF)
        answer = echo_reply(question(data), OURS)
        assert answer is not None and internet_checksum(answer[34:]) == 0, hex(word)


def changed(at: int, value: bytes) -> bytes:
    frame = question()
    return frame[:at] + value + frame[at + len(value) :]


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"", id="nothing"),
        *(pytest.param(question(b"")[:size], id=f"the first {size} bytes") for size in (13, 14, 33, 34, 41)),
        pytest.param(changed(12, b"\x86\xdd"), id="IPv6"),
        pytest.param(changed(14, b"\x65"), id="a packet of version 6"),
        pytest.param(changed(14, b"\x44"), id="a header that is too short"),
        pytest.param(changed(14, b"\x4f"), id="a header longer than the packet"),
        pytest.param(changed(16, b"\x00\x1b"), id="a packet without a whole echo header"),
        pytest.param(changed(16, b"\xff\xff"), id="a packet longer than its frame"),
        pytest.param(changed(20, b"\x20\x00"), id="a first fragment"),
        pytest.param(changed(20, b"\x00\x01"), id="a later fragment"),
        pytest.param(changed(23, b"\x11"), id="UDP"),
        pytest.param(changed(33, b"\x03"), id="another address"),
        pytest.param(changed(34, b"\x00"), id="a reply"),
        pytest.param(changed(35, b"\x01"), id="an unknown code"),
    ],
)
def test_no_answer(frame: bytes) -> None:
    assert echo_reply(frame, OURS) is None


def test_noise_is_no_reason_to_fall_over() -> None:
    numbers = random.Random(2)
    for _ in range(5000):
        frame = bytearray(question(numbers.randbytes(numbers.randrange(40))))
        for _ in range(numbers.randrange(4)):
            frame[numbers.randrange(len(frame))] = numbers.randrange(256)
        answer = echo_reply(bytes(frame[: numbers.randrange(len(frame) + 1)]), OURS)
        assert answer is None or len(answer) <= len(frame)
