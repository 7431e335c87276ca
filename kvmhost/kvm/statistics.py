"""KVM's binary statistics: counters that describe themselves, behind a file descriptor of their own."""

import os
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from kvmhost._native import ffi, lib
from kvmhost.kvm.base import ioctl, new


class Kind(IntEnum):
    """How a statistic's values are to be read.

    >>> Kind.INSTANT.name
    'INSTANT'
    """

    CUMULATIVE = lib.KVM_STATS_TYPE_CUMULATIVE
    INSTANT = lib.KVM_STATS_TYPE_INSTANT
    PEAK = lib.KVM_STATS_TYPE_PEAK
    LINEAR_HISTOGRAM = lib.KVM_STATS_TYPE_LINEAR_HIST
    LOG_HISTOGRAM = lib.KVM_STATS_TYPE_LOG_HIST


class Unit(IntEnum):
    """What a statistic counts.

    >>> Unit.NONE.name
    'NONE'
    """

    NONE = lib.KVM_STATS_UNIT_NONE
    BYTES = lib.KVM_STATS_UNIT_BYTES
    SECONDS = lib.KVM_STATS_UNIT_SECONDS
    CYCLES = lib.KVM_STATS_UNIT_CYCLES
    BOOLEAN = lib.KVM_STATS_UNIT_BOOLEAN


@dataclass(frozen=True, slots=True)
class Statistic:
    """One statistic: values times base (10 or 2) to the power of exponent, in unit; bucket_size of a
    histogram.

    >>> vcpu.statistics()["exits"].kind.name
    'CUMULATIVE'
    """

    name: str
    kind: Kind
    unit: Unit
    base: int
    exponent: int
    bucket_size: int
    values: tuple[int, ...]

    @property
    def value(self) -> int:
        """The only value of a statistic that is no histogram.

        >>> vcpu.statistics()["exits"].value
        0
        """
        return self.values[0]


def read_statistics(fd: int) -> dict[str, Statistic]:
    """All statistics of a VM's or vCPU's descriptor, as they are now.

    >>> "exits" in read_statistics(vcpu.fd)
    True
    """
    source = ioctl(fd, "KVM_GET_STATS_FD", 0)
    try:
        header = _structure(source, "struct kvm_stats_header", 0)
        size = ffi.sizeof("struct kvm_stats_desc") + header.name_size
        table = os.pread(source, size * header.num_desc, header.desc_offset)
        found = [_read(source, header, table[place : place + size]) for place in range(0, len(table), size)]
    finally:
        os.close(source)
    return {one.name: one for one in found}


def _structure(source: int, kind: str, offset: int) -> Any:
    c = new(f"{kind} *")
    ffi.memmove(c, os.pread(source, ffi.sizeof(kind), offset), ffi.sizeof(kind))
    return c


def _read(source: int, header: Any, raw: bytes) -> Statistic:
    fixed = ffi.sizeof("struct kvm_stats_desc")
    c = new("struct kvm_stats_desc *", {"name": header.name_size})
    ffi.memmove(c, raw, fixed)
    values = os.pread(source, 8 * c.size, header.data_offset + c.offset)
    return Statistic(
        raw[fixed:].split(b"\0", 1)[0].decode(),
        Kind(c.flags & lib.KVM_STATS_TYPE_MASK),
        Unit(c.flags & lib.KVM_STATS_UNIT_MASK),
        2 if c.flags & lib.KVM_STATS_BASE_MASK == lib.KVM_STATS_BASE_POW2 else 10,
        c.exponent,
        c.bucket_size,
        struct.unpack(f"<{c.size}Q", values),
    )
