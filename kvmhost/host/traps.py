"""The kinds of trap, by the names the manuals give them.

A trap is known by the vector its stub pushed.  Below 32 they are the CPU's own,
with two exceptions: 0x1F is the vector lguest took for hypercalls, and 256 is no
vector at all but the mark the shim leaves in the frame before each entry.
"""

from __future__ import annotations

from enum import IntEnum

from kvmhost._native import lib


class Trap(IntEnum):
    """Vectors of exceptions (Intel SDM vol. 3, "Exception and Interrupt Vectors") and lguest's own.

    Trap(n) works for every n from 0 to 256.

    >>> Trap(14)
    <Trap.PAGE_FAULT: 14>
    >>> Trap(0x1F).name
    'HYPERCALL'
    >>> Trap(200).name
    'VECTOR_200'
    """

    DIVIDE_ERROR = 0
    DEBUG = 1
    NMI = 2
    BREAKPOINT = 3
    OVERFLOW = 4
    BOUND_RANGE = 5
    INVALID_OPCODE = 6
    DEVICE_NOT_AVAILABLE = 7
    DOUBLE_FAULT = 8
    COPROCESSOR_SEGMENT_OVERRUN = 9
    INVALID_TSS = 10
    SEGMENT_NOT_PRESENT = 11
    STACK_FAULT = 12
    GENERAL_PROTECTION = 13
    PAGE_FAULT = 14
    X87_ERROR = 16
    ALIGNMENT_CHECK = 17
    MACHINE_CHECK = 18
    SIMD_ERROR = 19
    VIRTUALIZATION = 20
    CONTROL_PROTECTION = 21
    HYPERVISOR_INJECTION = 28
    VMM_COMMUNICATION = 29
    SECURITY = 30
    HYPERCALL = lib.HYPERCALL_VECTOR
    SYSCALL = lib.SYSCALL_VECTOR
    NO_TRAP = lib.NO_TRAP

    @classmethod
    def _missing_(cls, value: object) -> Trap | None:
        if not isinstance(value, int) or not 0 <= value <= lib.NO_TRAP:
            return None
        member = int.__new__(cls, value)
        member._name_ = f"VECTOR_{value}"
        member._value_ = value
        return cls._value2member_map_.setdefault(value, member)  # type: ignore[return-value]


# What the CPU pushes an error code for, when it reflects a trap into the Guest (abi 5.3).
HAS_ERROR_CODE = frozenset({8, 10, 11, 12, 13, 14, 17})


def is_interrupt(vector: int) -> bool:
    """Whether a vector is an interrupt to the Host and no trap of the Guest's (abi 4.3).

    >>> is_interrupt(0xF0), is_interrupt(0x80), is_interrupt(14)
    (True, False, False)
    """
    return 32 <= vector < 256 and vector != lib.SYSCALL_VECTOR
