"""Virtual interrupts, and traps handed on to the Guest.

Both end the same way: a frame is built on the Guest's own kernel stack, as the
CPU would have done, and the Guest resumes in its handler.  Hardware IF is always
set while a Guest runs; the Guest's own idea of it is a word it shares with us,
and the flags it sees on its stack are made to agree with that word (abi 5.3, 5.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmhost._native import lib
from kvmhost.host.errors import GuestBroke
from kvmhost.switcher import gates

if TYPE_CHECKING:
    from kvmhost.host.guest import Guest

EFLAGS_IF: Final[int] = lib.EFLAGS_IF_BIT
EFLAGS_TF = 1 << 8
EFLAGS_IOPL = 3 << 12
EFLAGS_NT = 1 << 14
EFLAGS_RF = 1 << 16
EFLAGS_VM = 1 << 17
# What an interrupt gate clears for the handler (Intel SDM vol. 3, "Flag Usage By
# Exception- or Interrupt-Handler Procedure").
CLEARED_BY_GATE = EFLAGS_TF | EFLAGS_VM | EFLAGS_RF | EFLAGS_NT

PAGE_MASK: Final = lib.PAGE_BYTES - 1
# How soon to look again when an interrupt is due and the Guest does not want it (abi 11.6).
RETRY_NS = 1_000_000


def sanitise(eflags: int) -> int:
    """Flags a Guest may run with: IF set, IOPL 0, no virtual-8086 mode, bit 1 set.

    >>> hex(sanitise(0x23000))
    '0x202'
    """
    return eflags & ~(EFLAGS_IOPL | EFLAGS_VM) | EFLAGS_IF | 2


def _push(guest: Guest, stack: int, values: tuple[int, ...]) -> int:
    """Push dwords on a Guest-virtual stack, the first one highest; returns the new stack pointer.

    The address of the lowest is translated, and all go there: but for a frame that would straddle two
    pages, which need not be neighbours (abi 5.3).
    """
    if stack & 3:
        raise GuestBroke(
            f"its kernel stack pointer {stack:#010x} is misaligned, no multiple of 4",
            "keep ESP aligned at ring 1, and tell an aligned one by SET_STACK",
        )
    lowest = stack - 4 * len(values)
    if lowest & ~PAGE_MASK != stack - 4 & ~PAGE_MASK or lowest < 0:
        for value in values:
            stack = _push(guest, stack & 0xFFFFFFFF or 1 << 32, (value,))
        return stack
    physical = guest.tables.translate(lowest, write=True)
    if physical is None or physical + 4 * len(values) > guest.state.limit_bytes:
        raise GuestBroke(
            f"its kernel stack at {lowest:#010x} cannot be written",
            "map the stack writable and tell it by SET_STACK before anything can trap",
        )
    words, at = guest.memory.u32, (guest.state.mem_base + physical) // 4
    for value in reversed(values):
        words[at] = value
        at += 1
    return lowest


# [T80]
def enter_handler(guest: Guest, vector: int, error_code: int | None) -> bool:
    """Build the frame for a vector and point the Guest at its handler (abi 5.3).

    False, with nothing changed, if the Guest has no gate for it.  Raises GuestBroke if its stack
    cannot take the frame.
    """
    state, frame, data = guest.state, guest.frame.words, guest.data
    low, high = state.idt[2 * vector], state.idt[2 * vector + 1]
    if not high & gates.PRESENT:
        return False
    stack, selector, eflags = frame.esp, frame.ss & 0xFFFF, frame.eflags
    pushed: tuple[int, ...] = eflags, frame.cs & 0xFFFF, frame.eip
    if data is None or not data.words.irq_enabled & EFLAGS_IF:
        pushed = eflags & ~EFLAGS_IF, *pushed[1:]
    if selector & 3 != 1:
        pushed = selector, stack, *pushed
        stack, selector = state.esp1, state.ss1
    if error_code is not None:
        pushed = *pushed, error_code
    frame.esp = _push(guest, stack, pushed)
    frame.ss = selector
    frame.cs = lib.GUEST_CS
    frame.eip = high & 0xFFFF0000 | low & 0xFFFF
    frame.eflags = sanitise(eflags & ~CLEARED_BY_GATE)
    if data is not None and high >> 8 & 0xF == gates.INTERRUPT_GATE:
        data.words.irq_enabled = 0
    return True


def candidates(guest: Guest) -> int:
    """The bitmap of interrupts that are pending and not masked by the Guest."""
    if guest.data is None:
        return 0
    return int(guest.state.irqs_pending & ~guest.data.words.blocked_interrupts & 0xFFFFFFFF)


def _in_no_irq_window(guest: Guest) -> bool:
    """Between setting its flags and its IRET a Guest must not be given another frame."""
    eip, start, end = guest.frame.eip, guest.state.noirq_start, guest.state.noirq_end
    return bool(start <= eip < end) if end else bool(start and eip == start)


# [T90]
def deliver(guest: Guest) -> bool:
    """Deliver at most one virtual interrupt (abi 5.4).

    Returns True if one waits that could not be delivered now and nothing in the Guest will ask for
    it: then somebody must look again within RETRY_NS.  One that the Guest masks counts, for it
    unmasks by a plain store (abi 11.6); a Guest that halted stores nothing.
    """
    data = guest.data
    due = candidates(guest)
    if data is None:
        return False
    if not due:
        data.irq_pending[0] = 0
        return bool(guest.state.irqs_pending and not guest.state.halted)
    number = (due & -due).bit_length() - 1
    if guest.state.halted:
        guest.state.halted = 0
        data.words.irq_enabled = EFLAGS_IF
    elif not data.interrupts_enabled or _in_no_irq_window(guest):
        data.irq_pending[0] = EFLAGS_IF
        return True
    vector = lib.LGUEST_IRQ_BASE + number
    if not guest.state.idt[2 * vector + 1] & 0x8000:
        data.tell_time()
        return False
    lib.kvmhost_clear_bits(guest.irqs_address, 1 << number)
    enter_handler(guest, vector, None)
    data.tell_time()
    data.irq_pending[0] = EFLAGS_IF if candidates(guest) else 0
    return bool(guest.state.irqs_pending)
