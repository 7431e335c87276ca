"""The machine's side of a TAP: a network namespace of its own with the interface, an address, and servers.

Run as a program by the tests, for entering a namespace is for ever.  Making a TAP needs rights that anybody
has in a user namespace of his own.  The TAP, opened as kvmhost opens it, goes to the test over a socket;
what the test says there is what happens next.
"""

import ctypes
import fcntl
import hashlib
import os
import socket
import struct
import sys
import threading
from pathlib import Path

from kvmhost.launcher.devices.net_tap import is_up, open_tap

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
NAME = "kvmhost0"
ADDRESS = "192.168.77.1"


def enter_namespaces() -> None:
    uid, gid = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "no namespaces here")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    # /sys/class/net is that of the namespace it was mounted from.
    if libc.mount(b"sys", b"/sys", b"sysfs", 0, None) != 0:
        raise OSError(ctypes.get_errno(), "no /sys of its own")


def address(ip: str) -> bytes:
    return struct.pack("<HH4s8x", socket.AF_INET, 0, socket.inet_aton(ip))


def switch(control: socket.socket, name: str, on: bool) -> None:
    fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh22x", name.encode(), int(on)))


def serve_udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((ADDRESS, 7))
        while True:
            data, who = server.recvfrom(65536)
            server.sendto(hashlib.sha256(data).digest(), who)


def serve_tcp(size: int) -> None:
    with socket.create_server((ADDRESS, 80)) as server:
        while True:
            client, _ = server.accept()
            with client:
                client.recv(100)
                client.sendall(bytes(range(251)) * (size // 251 + 1))


def main(channel: socket.socket) -> None:
    enter_namespaces()
    tap = open_tap(NAME)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        was_up = is_up(NAME)
        ifreq = NAME.encode().ljust(16, b"\0")
        fcntl.ioctl(control, SIOCSIFADDR, ifreq + address(ADDRESS) + bytes(8))
        fcntl.ioctl(control, SIOCSIFNETMASK, ifreq + address("255.255.255.0") + bytes(8))
        switch(control, NAME, True)
        for serve in (serve_udp, lambda: serve_tcp(100_000)):
            threading.Thread(target=serve, daemon=True).start()
        socket.send_fds(channel, [f"{was_up} {is_up(NAME)}\n".encode()], [tap])
        os.close(tap)
        while order := channel.recv(100):
            if order == b"off":
                switch(control, NAME, False)
            elif order == b"on":
                switch(control, NAME, True)
            elif order == b"remove":
                remove()
            channel.send(b"done")


def remove() -> None:
    """Delete the interface under the open descriptor, as `ip link del` does (rtnetlink(7), RTM_DELLINK)."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        link = struct.pack("<BxHiII", 0, 0, socket.if_nametoindex(NAME), 0, 0)
        netlink.send(struct.pack("<IHHII", 16 + len(link), 17, 1 | 4, 1, 0) + link)
        answer = netlink.recv(4096)
        (error,) = struct.unpack_from("<i", answer, 16)
        if error:
            raise OSError(-error, os.strerror(-error))


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
