"""The Host room: what a trap means, and everything a Guest may ask for.

Its names are imported at their first use: who only wants to catch a KvmhostError needs no virtual machine,
and no compiled part either.
"""

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from kvmhost.host.errors import GuestBroke as GuestBroke
    from kvmhost.host.errors import HookError as HookError
    from kvmhost.host.errors import KvmhostError as KvmhostError
    from kvmhost.host.errors import MachineBroken as MachineBroken
    from kvmhost.host.guest import Guest as Guest
    from kvmhost.host.guest_trap import GuestTrap as GuestTrap
    from kvmhost.host.hypercalls import Hypercall as Hypercall
    from kvmhost.host.machine import Machine as Machine
    from kvmhost.host.outcome import Outcome as Outcome
    from kvmhost.host.outcome import OutcomeKind as OutcomeKind
    from kvmhost.host.statistics import Statistics as Statistics
    from kvmhost.host.traps import Trap as Trap

_HOMES: Final = {
    "Guest": "guest",
    "GuestBroke": "errors",
    "GuestTrap": "guest_trap",
    "HookError": "errors",
    "Hypercall": "hypercalls",
    "KvmhostError": "errors",
    "Machine": "machine",
    "MachineBroken": "errors",
    "Outcome": "outcome",
    "OutcomeKind": "outcome",
    "Statistics": "statistics",
    "Trap": "traps",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
