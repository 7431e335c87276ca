"""What a machine answers that exists in nobody's wires: the echo of a ping (RFC 792).

The gateway of the user network is an address that passt gives to itself.  It answers for it whoever asks
where it is, and leads streams and datagrams to this machine, but a ping of it goes out to the world, where
no such machine is.  "Is anybody there" is what people try first, so it is answered here.
"""

from __future__ import annotations

import struct
from typing import Final

_ETHERNET: Final = 14
_IP: Final = struct.Struct(">BBHHHBBH4s4s")
_IPV4_TYPE: Final = b"\x08\x00"
_ICMP: Final = 1
_MORE_OR_OFFSET: Final = 0x3FFF
_REQUEST: Final = b"\x08\x00"
_ECHO_HEADER: Final = 8


def echo_reply(frame: bytes, addresses: frozenset[bytes]) -> bytes | None:
    """The frame that answers `frame`, if that is a whole echo request to one of `addresses` (4 bytes each).

    The sums over the headers stay right: addresses are exchanged, and one word of ICMP changes by 0x0800.
    None for any other frame, and for one that is cut or in fragments.
    """
    if len(frame) < _ETHERNET + _IP.size + _ECHO_HEADER or frame[12:14] != _IPV4_TYPE:
        return None
    version, _, length, _, fragment, _, protocol, _, source, target = _IP.unpack_from(frame, _ETHERNET)
    if target not in addresses or protocol != _ICMP or version >> 4 != 4 or fragment & _MORE_OR_OFFSET:
        return None
    header = 4 * (version & 0xF)
    icmp, end = _ETHERNET + header, _ETHERNET + length
    if (
        header < _IP.size
        or not icmp + _ECHO_HEADER <= end <= len(frame)
        or frame[icmp : icmp + 2] != _REQUEST
    ):
        return None
    (checksum,) = struct.unpack_from(">H", frame, icmp + 2)
    changed = checksum + 0x0800
    return b"".join(
        (
            frame[6:12] + frame[:6] + frame[12 : _ETHERNET + 12] + target + source,
            frame[_ETHERNET + _IP.size : icmp],
            struct.pack(">HH", 0, (changed & 0xFFFF) + (changed >> 16)),
            frame[icmp + 4 : end],
        )
    )
