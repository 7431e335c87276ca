"""/dev/kvm for Python.

Three objects follow the kernel's three kinds of file descriptor: a Kvm makes a Vm, a Vm makes a Vcpu, and
each is a context manager that gives back what it took.  State comes out as frozen records, exits as one
class a reason, and errors with a cause and a next step.  No ioctl number is known anywhere else in this
project.

In this room's examples kvm is an open Kvm, vm a new Vm of it and vcpu that Vm's vCPU 0, each made only
where an example mentions it, and every public name of this package is there.

What a program rarely needs (exits, events, statistics, the entry checker) is imported when it is first named.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kvmhost.kvm.capabilities import Cap
from kvmhost.kvm.cpuid import CpuidEntry
from kvmhost.kvm.errors import (
    CapabilityError,
    ClosedError,
    KvmError,
    MemoryLayoutError,
    MsrError,
    NotReadyError,
)
from kvmhost.kvm.interrupts import Chip, MsiRoute, PinRoute
from kvmhost.kvm.memory import MemorySlot
from kvmhost.kvm.registers import Dtable, Regs, Segment, Sregs, Sregs2
from kvmhost.kvm.system import Kvm
from kvmhost.kvm.vcpu import Vcpu
from kvmhost.kvm.vcpu_registers import Translation
from kvmhost.kvm.vm import Vm

if TYPE_CHECKING:
    from kvmhost.kvm.chips import IoapicState, PicState, PitChannel, PitState
    from kvmhost.kvm.diagnosis import diagnose, was_reset
    from kvmhost.kvm.entry_check import EntryStateError, Violation
    from kvmhost.kvm.entry_rule import Rule
    from kvmhost.kvm.events import (
        Breakpoint,
        Events,
        ExceptionEvent,
        InterruptEvent,
        MpState,
        NmiEvent,
        Shadow,
        SmiEvent,
        Valid,
        Watch,
    )
    from kvmhost.kvm.exits import (
        Exit,
        ExitApResetHold,
        ExitBusLock,
        ExitDebug,
        ExitDirtyRingFull,
        ExitException,
        ExitFailEntry,
        ExitHlt,
        ExitHypercall,
        ExitHyperv,
        ExitInternalError,
        ExitInterrupted,
        ExitIo,
        ExitIoapicEoi,
        ExitIrqWindowOpen,
        ExitMmio,
        ExitNmi,
        ExitNotify,
        ExitRdmsr,
        ExitSetTpr,
        ExitShutdown,
        ExitSystemEvent,
        ExitTprAccess,
        ExitUnknown,
        ExitUnrecognised,
        ExitWatchdog,
        ExitWrmsr,
        ExitXen,
    )
    from kvmhost.kvm.extended import DebugRegs, Fpu
    from kvmhost.kvm.flat import flat_sregs
    from kvmhost.kvm.statistics import Kind, Statistic, Unit
    from kvmhost.kvm.sync import SyncedRegisters

_LATER = {
    "chips": ("IoapicState", "PicState", "PitChannel", "PitState"),
    "diagnosis": ("diagnose", "was_reset"),
    "entry_check": ("EntryStateError", "Violation"),
    "entry_rule": ("Rule",),
    "events": (
        *("Breakpoint", "Events", "ExceptionEvent", "InterruptEvent", "MpState", "NmiEvent", "Shadow"),
        *("SmiEvent", "Valid", "Watch"),
    ),
    "exits": (
        *("Exit", "ExitApResetHold", "ExitBusLock", "ExitDebug", "ExitDirtyRingFull", "ExitException"),
        *("ExitFailEntry", "ExitHlt", "ExitHypercall", "ExitHyperv", "ExitInternalError", "ExitInterrupted"),
        *("ExitIo", "ExitIoapicEoi", "ExitIrqWindowOpen", "ExitMmio", "ExitNmi", "ExitNotify", "ExitRdmsr"),
        *(
            "ExitSetTpr",
            "ExitShutdown",
            "ExitSystemEvent",
            "ExitTprAccess",
            "ExitUnknown",
            "ExitUnrecognised",
        ),
        *("ExitWatchdog", "ExitWrmsr", "ExitXen"),
    ),
    "extended": ("DebugRegs", "Fpu"),
    "flat": ("flat_sregs",),
    "statistics": ("Kind", "Statistic", "Unit"),
    "sync": ("SyncedRegisters",),
}
_HOME = {name: module for module, names in _LATER.items() for name in names}

__all__ = [
    "Breakpoint",
    "Cap",
    "CapabilityError",
    "Chip",
    "ClosedError",
    "CpuidEntry",
    "DebugRegs",
    "Dtable",
    "EntryStateError",
    "Events",
    "ExceptionEvent",
    "Exit",
    "ExitApResetHold",
    "ExitBusLock",
    "ExitDebug",
    "ExitDirtyRingFull",
    "ExitException",
    "ExitFailEntry",
    "ExitHlt",
    "ExitHypercall",
    "ExitHyperv",
    "ExitInternalError",
    "ExitInterrupted",
    "ExitIo",
    "ExitIoapicEoi",
    "ExitIrqWindowOpen",
    "ExitMmio",
    "ExitNmi",
    "ExitNotify",
    "ExitRdmsr",
    "ExitSetTpr",
    "ExitShutdown",
    "ExitSystemEvent",
    "ExitTprAccess",
    "ExitUnknown",
    "ExitUnrecognised",
    "ExitWatchdog",
    "ExitWrmsr",
    "ExitXen",
    "Fpu",
    "InterruptEvent",
    "IoapicState",
    "Kind",
    "Kvm",
    "KvmError",
    "MemoryLayoutError",
    "MemorySlot",
    "MpState",
    "MsiRoute",
    "MsrError",
    "NmiEvent",
    "NotReadyError",
    "PicState",
    "PinRoute",
    "PitChannel",
    "PitState",
    "Regs",
    "Rule",
    "Segment",
    "Shadow",
    "SmiEvent",
    "Sregs",
    "Sregs2",
    "Statistic",
    "SyncedRegisters",
    "Translation",
    "Unit",
    "Valid",
    "Vcpu",
    "Violation",
    "Vm",
    "Watch",
    "diagnose",
    "flat_sregs",
    "was_reset",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
