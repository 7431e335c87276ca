"""A TAP: a network interface of this machine whose cable is a file descriptor.

What is written to it arrives on that interface, what leaves by the interface is read from it, each frame
behind virtio's own header: so a checksum that one side left undone, or 64 KiB that nobody has cut into
packets yet, go straight from a Guest's memory to the machine's network stack and back, and are finished by
whoever is last. Which of that a Guest understands it said when it accepted features, and the TAP is told.

Opening one needs the right to it (root, or its owner, who is named when it is made); using it needs none.
So it is opened first, before privileges are given up, and the calls that come later are those that anybody
may make.

Source: the kernel's documentation, "Universal TUN/TAP device driver".
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
from pathlib import Path
from typing import Final

from kvmhost._native import lib
from kvmhost.launcher.devices.net import (
    BUFFERS_AT,
    OLDEST_HEADER,
    ONE_BUFFER,
    Link,
    LinkLost,
)
from kvmhost.launcher.devices.net_error import NetError
from kvmhost.launcher.devices.ring import Chain, Virtqueue

CLONE_DEVICE: Final = Path("/dev/net/tun")
INTERFACES: Final = Path("/sys/class/net")

# struct ifreq: a name, and a union of which only the flags are used here.
_IFREQ: Final = struct.Struct(f"{int(lib.IFNAMSIZ)}sH22x")
_INT: Final = struct.Struct("i")

CHECKSUM: Final = 1 << int(lib.VIRTIO_NET_F_CSUM)
GUEST_CHECKSUM: Final = 1 << int(lib.VIRTIO_NET_F_GUEST_CSUM)
#: What a Guest may hand over unfinished, and what it may get so.
OFFLOADS: Final = (
    CHECKSUM
    | GUEST_CHECKSUM
    | 1 << int(lib.VIRTIO_NET_F_HOST_TSO4)
    | 1 << int(lib.VIRTIO_NET_F_HOST_TSO6)
    | 1 << int(lib.VIRTIO_NET_F_HOST_ECN)
    | 1 << int(lib.VIRTIO_NET_F_GUEST_TSO4)
    | 1 << int(lib.VIRTIO_NET_F_GUEST_TSO6)
    | 1 << int(lib.VIRTIO_NET_F_GUEST_ECN)
)
# A segmentation that the Guest understands, and the TAP's name for it.
_SEGMENTATIONS: Final = (
    (1 << int(lib.VIRTIO_NET_F_GUEST_TSO4), int(lib.TUN_F_TSO4)),
    (1 << int(lib.VIRTIO_NET_F_GUEST_TSO6), int(lib.TUN_F_TSO6)),
)

# The frame or its header makes no sense, is too large for this moment, or the interface is down: it alone
# is lost.
_FRAME_LOST: Final = {
    errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.ENOBUFS, errno.ENOMEM, errno.EFAULT, errno.ENETDOWN,
    errno.E2BIG,
}  # fmt: skip


def check_name(name: str) -> None:
    """Whether the kernel could have an interface of that name; NetError if not.

    >>> check_name("tap0")
    >>> check_name("a-very-long-name")
    Traceback (most recent call last):
    kvmhost.launcher.devices.net_error.NetError: no TAP can be called a-very-long-name: ...
    """
    longest = int(lib.IFNAMSIZ) - 1
    if not 0 < len(os.fsencode(name)) <= longest:
        cause = f"the name of an interface has 1 to {longest} bytes"
    elif name in (".", "..") or re.search(r"[\s/:%\x00]", name):
        cause = "the name of an interface has no space, slash, colon or percent sign"
    else:
        return
    raise NetError(
        f"no TAP can be called {name or '(nothing)'}",
        cause=cause,
        next_step="see `ip tuntap list` for those that there are",
        usage=True,
    )


def open_tap(name: str) -> int:
    """The descriptor of the TAP of that name, for good; the kernel makes a new one if there is none and we
    may.

    Raises NetError: no driver, no right to it, in use already, or no TAP at all.
    """
    check_name(name)
    try:
        fd = _open_device()
    except OSError as error:
        raise _cannot_open(name, error) from error
    try:
        flags = lib.IFF_TAP | lib.IFF_NO_PI | lib.IFF_VNET_HDR
        fcntl.ioctl(fd, lib.TUNSETIFF, _IFREQ.pack(os.fsencode(name), flags))
    except OSError as error:
        os.close(fd)
        raise _cannot_attach(name, error) from error
    return fd


def _open_device() -> int:
    return os.open(CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def is_up(name: str) -> bool:
    """Whether somebody has switched the interface on.

    >>> is_up("lo") in (True, False)
    True
    """
    try:
        return bool(int((INTERFACES / name / "flags").read_text(), 16) & 1)
    except (OSError, ValueError):
        return False


def _cannot_open(name: str, error: OSError) -> NetError:
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        cause, next_step = f"there is no {CLONE_DEVICE}", "load its driver: modprobe tun"
    elif error.errno in (errno.EACCES, errno.EPERM):
        cause = f"you may not open {CLONE_DEVICE}"
        next_step = "start kvmhost with sudo, or use --net user, which needs no rights"
    else:
        cause, next_step = f"{CLONE_DEVICE}: {error.strerror}", "use --net user instead"
    return NetError(f"the TAP {name} cannot be opened", cause=cause, next_step=next_step)


def _cannot_attach(name: str, error: OSError) -> NetError:
    exists = (INTERFACES / name).exists()
    if error.errno == errno.EBUSY:
        cause = "another program uses it already"
        next_step = "end that one, or give each Guest a TAP of its own"
    elif error.errno == errno.EPERM and exists:
        cause = "it belongs to somebody else"
        next_step = f"start kvmhost with sudo, or make it yours: ip tuntap add {name} mode tap user $USER"
    elif error.errno == errno.EPERM:
        cause = "there is none of that name, and only root may make one"
        next_step = f"sudo ip tuntap add {name} mode tap user $USER && sudo ip link set {name} up"
    elif error.errno == errno.EINVAL and exists:
        cause = "an interface of that name exists, and it is no TAP with a single queue"
        next_step = "see `ip tuntap list`, and name another"
    else:
        cause, next_step = error.strerror or str(error), "use --net user instead"
    return NetError(f"the TAP {name} cannot be used", cause=cause, next_step=next_step)


class TapLink(Link):
    """A cable to the TAP behind `fd`, which is closed with it.

    offload: whether the Guest may be offered the checksums and segmentations of the TAP.
    """

    def __init__(self, fd: int, name: str, offload: bool = True) -> None:
        super().__init__()
        self.label = f"TAP {name}"
        self.fd = fd
        self.offloads = OFFLOADS if offload else 0
        self._header = BUFFERS_AT
        # 2.6.24's header is shorter than any that a TAP knows, and says nothing: it is left out and put back.
        self._strip = False
        self._no_header = bytearray(BUFFERS_AT)
        self._overflow = bytearray(1)

    def begin(self, header: int, accepted: int) -> None:
        """Tell the TAP how long headers are and what the Guest understands."""
        self._strip = header == OLDEST_HEADER
        self._header = BUFFERS_AT if self._strip else header
        try:
            fcntl.ioctl(self.fd, lib.TUNSETVNETHDRSZ, _INT.pack(self._header))
            fcntl.ioctl(self.fd, lib.TUNSETOFFLOAD, tap_offloads(accepted))
        except OSError as error:
            raise _lost(error) from error

    def receive(self, queue: Virtqueue, chain: Chain) -> int | None:
        """Straight into the Guest's memory; one byte behind it tells a frame that did not fit."""
        room: list[memoryview | bytearray]
        if self._strip:
            room = [self._no_header, *queue.iov(chain.writable, offset=OLDEST_HEADER), self._overflow]
        else:
            room = [*queue.iov(chain.writable), self._overflow]
        try:
            length = os.readv(self.fd, room)
        except BlockingIOError:
            return None
        except OSError as error:
            raise _lost(error) from error
        if self._strip:
            length -= BUFFERS_AT - OLDEST_HEADER
            queue.write(chain, bytes(OLDEST_HEADER))
        elif self._header > BUFFERS_AT:
            queue.write(chain, ONE_BUFFER, BUFFERS_AT)
        return length if length <= chain.writable_bytes else 0

    def send(self, queue: Virtqueue, chain: Chain) -> bool:
        """Straight from the Guest's memory; the kernel copies a header once and refuses one that lies."""
        frame: list[memoryview | bytes] = [*queue.iov(chain.readable, OLDEST_HEADER if self._strip else 0)]
        if self._strip:
            frame.insert(0, bytes(BUFFERS_AT))
        try:
            os.writev(self.fd, frame)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _FRAME_LOST:
                raise _lost(error) from error
            self.counters.send_lost += 1
        else:
            self.counters.sent += 1
        return True

    def close(self) -> None:
        """Give the TAP back; one that the kernel made for us is gone with it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def tap_offloads(accepted: int) -> int:
    """The flags for TUNSETOFFLOAD: what a TAP may hand over unfinished, by the features a Guest accepted.

    Segmentation without checksums cannot be; the kernel would refuse it.

    >>> tap_offloads(0), tap_offloads(1 << 7), tap_offloads(GUEST_CHECKSUM) == lib.TUN_F_CSUM
    (0, 0, True)
    """
    if not accepted & GUEST_CHECKSUM:
        return 0
    flags = int(lib.TUN_F_CSUM)
    for bit, flag in _SEGMENTATIONS:
        if accepted & bit:
            flags |= flag
            if accepted & 1 << int(lib.VIRTIO_NET_F_GUEST_ECN):
                flags |= int(lib.TUN_F_TSO_ECN)
    return flags


def _lost(error: OSError) -> LinkLost:
    if error.errno == errno.EBADFD:
        return LinkLost("its interface was removed")
    return LinkLost(error.strerror or str(error))
