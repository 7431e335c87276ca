"""kvmhost: lguest's Guests on KVM.

    from kvmhost import Machine, Trap

What this module exports is imported at its first use, so that a program which only asks for help, or runs on
a machine where the compiled part is missing, never pays for it or fails over it.
"""

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from kvmhost.host.errors import KvmhostError as KvmhostError
    from kvmhost.host.guest_trap import GuestTrap as GuestTrap
    from kvmhost.host.outcome import Outcome as Outcome
    from kvmhost.host.outcome import OutcomeKind as OutcomeKind
    from kvmhost.host.traps import Trap as Trap
    from kvmhost.launcher.errors import AbiError as AbiError
    from kvmhost.launcher.errors import ImageError as ImageError
    from kvmhost.launcher.errors import MemorySizeError as MemorySizeError

_HOMES: Final = {
    "GuestTrap": "kvmhost.host.guest_trap",
    "Outcome": "kvmhost.host.outcome",
    "OutcomeKind": "kvmhost.host.outcome",
    "Trap": "kvmhost.host.traps",
    "AbiError": "kvmhost.launcher.errors",
    "ImageError": "kvmhost.launcher.errors",
    "KvmhostError": "kvmhost.host.errors",
    "Machine": "kvmhost.launcher.machine",
    "MemorySizeError": "kvmhost.launcher.errors",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
