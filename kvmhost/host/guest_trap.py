"""One trap of one Guest, as a handler sees it, and what the Host does by default.

A user's handler gets a GuestTrap: the registers, the Guest's memory, and three
ways on: let the Host do what it would have done, hand the trap to the Guest, or
kill.  Returning without any of these resumes the Guest with the registers as
they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from kvmhost._native import lib
from kvmhost.host import emulate, fault_code, hypercalls, interrupts, mmio
from kvmhost.host.errors import GuestBroke
from kvmhost.host.faults import BAD_SEGMENT
from kvmhost.host.traps import HAS_ERROR_CODE, Trap

if TYPE_CHECKING:
    from kvmhost.host.cpu import Cpu
    from kvmhost.host.guest import Guest, Handler
    from kvmhost.host.hypercalls import Hypercall
    from kvmhost.switcher.pair import Frame


class GuestTrap:
    """A trap: `kind`, `error_code` (32 bits), `eip` and `cr2` (linear addresses), `regs`, `hypercall`.

    `regs` is the live frame: what a handler writes there is what the Guest resumes with, except
    that flags are sanitised (IF on, IOPL 0, VM off) and CS and SS must keep an RPL of 1 or 3.
    `cr2` has a meaning for page faults only.  `hypercall` is None unless kind is HYPERCALL.
    """

    __slots__ = ("cpu", "cr2", "error_code", "guest", "hypercall", "vector", "waiting")

    def __init__(self, guest: Guest, cpu: Cpu, vector: int, hypercall: Hypercall | None = None) -> None:
        self.guest = guest
        self.cpu = cpu
        self.vector = vector
        self.error_code: int = guest.frame.words.errcode
        self.cr2: int = cpu.mailbox.cr2
        self.hypercall = hypercall
        self.waiting: list[Handler] | None = None

    @property
    def kind(self) -> Trap:
        """Which kind of trap."""
        return Trap(self.vector)

    def __repr__(self) -> str:
        return f"<GuestTrap {self.kind.name} of {self.guest.name} at {self.eip:#010x}>"

    @property
    def regs(self) -> Frame:
        """The Guest's registers, readable and writable by name."""
        return self.guest.frame

    @property
    def eip(self) -> int:
        """Linear address of the instruction (for a fault) or of the next one (for a trap)."""
        return self.guest.frame.eip

    def read(self, linear: int, length: int) -> bytes:
        """Read the Guest's memory by its own page tables; shorter than asked where they end."""
        return self.guest.read_linear(linear, length)

    def write(self, linear: int, data: bytes) -> None:
        """Write the Guest's memory by its own page tables.  Raises GuestBroke where they end."""
        self.guest.write_linear(linear, data)

    def kill(self, reason: str, advice: str = "") -> NoReturn:
        """End this Guest with a reason; never returns."""
        raise GuestBroke(reason, advice)

    def reflect(self) -> None:
        """Hand the trap to the Guest's own handler; kills a Guest that has none."""
        vector = self.vector
        code = self.error_code if vector in HAS_ERROR_CODE else None
        if vector == lib.NO_TRAP:
            self.kill("the Switcher came back without a trap: it faulted inside", BAD_SEGMENT)
        if not interrupts.enter_handler(self.guest, vector, code):
            self.kill(
                self._unhandled(), "install a gate for it with LOAD_IDT_ENTRY, or do not cause the trap"
            )

    def _unhandled(self) -> str:
        what = self.kind.name.lower().replace("_", " ")
        detail = f"address {self.cr2:#010x}, " if self.vector == Trap.PAGE_FAULT else ""
        return (
            f"unhandled trap {self.vector} ({what}) at {self.eip:#010x}, "
            f"{detail}error code {self.error_code:#x}"
        )

    # [T60]
    def default(self) -> None:
        """What would be done without this handler: the one before it, or the Host (abi 4.3)."""
        if self.waiting:
            self.waiting.pop()(self)
            return
        action = _DEFAULTS.get(self.vector)
        if action is None:
            self.reflect()
        else:
            action(self)


def _general_protection(trap: GuestTrap) -> None:
    if trap.error_code != 0 or not emulate.emulate(trap.guest):
        trap.reflect()


def page_fault(guest: Guest, address: int, error_code: int) -> int | None:
    """Fill in what is missing, or ask a device; None, or the error code to hand the fault on with."""
    if guest.tables.demand_page(address, error_code):
        return None
    if guest.bus is not None and mmio.emulate(guest, guest.bus, address):
        return None
    if guest.data is not None:
        guest.data.words.cr2 = address
    return fault_code.for_the_guest(guest.tables, address, error_code)


def _page_fault(trap: GuestTrap) -> None:
    error_code = page_fault(trap.guest, trap.cr2, trap.error_code)
    if error_code is not None:
        trap.error_code = error_code
        trap.reflect()


def _device_not_available(trap: GuestTrap) -> None:
    """Only a Guest that asked for TS gets to see it."""
    if trap.guest.state.ts:
        trap.reflect()


def _nmi(trap: GuestTrap) -> None:
    """An NMI is the Host's, and has been counted there; the Guest never hears of it (abi 5.6)."""


def _hypercall(trap: GuestTrap) -> None:
    if trap.hypercall is not None:
        hypercalls.perform(trap.guest, trap.hypercall)


_DEFAULTS: dict[int, Callable[[GuestTrap], None]] = {
    Trap.NMI: _nmi,
    Trap.DEVICE_NOT_AVAILABLE: _device_not_available,
    Trap.GENERAL_PROTECTION: _general_protection,
    Trap.PAGE_FAULT: _page_fault,
    Trap.HYPERCALL: _hypercall,
}
