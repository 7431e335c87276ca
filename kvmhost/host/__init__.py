"""The Host room: what a trap means, and everything a Guest may ask for."""

from kvmhost.host.errors import GuestBroke, HookError, KvmhostError, MachineBroken
from kvmhost.host.guest import Guest
from kvmhost.host.guest_trap import GuestTrap
from kvmhost.host.hypercalls import Hypercall
from kvmhost.host.machine import Machine
from kvmhost.host.outcome import Outcome, OutcomeKind
from kvmhost.host.statistics import Statistics
from kvmhost.host.traps import Trap

__all__ = [
    "Guest",
    "GuestBroke",
    "GuestTrap",
    "HookError",
    "Hypercall",
    "KvmhostError",
    "Machine",
    "MachineBroken",
    "Outcome",
    "OutcomeKind",
    "Statistics",
    "Trap",
]
