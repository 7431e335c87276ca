"""Records of what is on its way into a vCPU: exceptions, interrupts, NMIs, the shadow, and its
multiprocessor state.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any, Self

from kvmhost._native import lib


class MpState(IntEnum):
    """Whether a vCPU runs (KVM_GET_MP_STATE).  Without an in-kernel LAPIC it is always RUNNABLE.

    >>> vcpu.mp_state()
    <MpState.RUNNABLE: 0>
    """

    RUNNABLE = lib.KVM_MP_STATE_RUNNABLE
    UNINITIALIZED = lib.KVM_MP_STATE_UNINITIALIZED
    INIT_RECEIVED = lib.KVM_MP_STATE_INIT_RECEIVED
    HALTED = lib.KVM_MP_STATE_HALTED
    SIPI_RECEIVED = lib.KVM_MP_STATE_SIPI_RECEIVED
    AP_RESET_HOLD = lib.KVM_MP_STATE_AP_RESET_HOLD


class Valid(IntFlag):
    """Which parts of an Events count when it is written; what has no flag here always counts.

    >>> Valid.SHADOW in vcpu.events().valid
    True
    """

    NMI_PENDING = lib.KVM_VCPUEVENT_VALID_NMI_PENDING
    SIPI_VECTOR = lib.KVM_VCPUEVENT_VALID_SIPI_VECTOR
    SHADOW = lib.KVM_VCPUEVENT_VALID_SHADOW
    SMM = lib.KVM_VCPUEVENT_VALID_SMM
    PAYLOAD = lib.KVM_VCPUEVENT_VALID_PAYLOAD
    TRIPLE_FAULT = lib.KVM_VCPUEVENT_VALID_TRIPLE_FAULT


class Shadow(IntFlag):
    """What holds interrupts off for one instruction.  AMD has one for both: KVM reports both there.

    >>> vcpu.events().interrupt.shadow
    <Shadow: 0>
    """

    MOV_SS = lib.KVM_X86_SHADOW_INT_MOV_SS
    STI = lib.KVM_X86_SHADOW_INT_STI


@dataclass(frozen=True, slots=True)
class ExceptionEvent:
    """An exception on its way: injected (delivery has begun) or pending, its vector, error code and
    payload.

    >>> ExceptionEvent(injected=True, vector=13, has_error_code=True, error_code=0x18).vector
    13
    """

    injected: bool = False
    vector: int = 0
    has_error_code: bool = False
    pending: bool = False
    error_code: int = 0
    has_payload: bool = False
    payload: int = 0


_NO_SHADOW = Shadow(0)


@dataclass(frozen=True, slots=True)
class InterruptEvent:
    """An interrupt whose delivery has begun (soft: INT n), and the interrupt shadow.

    >>> InterruptEvent(injected=True, vector=0x20).soft
    False
    """

    injected: bool = False
    vector: int = 0
    soft: bool = False
    shadow: Shadow = _NO_SHADOW


@dataclass(frozen=True, slots=True)
class NmiEvent:
    """NMIs: one whose delivery has begun, how many pend (two at most), and whether IRET has yet to unmask
    them.

    >>> NmiEvent(pending=1).masked
    False
    """

    injected: bool = False
    pending: int = 0
    masked: bool = False


@dataclass(frozen=True, slots=True)
class SmiEvent:
    """System-management mode: in it, pending, entered from an NMI handler, INIT waiting.

    >>> SmiEvent().smm
    False
    """

    smm: bool = False
    pending: bool = False
    inside_nmi: bool = False
    latched_init: bool = False


@dataclass(frozen=True, slots=True)
class Events:
    """All that is on its way into a vCPU (struct kvm_vcpu_events).

    valid comes from KVM with what it could tell and goes back with it: the NMI count and the shadow always
    count, or they would be lost.

    >>> events = vcpu.events()
    >>> events.nmi.pending, events.exception.pending
    (0, False)
    >>> vcpu.set_events(events)
    """

    exception: ExceptionEvent = ExceptionEvent()
    interrupt: InterruptEvent = InterruptEvent()
    nmi: NmiEvent = NmiEvent()
    sipi_vector: int = 0
    smi: SmiEvent = SmiEvent()
    triple_fault: bool = False
    valid: Valid = Valid.NMI_PENDING | Valid.SHADOW

    @classmethod
    def _read(cls, c: Any) -> Self:
        """From a struct kvm_vcpu_events."""
        e, i, n, s = c.exception, c.interrupt, c.nmi, c.smi
        payload = bool(c.exception_has_payload), c.exception_payload
        return cls(
            ExceptionEvent(
                bool(e.injected), e.nr, bool(e.has_error_code), bool(e.pending), e.error_code, *payload
            ),
            InterruptEvent(bool(i.injected), i.nr, bool(i.soft), Shadow(i.shadow)),
            NmiEvent(bool(n.injected), n.pending, bool(n.masked)),
            c.sipi_vector,
            SmiEvent(bool(s.smm), bool(s.pending), bool(s.smm_inside_nmi), bool(s.latched_init)),
            bool(c.triple_fault.pending),
            Valid(c.flags),
        )

    def _write(self, c: Any) -> None:
        """Into a struct kvm_vcpu_events."""
        e, i, n, s = self.exception, self.interrupt, self.nmi, self.smi
        c.exception = (e.injected, e.vector, e.has_error_code, e.pending, e.error_code)
        c.exception_has_payload, c.exception_payload = e.has_payload, e.payload
        c.interrupt = (i.injected, i.vector, i.soft, int(i.shadow))
        c.nmi = (n.injected, n.pending, n.masked)
        c.sipi_vector = self.sipi_vector
        c.smi = (s.smm, s.pending, s.inside_nmi, s.latched_init)
        c.triple_fault.pending = self.triple_fault
        c.flags = int(self.valid)


class Watch(IntEnum):
    """What a hardware breakpoint waits for: DR7's R/W field.

    >>> Watch.WRITE
    <Watch.WRITE: 1>
    """

    EXECUTE = 0
    WRITE = 1
    IO = 2
    READ_WRITE = 3


@dataclass(frozen=True, slots=True)
class Breakpoint:
    """A hardware breakpoint of the debugger: linear address, kind, and 1, 2, 4 or 8 bytes (1 to execute).

    >>> Breakpoint(0x1000)
    Breakpoint(linear=4096, watch=<Watch.EXECUTE: 0>, length=1)
    """

    linear: int
    watch: Watch = Watch.EXECUTE
    length: int = 1


# Intel SDM volume 3, "Debug Control Register (DR7)": the LEN field of each length.
_DR7_LENGTH = {1: 0, 2: 1, 8: 2, 4: 3}
DR7_ALWAYS_ONE = 1 << 10


def dr7_for(breakpoints: tuple[Breakpoint, ...]) -> int:
    """DR7 with these breakpoints, up to four, globally enabled; raises ValueError for impossible ones.

    >>> hex(dr7_for((Breakpoint(0x1000, Watch.WRITE, 4),)))
    '0xd0402'
    """
    if len(breakpoints) > 4:
        raise ValueError(f"{len(breakpoints)} hardware breakpoints: a CPU has four")
    dr7 = DR7_ALWAYS_ONE
    for place, one in enumerate(breakpoints):
        if one.length not in _DR7_LENGTH or (one.watch is Watch.EXECUTE and one.length != 1):
            raise ValueError(f"a breakpoint to {one.watch.name.lower()} cannot cover {one.length} bytes")
        dr7 |= 2 << 2 * place
        dr7 |= (one.watch | _DR7_LENGTH[one.length] << 2) << 16 + 4 * place
    return dr7
