"""The probes: one question each, the Guest that asks it, and what its ending answers.

The numbers are those of the catalogue (conformance, "PROBE"). A question is put so that "yes" is what
the manuals say. Some are *needed*: without a yes no Guest can live here. The others describe the
silicon, and choose which known deviations a conformance run masks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from kvmhost.doctor import _constants as c
from kvmhost.doctor.ending import End, Ending, Trap
from kvmhost.doctor.world import Event, ProbeGuest, Start

# Intel SDM vol. 1, "EFLAGS Register".
EFLAGS_IOPL, EFLAGS_RF = 3 << 12, 1 << 16
# Intel SDM vol. 3, "Exception and Interrupt Vectors".
DIVIDE_ERROR, NMI, GENERAL_PROTECTION, PAGE_FAULT = 0, 2, 13, 14
# Intel SDM vol. 3, "Page-Fault Error Code": P, W/R, I/D; U/S is clear at ring 1.
PROTECTION_WRITE, PROTECTION_FETCH = 0x3, 0x11
# Intel SDM vol. 3, "TSS Descriptor": P, and type 9 or, busy, 11.
TSS_AVAILABLE_BYTE, TSS_BUSY_BYTE = 0x89, 0x8B
PUSHED_HALF = 0xFFFF0000


class Answer(StrEnum):
    """What a probe found; UNKNOWN when its Guest never came to the question."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Probe:
    """One question.

    `judge` says True or False, or None for an ending that is no answer: then a question about the
    silicon stays open, and any other is answered no, for what it asked about did not work.
    """

    number: str
    question: str
    guest: ProbeGuest
    judge: Callable[[Ending], bool | None]
    needed: bool = False
    silicon: bool = False
    deviation: str = ""

    def answer(self, ending: Ending) -> ProbeResult:
        """The result for a report."""
        verdict = self.judge(ending)
        if verdict is None:
            answer = Answer.UNKNOWN if self.silicon else Answer.NO
        else:
            answer = Answer.YES if verdict else Answer.NO
        return ProbeResult(self.number, self.question, answer, self.needed, self.deviation, ending)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """A probe and its answer; `deviation` is the catalogue's id to mask when the answer is no."""

    number: str
    question: str
    answer: Answer
    needed: bool
    deviation: str
    ending: Ending

    @property
    def fatal(self) -> bool:
        """No Guest can run because of this."""
        return self.needed and self.answer is not Answer.YES

    @property
    def masked(self) -> str:
        """The deviation this answer shows; none when KVM itself failed and the Guest said nothing."""
        told = self.ending.end not in (End.REFUSED, End.LOST, End.TIMED_OUT)
        return self.deviation if self.answer is Answer.NO and told else ""


def _values(ending: Ending) -> tuple[int, ...] | None:
    """What it said, if it came to its own end."""
    return ending.values if ending.end in (End.DONE, End.HALTED) and not ending.frame else None


def _trap(ending: Ending) -> Trap | None:
    """The trap it ended in, if that was its end."""
    return ending.trap if ending.end is End.DONE else None


def _translated(ending: Ending) -> bool | None:
    return _values(ending) == (c.PROBE_VALUE_ONE,)


def _halted(ending: Ending) -> bool | None:
    return ending.end is End.HALTED and ending.values == (c.PROBE_REACHED,)


def _reached(ending: Ending) -> bool | None:
    return ending.end is End.DONE and _values(ending) == (c.PROBE_REACHED,)


def _ring1(ending: Ending) -> bool | None:
    trap = _trap(ending)
    return (
        trap is not None
        and (trap.vector, trap.cs, trap.ss) == (c.HYPERCALL_VECTOR, c.GUEST_CS, c.GUEST_DS)
        and (trap.eip, trap.esp) == (c.PROBE_SYMBOLS["ring1_called"], c.PROBE_RING1_TOP)
        and not trap.eflags & EFLAGS_IOPL
    )


def _busy(ending: Ending) -> bool | None:
    return _values(ending) == (TSS_AVAILABLE_BYTE, TSS_BUSY_BYTE)


def _limit(ending: Ending) -> bool | None:
    trap = _trap(ending)
    if trap is not None:
        expected = (GENERAL_PROTECTION, 0, c.PROBE_SYMBOLS["limit_read"])
        return True if (trap.vector, trap.error, trap.eip) == expected else None
    return False if _values(ending) == (c.PROBE_REACHED,) else None


def _resume_flag(ending: Ending) -> bool | None:
    trap = _trap(ending)
    if trap is None or (trap.vector, trap.eip) != (DIVIDE_ERROR, c.PROBE_SYMBOLS["fault_divide"]):
        return None
    return bool(trap.eflags & EFLAGS_RF)


def _stale_global(ending: Ending) -> bool | None:
    match _values(ending):
        case (c.PROBE_VALUE_ONE, between, c.PROBE_VALUE_TWO):
            return {c.PROBE_VALUE_ONE: True, c.PROBE_VALUE_TWO: False}.get(between)
    return None


def _nmi(ending: Ending) -> bool | None:
    trap = _trap(ending)
    return trap is not None and trap.vector == NMI


def _push(ending: Ending) -> bool | None:
    match _values(ending):
        case (c.LGUEST_DS,):
            return True
        case (said,) if said == PUSHED_HALF | c.LGUEST_DS:
            return False
    return None


def _shutdown(ending: Ending) -> bool | None:
    if ending.end is not End.SHUTDOWN or ending.values != (c.PROBE_REACHED,):
        return None
    return ending.esi == c.PROBE_REACHED


