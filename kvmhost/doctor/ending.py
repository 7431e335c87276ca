"""How a probe Guest ended, and what that means in words.

A probe Guest says values, may end in a trap, and may fail to end at all. Everything that can become
of it is one `Ending`: plain numbers that cross a pipe from the child process in which Guests run.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from enum import StrEnum

from kvmhost.doctor import advice


class End(StrEnum):
    """What stopped the Guest."""

    DONE = "done"
    HALTED = "halted"
    SHUTDOWN = "shutdown"
    FAIL_ENTRY = "fail entry"
    INTERNAL_ERROR = "internal error"
    OTHER_EXIT = "other exit"
    TIMED_OUT = "timed out"
    REFUSED = "refused"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Trap:
    """What the CPU pushed and CR2; SS and ESP mean something only after a ring change."""

    vector: int
    error: int
    eip: int
    cs: int
    eflags: int
    esp: int
    ss: int
    cr2: int

    @property
    def ring(self) -> int:
        """The ring it came from: the RPL of the pushed CS."""
        return self.cs & 3

    def __str__(self) -> str:
        return (
            f"vector {self.vector}, error code {self.error:#x}, from ring {self.ring} at {self.eip:#x}, "
            f"EFLAGS {self.eflags:#x}, CR2 {self.cr2:#x}"
        )


@dataclass(frozen=True, slots=True)
class Ending:
    """One run of a probe Guest.

    `code` is the errno of a refused call, the hardware's reason of a failed entry, the suberror of an
    internal error, the number of any other exit. `where` is the call that was refused or the bytes
    (hex) of the instruction that could not be emulated. `eip` and `esi` are read after the end.
    """

    end: End
    values: tuple[int, ...] = ()
    frame: tuple[int, ...] = ()
    code: int = 0
    where: str = ""
    eip: int = 0
    esi: int = 0

    @property
    def trap(self) -> Trap | None:
        """The trap the Guest ended in, if it did.

        A selector is 16 bits wide, and the other half of the dword it is pushed in need not be zero.
        """
        if len(self.frame) != len(Trap.__dataclass_fields__):
            return None
        vector, error, eip, cs, eflags, esp, ss, cr2 = self.frame
        return Trap(vector, error, eip, cs & 0xFFFF, eflags, esp, ss & 0xFFFF, cr2)

    def describe(self) -> str:
        """One sentence for a person.

        >>> Ending(End.SHUTDOWN).describe()
        'the vCPU shut down (a triple fault)'
        """
        match self.end:
            case End.DONE if self.trap:
                return f"the Guest trapped: {self.trap}"
            case End.DONE | End.HALTED:
                said = ", ".join(f"{value:#x}" for value in self.values) or "nothing"
                return f"the Guest ended and said {said}"
            case End.SHUTDOWN:
                return "the vCPU shut down (a triple fault)"
            case End.FAIL_ENTRY:
                return f"the CPU refused to enter the Guest: {advice.fail_entry(self.code)}"
            case End.INTERNAL_ERROR:
                return f"KVM gave up: {advice.internal_error(self.code, self.where)}, at {self.eip:#x}"
            case End.OTHER_EXIT:
                return f"KVM left with exit reason {self.code}, at {self.eip:#x}"
            case End.TIMED_OUT:
                return f"the Guest did not end in time; it was at {self.eip:#x}"
            case End.REFUSED:
                name = errno.errorcode.get(self.code, str(self.code))
                return f"{self.where} failed with {name} ({os.strerror(self.code)})"
            case End.LOST:
                return f"the process that ran the Guest {self.where}"


# The fields of an Ending in order, of types that marshal knows.
Packed = tuple[str, tuple[int, ...], tuple[int, ...], int, str, int, int]


def pack(ending: Ending) -> Packed:
    """An Ending as what marshal can carry.

    >>> unpack(pack(Ending(End.HALTED, values=(7,)))) == Ending(End.HALTED, values=(7,))
    True
    """
    return (
        str(ending.end),
        ending.values,
        ending.frame,
        ending.code,
        ending.where,
        ending.eip,
        ending.esi,
    )


def unpack(fields: Packed) -> Ending:
    """The other way round."""
    return Ending(End(fields[0]), *fields[1:])
