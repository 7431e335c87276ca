"""A Guest's stay on a vCPU: deliver, enter, decode, and again.

This is the run loop of 2007 (abi 4.1) with the VM exit in the middle.  What the
shim does not settle by itself comes here once per trap; a handler of the user's
is asked first, then the Host's own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from kvmhost._native import lib
from kvmhost.host import hypercalls, interrupts
from kvmhost.host.errors import GuestBroke, HookError, MachineBroken
from kvmhost.host.faults import host_fault, switcher_fault, where_is
from kvmhost.host.guest_trap import GuestTrap, page_fault
from kvmhost.host.outcome import OutcomeKind
from kvmhost.host.report import guest_report, last_moments
from kvmhost.host.traps import Trap
from kvmhost.kvm import diagnose

if TYPE_CHECKING:
    from kvmhost.host.cpu import Cpu
    from kvmhost.host.guest import Guest

RING_1, RING_3 = 1, 3
PAGE_FAULT = int(Trap.PAGE_FAULT)


class Left(Enum):
    """Why a Guest left its vCPU."""

    ENDED = "its life is over"
    HALTED = "it waits for an interrupt"
    SLICE = "its time is over"
    STOP = "the machine stops"


# [T10]
def run_slice(cpu: Cpu, guest: Guest) -> Left:
    """Run a Guest on a vCPU until it ends, halts, or somebody wants the vCPU."""
    try:
        _check_start(guest)
    except GuestBroke as broke:
        _kill(guest, broke.reason, broke.advice)
        return Left.ENDED
    enter = cpu.enter if guest.watch is None else guest.watch.enter_on(cpu)
    try:
        return _run(cpu, guest, enter)
    finally:
        if guest.watch is not None:
            guest.watch.pause(cpu)


def _run(cpu: Cpu, guest: Guest, enter: Callable[[Guest], int]) -> Left:
    state = guest.state
    while True:
        if guest.ending or state.irqs_pending or state.halted:
            cpu.heard()
            if not _deliver(cpu, guest):
                break
            if state.halted:
                return _halted(guest)
        left = enter(guest)
        if left == lib.LEFT_TRAP:
            _settle(cpu, guest)
        elif left == lib.LEFT_ATTENTION:
            why = lib.kvmhost_take(cpu.c)
            guest.interruptions += 1
            if why & lib.ATTENTION_STOP:
                return Left.STOP
            if why & lib.ATTENTION_SLICE:
                return Left.SLICE
        else:
            _unusual(cpu, guest, left)
    return Left.ENDED


def _deliver(cpu: Cpu, guest: Guest) -> bool:
    """Give the Guest the interrupt that is due, if one is; False if its life is over."""
    if guest.outcome is not None:
        return False
    if guest.condemned is not None:
        _kill(guest, guest.condemned.reason, guest.condemned.advice)
        return False
    try:
        if interrupts.deliver(guest):
            cpu.look_again(interrupts.RETRY_NS)
    except GuestBroke as broke:
        _kill(guest, broke.reason, broke.advice)
    return guest.outcome is None


def _halted(guest: Guest) -> Left:
    """HALT with every interrupt masked is the end: nothing outside can change the mask."""
    if guest.data is not None and guest.data.words.blocked_interrupts == 0xFFFFFFFF:
        reason = "it halted with all interrupts blocked, so nothing can wake it"
        _kill(guest, reason, "clear a bit of blocked_interrupts before HALT")
        return Left.ENDED
    return Left.HALTED


def _kill(guest: Guest, reason: str, advice: str = "", extra: tuple[str, ...] = ()) -> None:
    guest.end(OutcomeKind.KILLED, reason, guest_report(guest, reason, advice, extra))


# [T40]
def _settle(cpu: Cpu, guest: Guest) -> None:
    """Do what one trap asks for; a Guest that breaks a rule on the way dies alone."""
    vector = guest.trapnum[0]
    if vector > lib.NO_TRAP:
        # The lab's silicon lets IRET at ring 1 set EFLAGS.VM; a trap from there pushes four words too many.
        _kill(
            guest,
            f"it left protected mode, so its frame is no frame: trap {vector:#x}",
            "leave EFLAGS.VM clear",
        )
        return
    trap = None
    try:
        if vector in guest.hooks:
            trap = GuestTrap(guest, cpu, vector)
            _ask(trap)
        elif vector == lib.HYPERCALL_VECTOR:
            hypercalls.serve(guest)
        elif vector == PAGE_FAULT:
            _page_fault(cpu, guest)
        else:
            GuestTrap(guest, cpu, vector).default()
        return
    except GuestBroke as broke:
        why = broke
    _last_resort(trap or GuestTrap(guest, cpu, vector, why.call), why)


# [T50]
def _ask(trap: GuestTrap) -> None:
    """Let the newest handler decide; of a hypercall, also on each that waits in the ring before it."""
    if trap.vector != lib.HYPERCALL_VECTOR:
        _ask_handlers(trap)
        return
    guest = trap.guest
    direct = hypercalls.direct_call(guest)
    for slot, call in hypercalls.ring_calls(guest):
        trap.hypercall = call
        _ask_handlers(trap)
        hypercalls.free_slot(guest, slot)
        if guest.outcome is not None:
            return
    trap.hypercall = direct
    _ask_handlers(trap)


def _page_fault(cpu: Cpu, guest: Guest) -> None:
    """As GuestTrap.default() would, but for the GuestTrap: the most frequent trap needs none of it."""
    address = cpu.mailbox.cr2
    error_code = page_fault(guest, address, guest.frame.words.errcode)
    if error_code is not None and not interrupts.enter_handler(guest, PAGE_FAULT, error_code):
        trap = GuestTrap(guest, cpu, PAGE_FAULT)
        trap.error_code = error_code
        trap.reflect()


def _last_resort(trap: GuestTrap, broke: GuestBroke) -> None:
    """Somebody may mend what a Guest broke (the shell); if nobody does it dies."""
    guest = trap.guest
    try:
        if guest.unhandled is None or not guest.unhandled(trap, broke.reason):
            raise broke
        _check_frame(guest)
    except GuestBroke as still:
        _kill(guest, still.reason, still.advice)


def _ask_handlers(trap: GuestTrap) -> None:
    guest = trap.guest
    # A handler may have taken itself away while the ring was drained.
    handlers = guest.hooks.get(trap.vector, [])
    guest.hooked[trap.kind] += bool(handlers)
    trap.waiting = list(handlers)
    try:
        trap.default()
    except (GuestBroke, HookError):
        raise
    except Exception as error:
        text = guest_report(guest, f"a handler of {trap.kind.name} raised {error!r}")
        guest.end(OutcomeKind.KILLED, f"a handler of {trap.kind.name} raised {error!r}", text)
        raise HookError(
            f"a handler of {trap.kind.name} raised {type(error).__name__}",
            cause=str(error),
            next_step="mend the handler; the Guest was stopped where it was\n" + text,
        ) from error
    _check_frame(guest)


def _check_start(guest: Guest) -> None:
    """Between its stays a Guest's frame lies open to whoever has the Guest: nobody starts it at ring 0.

    A trap leaves no such frame, whatever ring the Guest has made its way to (SEC-025).
    """
    frame = guest.frame
    frame.eflags = interrupts.sanitise(frame.eflags)
    if not (frame.cs & 3 and frame.ss & 3):
        raise GuestBroke(
            f"it would run with CS {frame.cs:#x} and SS {frame.ss:#x}",
            "give it the selectors of its own ring: both with an RPL of 1, or of 3",
        )


def _check_frame(guest: Guest) -> None:
    """A person may have written flags, CS and SS: the Guest must be kickable, and out of ring 0 (SEC-025)."""
    frame = guest.frame
    frame.eflags = interrupts.sanitise(frame.eflags)
    ring = frame.cs & 3
    if ring not in (RING_1, RING_3) or frame.ss & 3 != ring:
        raise GuestBroke(
            f"it would run with CS {frame.cs:#x} and SS {frame.ss:#x}",
            "a handler must leave both with the same RPL, 1 or 3",
        )


def _unusual(cpu: Cpu, guest: Guest, left: int) -> None:
    """Everything that is neither a trap nor a wish."""
    if left == lib.LEFT_SWITCHER_FAULT:
        fault = switcher_fault(cpu)
    elif left == lib.LEFT_HOST_FAULT:
        fault = host_fault(cpu)
    else:
        raise _lost(cpu, guest, left)
    _kill(guest, fault.reason, fault.advice, fault.details)
    cpu.start()


def _lost(cpu: Cpu, guest: Guest, left: int) -> MachineBroken:
    """Say what can be said about a vCPU that is not at the Host's door and will not come to it."""
    name = f"vCPU {cpu.index}"
    if left == lib.LEFT_EXIT:
        stop = cpu.vcpu.exit()
        cause, next_step = diagnose(cpu.vcpu, stop)
        return MachineBroken(
            f"{name} left the VM by {type(stop).__name__}",
            cause=cause,
            next_step=next_step,
            log=last_moments(cpu, guest, stop),
        )
    if left == lib.LEFT_BROKEN:
        return MachineBroken(
            f"{name} did not come out within a second of being told to",
            cause=where_is(cpu),
            next_step="this is a defect of the Switcher, the Host or KVM: please report it",
        )
    return MachineBroken(
        f"KVM_RUN on {name} failed", cause=os.strerror(-left), next_step="see the kernel log"
    )