def _cpuid(ending: Ending) -> bool | None:
    trap = _trap(ending)
    expected = (GENERAL_PROTECTION, 0, c.GUEST_CS, c.PROBE_SYMBOLS["cpuid_at_ring1"])
    return (
        trap is not None
        and (trap.vector, trap.error, trap.cs, trap.eip) == expected
        and len(ending.values) == 2
        and ending.values[0] == c.PROBE_VALUE_ONE
        and ending.values[1] != 0
    )


def _kick(ending: Ending) -> bool | None:
    trap = _trap(ending)
    return trap is not None and (trap.vector, trap.cs) == (c.KICK_VECTOR, c.GUEST_CS)


def _write_protect(ending: Ending) -> bool | None:
    trap = _trap(ending)
    expected = (PAGE_FAULT, PROTECTION_WRITE, c.PROBE_READ_ONLY, c.PROBE_SYMBOLS["write_protected"])
    return trap is not None and (trap.vector, trap.error, trap.cr2, trap.eip) == expected


def _no_execute(ending: Ending) -> bool | None:
    trap = _trap(ending)
    expected = (PAGE_FAULT, PROTECTION_FETCH, c.PROBE_NO_EXECUTE, c.PROBE_NO_EXECUTE)
    return trap is not None and (trap.vector, trap.error, trap.cr2, trap.eip) == expected


def _turning_paging_on(then: Start) -> ProbeGuest:
    """A Guest that starts without paging and turns it on itself."""
    paged = ProbeGuest("", then)
    return ProbeGuest("probe_paging_on", Start.UNPAGED, ebx=paged.cr3, ecx=paged.cr4)


UNPAGED = Probe("PROBE-1", "unpaged code runs at ring 0", ProbeGuest("probe_halt", Start.UNPAGED), _halted)
TWO_LEVEL = Probe(
    "PROBE-2a",
    "32-bit paging, two levels, set from outside",
    ProbeGuest("probe_translation", Start.TWO_LEVEL),
    _translated,
    deviation="DV-08",
)
PAE = Probe(
    "PROBE-2b",
    "32-bit paging, PAE, set from outside",
    ProbeGuest("probe_translation"),
    _translated,
    needed=True,
    deviation="DV-08",
)
TWO_LEVEL_CR0 = Probe(
    "PROBE-2c",
    "32-bit paging, two levels, by MOV CR0",
    _turning_paging_on(Start.TWO_LEVEL),
    _translated,
    deviation="DV-08",
)
PAE_CR0 = Probe(
    "PROBE-2d",
    "32-bit paging, PAE, by MOV CR0",
    _turning_paging_on(Start.PAE),
    _translated,
    deviation="DV-08",
)
IRET = Probe(
    "PROBE-3",
    "IRET within ring 0, unpaged",
    ProbeGuest("probe_iret", Start.UNPAGED),
    _reached,
    deviation="DV-09",
)
RING1 = Probe("PROBE-4", "IRET to ring 1, and back by INT", ProbeGuest("probe_ring1"), _ring1, needed=True)
BUSY = Probe("PROBE-5", "LTR marks its TSS busy", ProbeGuest("probe_busy"), _busy, needed=True)
LIMIT = Probe(
    "PROBE-6", "segment limits hold", ProbeGuest("probe_limit"), _limit, silicon=True, deviation="DV-01"
)
RESUME_FLAG = Probe(
    "PROBE-7",
    "a fault pushes EFLAGS with RF set",
    ProbeGuest("probe_fault"),
    _resume_flag,
    silicon=True,
    deviation="DV-02",
)
STALE_GLOBAL = Probe(
    "PROBE-8",
    "a global entry outlives a CR3 load",
    ProbeGuest("probe_global", global_alias=True),
    _stale_global,
    silicon=True,
    deviation="DV-05",
)
NMI_PROBE = Probe(
    "PROBE-9", "KVM_NMI reaches vector 2", ProbeGuest("probe_nmi", event=Event.NMI), _nmi, needed=True
)
PUSH = Probe(
    "PROBE-11",
    "PUSH of a segment register writes 32 bits",
    ProbeGuest("probe_push"),
    _push,
    silicon=True,
    deviation="DV-11",
)
SHUTDOWN = Probe(
    "PROBE-14",
    "registers survive a triple fault",
    ProbeGuest("probe_shutdown"),
    _shutdown,
    silicon=True,
    deviation="DV-10",
)
CPUID = Probe(
    "CPUID",
    "CPUID traps at ring 1 and works at ring 0",
    ProbeGuest("probe_cpuid", cpuid_faulting=True),
    _cpuid,
    needed=True,
)
KICK = Probe(
    "KICK",
    "an MSI by irqfd and x2APIC reaches ring 1",
    ProbeGuest("probe_kick", event=Event.KICK),
    _kick,
    needed=True,
)
WRITE_PROTECT = Probe(
    "WP",
    "ring 1 reads but cannot write read-only pages",
    ProbeGuest("probe_write_protect"),
    _write_protect,
    needed=True,
)
NO_EXECUTE = Probe("XD", "ring 1 cannot run data", ProbeGuest("probe_no_execute"), _no_execute, needed=True)

PROBES = (
    UNPAGED,
    TWO_LEVEL,
    PAE,
    TWO_LEVEL_CR0,
    PAE_CR0,
    IRET,
    RING1,
    BUSY,
    LIMIT,
    RESUME_FLAG,
    STALE_GLOBAL,
    NMI_PROBE,
    PUSH,
    SHUTDOWN,
    CPUID,
    KICK,
    WRITE_PROTECT,
    NO_EXECUTE,
)

# Asked again one by one when the probe that holds all three in one Guest said no.
DECISIVE = (PAE, RING1, CPUID)
