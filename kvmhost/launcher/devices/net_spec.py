"""What `--net` says, and how a card comes of it, in two steps: what needs root first, what needs none
later."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from kvmhost.launcher.devices.net import Net
from kvmhost.launcher.devices.net_error import NetError
from kvmhost.launcher.devices.net_tap import TapLink, check_name, is_up, open_tap
from kvmhost.launcher.devices.net_user import UserLink, find_passt

MACHINE_ID: Final = Path("/etc/machine-id")
USAGE: Final = "say --net user, or --net tap=NAME, and behind it perhaps ,mac=02:00:00:00:00:01"


@dataclass(frozen=True, slots=True)
class NetSpec:
    """One network card as somebody wants it.

    tap: the name of a TAP, None for the user network.  mac: 6 bytes.  fd: the TAP if it is open already;
    whoever opened it closes it, unless a card was made of it.

    >>> NetSpec.parse("tap=tap0,mac=02:00:00:00:00:07").mac.hex()
    '020000000007'
    """

    tap: str | None
    mac: bytes
    fd: int | None = None

    @classmethod
    def parse(cls, text: str, number: int = 0) -> NetSpec:
        """Read `tap=NAME` or `user`, with `,mac=..` or without.  number: which of a Guest's cards it is.

        Without mac= the address is made from the machine, the TAP's name and the number: it stays the same
        from run to run and is no other card's.  Raises NetError.

        >>> NetSpec.parse("user") == NetSpec.parse("user"), NetSpec.parse("user") == NetSpec.parse("user", 1)
        (True, False)
        """
        kind, *options = text.split(",")
        word, equals, tap = kind.partition("=")
        if word == "tap" and equals:
            check_name(tap)
        elif kind != "user":
            raise _wrong(text, f"{kind or 'nothing'!r} is no kind of network")
        mac = None
        for option in options:
            name, _, value = option.partition("=")
            if name != "mac" or mac is not None:
                raise _wrong(text, f"{option!r} is no option of a network, or stands there twice")
            mac = parse_mac(value)
        return cls(tap if equals else None, mac or default_mac(tap if equals else None, number))

    def open(self) -> NetSpec:
        """With the TAP opened, if it is one; this is the step that may need root.

        Raises NetError, also if the user network is not installed: better now than when a Guest runs.

        >>> NetSpec.parse("user").open().fd is None
        True
        """
        if self.tap is None:
            find_passt()
            return self
        return self if self.fd is not None else replace(self, fd=open_tap(self.tap))

    @property
    def remark(self) -> str | None:
        """What the person should know, though nothing is wrong.

        >>> NetSpec.parse("tap=nowhere").remark
        'the TAP nowhere is switched off: ip link set nowhere up'
        """
        if self.tap is None or is_up(self.tap):
            return None
        return f"the TAP {self.tap} is switched off: ip link set {self.tap} up"

    def card(self, say: Callable[[str], None] | None = None) -> Net:
        """The device, with its cable plugged in; it owns what is open from now on.  Raises NetError."""
        if self.tap is None:
            return Net(UserLink(self.mac), self.mac, say)
        opened = self.open()
        assert opened.fd is not None
        return Net(TapLink(opened.fd, self.tap), self.mac, say)

    def close(self) -> None:
        """Close what open() opened, if no card was made of it."""
        if self.fd is not None:
            os.close(self.fd)


def parse_net(texts: Sequence[str]) -> list[NetSpec]:
    """Every --net of a command line, in order.  Raises NetError, also if two would have one address or TAP.

    >>> [spec.tap for spec in parse_net(["user", "tap=tap0"])]
    [None, 'tap0']
    """
    specs = [NetSpec.parse(text, number) for number, text in enumerate(texts)]
    taps = [spec.tap for spec in specs if spec.tap is not None]
    if len(set(taps)) < len(taps):
        raise _wrong(" and ".join(texts), "a TAP has room for one card")
    if len({spec.mac for spec in specs}) < len(specs):
        raise _wrong(" and ".join(texts), "two cards cannot have one address")
    return specs


def parse_mac(text: str) -> bytes:
    """An Ethernet address of a card; NetError if it is none, or one of a group.

    >>> parse_mac("52:54:00:12:34:56").hex()
    '525400123456'
    """
    if not re.fullmatch(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}", text):
        raise _wrong(f"mac={text}", "an address is six bytes, as in 02:00:00:00:00:01")
    mac = bytes.fromhex(text.replace(":", ""))
    if mac[0] & 1 or not any(mac):
        raise _wrong(f"mac={text}", "that is no address of a single card (its first byte must be even)")
    return mac


def default_mac(tap: str | None, number: int) -> bytes:
    """A locally administered address that this card has on this machine, and no other.

    >>> default_mac("tap0", 0) != default_mac("tap1", 0), default_mac(None, 0)[0]
    (True, 2)
    """
    try:
        machine = MACHINE_ID.read_text()
    except OSError:
        machine = os.uname().nodename
    text = f"kvmhost {machine.strip()} {'user' if tap is None else 'tap=' + tap} {number}"
    return b"\x02" + hashlib.sha256(text.encode()).digest()[:5]


def _wrong(text: str, cause: str) -> NetError:
    return NetError(f"no network is {text}", cause=cause, next_step=USAGE, usage=True)
