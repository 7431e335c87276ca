"""CPUID as KVM keeps it: a table of leaves, each optionally with subleaves."""

import errno
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from kvmhost.kvm.base import ioctl, new
from kvmhost.kvm.errors import KvmError

_FIELDS = ("function", "index", "flags", "eax", "ebx", "ecx", "edx")
# Enough for any CPU of today; KVM answers E2BIG if one day it is not.
_FIRST_GUESS = 64
_UNREASONABLE = 1 << 16


@dataclass(frozen=True, slots=True)
class CpuidEntry:
    """One leaf of CPUID, all fields 32 bits wide; index: the subleaf (ECX), which counts if flags has bit 0.

    >>> entry = CpuidEntry(function=1, edx=1 << 6)
    >>> entry.edx >> 6 & 1          # PAE
    1
    """

    function: int
    index: int = 0
    flags: int = 0
    eax: int = 0
    ebx: int = 0
    ecx: int = 0
    edx: int = 0

    @classmethod
    def _read(cls, c: Any) -> Self:
        """From a struct kvm_cpuid_entry2."""
        return cls(*[getattr(c, name) for name in _FIELDS])

    def _write(self, c: Any) -> None:
        """Into a struct kvm_cpuid_entry2."""
        for name in _FIELDS:
            setattr(c, name, getattr(self, name))


def read_table(fd: int, name: str) -> tuple[CpuidEntry, ...]:
    """Ask the ioctl `name` for a whole table, with more room each time it says E2BIG."""
    room = _FIRST_GUESS
    while (table := _ask(fd, name, room)) is None:
        room *= 2
    return _entries(table)


def read_vcpu_table(fd: int) -> tuple[CpuidEntry, ...]:
    """The table a vCPU has (KVM_GET_CPUID2).

    Older kernels do not say how many entries they filled in, only whether the room was enough: so the
    number is the smallest room that is.
    """
    most = 1
    while _ask(fd, "KVM_GET_CPUID2", most) is None:
        most *= 2
    least = bisect_left(range(most), True, key=lambda room: _ask(fd, "KVM_GET_CPUID2", room) is not None)
    return _entries(_ask(fd, "KVM_GET_CPUID2", least))


def _ask(fd: int, name: str, room: int) -> Any:
    """One try with room for so many entries: the filled struct kvm_cpuid2, or None if it was too small."""
    table = new("struct kvm_cpuid2 *", {"nent": room, "entries": room})
    try:
        ioctl(fd, name, table)
    except KvmError as error:
        if error.errno != errno.E2BIG or room > _UNREASONABLE:
            raise
        return None
    return table


def _entries(table: Any) -> tuple[CpuidEntry, ...]:
    return tuple(CpuidEntry._read(table.entries[place]) for place in range(table.nent))


def write_table(fd: int, entries: Iterable[CpuidEntry]) -> None:
    """Give a vCPU its table (KVM_SET_CPUID2)."""
    listed = list(entries)
    table = new("struct kvm_cpuid2 *", {"nent": len(listed), "entries": len(listed)})
    for place, entry in enumerate(listed):
        entry._write(table.entries[place])
    ioctl(fd, "KVM_SET_CPUID2", table)
