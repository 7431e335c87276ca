"""Hypercalls: what a Guest asks of the Host by name.

A call arrives in the frame's registers, or earlier in the async ring; the ring is
always drained before the call that brought the CPU here, because the Guest was
promised that order.  Numbers, arguments and limits are those of abi 8; every
value comes from the Guest and is checked where it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from kvmhost._native import ffi, lib
from kvmhost.host import lguest_data, segments
from kvmhost.host.abi import ABIS
from kvmhost.host.errors import GuestBroke, HookError
from kvmhost.host.outcome import OutcomeKind

if TYPE_CHECKING:
    from kvmhost.host.guest import Guest
    from kvmhost.host.lguest_data import LguestData

RING_SIZE: Final[int] = lib.LHCALL_RING_SIZE
RING_FREE: Final[int] = lib.LHCALL_RING_FREE
SHUTDOWN_TEXT_BYTES = 128
NOTIFY_TEXT_BYTES = 4096
# What a kernel says that was told to power off; anything else is the last word of a panic.
POWER_OFF_TEXTS = frozenset({"power down", "power off", "powered off"})

INIT_FIRST = "call LGUEST_INIT first"

Args = tuple[int, int, int, int]
# What reads the arguments of a direct call from a frame, for each order of registers.
_ARGUMENTS: dict[tuple[str, ...], Callable[[Any], tuple[int, ...]]] = {
    abi.arguments: attrgetter(*abi.arguments) for abi in ABIS
}


class Hypercall(NamedTuple):
    """One call: its number, four 32-bit arguments, and whether it waited in the async ring."""

    number: int
    args: Args
    from_ring: bool = False

    @property
    def name(self) -> str:
        """lguest's name for the number.

        >>> Hypercall(10, (0, 0, 0, 0)).name
        'HALT'
        """
        return NAMES.get(self.number, f"number {self.number}")


def direct_call(guest: Guest) -> Hypercall:
    """The call in the Guest's registers: its number in EAX, its arguments where the generation has them."""
    words = guest.frame.words
    return Hypercall(words.eax, _four(_ARGUMENTS[guest.abi.arguments](words)))


def _four(args: tuple[int, ...]) -> Args:
    """Calls before 2.6.31 have three arguments; what takes four sees a zero."""
    return cast(Args, args if len(args) == 4 else (*args, 0))


def ring_calls(guest: Guest) -> list[tuple[int, Hypercall]]:
    """The queued calls, oldest first, with their slots; at most one lap (abi 8.3)."""
    found: list[tuple[int, Hypercall]] = []
    data = guest.data
    if data is None:
        return found
    status = data.status
    slot = guest.state.next_hypercall % RING_SIZE
    if status[slot] == RING_FREE:
        return found
    ring, width, arguments = data.ring, data.layout.entry_words, data.arguments
    while status[slot] != RING_FREE and len(found) < RING_SIZE:
        entry = ffi.unpack(ring + slot * width, width)
        found.append((slot, Hypercall(entry[0], _four(arguments(entry)), True)))
        slot = (slot + 1) % RING_SIZE
    return found


def free_slot(guest: Guest, slot: int) -> None:
    """Tell the Guest that a slot's call is done."""
    if guest.data is not None:
        guest.data.status[slot] = RING_FREE
        guest.state.next_hypercall = (slot + 1) % RING_SIZE


# [T70]
def perform(guest: Guest, call: Hypercall) -> None:
    """Do what a call says.  Raises GuestBroke for what no Guest may ask."""
    _perform(guest, call.number, call.args, call.from_ring)


def _perform(guest: Guest, number: int, args: tuple[int, ...], from_ring: bool) -> None:
    """A result goes to EAX, but never that of a call that waited in the ring: EAX is then another call's."""
    if number not in guest.abi.calls:
        known = ", ".join(f"{known} {NAMES[known]}" for known in sorted(guest.abi.calls))
        raise GuestBroke(f"unknown hypercall {number}", f"kernels {guest.abi.releases} know {known}")
    if guest.data is None and number != lib.LHCALL_LGUEST_INIT:
        raise GuestBroke(f"hypercall {Hypercall(number, _four(args)).name} before LGUEST_INIT", INIT_FIRST)
    result = ACTIONS[number](guest, *args)
    if result is not None and not from_ring:
        guest.frame.eax = result


def serve(guest: Guest) -> None:
    """Everything that waits in the ring, then the call in the registers: the common case that nobody hooks.

    Raises GuestBroke, with the call it broke a rule by; what is behind that one is not done.
    """
    words, data = guest.frame.words, guest.data
    number, args = words.eax, _ARGUMENTS[guest.abi.arguments](words)
    if data is not None and data.status[guest.state.next_hypercall % RING_SIZE] != RING_FREE:
        _drain(guest, data)
        if guest.outcome is not None:
            return
    try:
        _perform(guest, number, args if len(args) == 4 else (*args, 0), False)
    except GuestBroke as broke:
        broke.call = Hypercall(number, _four(args))
        raise


def _drain(guest: Guest, data: LguestData) -> None:
    """The queued calls, oldest first; at most one lap (abi 8.3)."""
    status, state = data.status, guest.state
    ring, width, arguments = data.ring, data.layout.entry_words, data.arguments
    slot = state.next_hypercall % RING_SIZE
    for _ in range(RING_SIZE):
        if status[slot] == RING_FREE:
            return
        entry = ffi.unpack(ring + slot * width, width)
        args = _four(arguments(entry))
        try:
            _perform(guest, entry[0], args, True)
        except GuestBroke as broke:
            broke.call = Hypercall(entry[0], args, True)
            raise
        status[slot] = RING_FREE
        state.next_hypercall = slot = (slot + 1) % RING_SIZE
        if guest.outcome is not None:
            return


def _flush_async(guest: Guest, *_: int) -> None:
    """Nothing: to be here is to have drained the ring."""


def _init(guest: Guest, *_: int) -> None:
    """Its argument is looked for where each generation has it, so that a wrong guess can be told."""
    if guest.data is not None:
        raise GuestBroke("LGUEST_INIT twice", "it may be called once")
    state = guest.state
    data = lguest_data.recognise(guest)
    words = data.words
    state.kernel_address = words.kernel_address
    state.data = data.address
    state.noirq_start, state.noirq_end = data.no_irq_window
    state.syscall_vector = words.syscall_vec
    words.reserve_mem = lib.SWITCHER_RESERVE
    words.tsc_khz = guest.tsc_khz
    if "pgdir" in data.layout.fields:
        words.pgdir = state.pgdir[state.current_root]
    data.tell_time()
    guest.data = data
    guest.tables.flush_all()


def _shutdown(guest: Guest, address: int, reason: int, *_: int) -> None:
    """Reason 2 wins even if the text cannot be read: Guests pass NULL there (abi 8.2).

    Before 2.6.26 the call was CRASH and had no reason; a Guest that powers off says so by its text.
    """
    if not guest.abi.shutdown_reason:
        reason = lib.LGUEST_SHUTDOWN_POWEROFF
    if reason == lib.LGUEST_SHUTDOWN_RESTART:
        guest.end(OutcomeKind.RESTARTED, "restart")
        return
    # Some panics end their line themselves.
    text = guest.read_text(address, SHUTDOWN_TEXT_BYTES).rstrip("\r\n")
    if reason == lib.LGUEST_SHUTDOWN_POWEROFF and text.rstrip(".!").lower() in POWER_OFF_TEXTS:
        guest.end(OutcomeKind.POWERED_OFF, text)
    else:
        guest.end(OutcomeKind.CRASHED, text)


def _load_gdt(guest: Guest, address: int, count: int, *_: int) -> None:
    """All of the table at once, as Guests did it up to 2.6.29."""
    if count > lib.GDT_ENTRIES:
        raise GuestBroke(f"LOAD_GDT with {count} entries", f"the GDT has {lib.GDT_ENTRIES}")
    segments.load_gdt(guest.state, guest.read_physical(address, 8 * count))


def _new_pgtable(guest: Guest, pgdir: int, *_: int) -> None:
    guest.tables.new_pgtable(pgdir)


def _flush_tlb(guest: Guest, everything: int, *_: int) -> None:
    if everything:
        guest.tables.flush_all()
    else:
        guest.tables.flush_user()


def _load_idt_entry(guest: Guest, vector: int, low: int, high: int, _: int) -> None:
    segments.load_idt_entry(guest.state, vector, low, high)


def _load_gdt_entry(guest: Guest, index: int, low: int, high: int, _: int) -> None:
    segments.load_gdt_entry(guest.state, index, low, high)


def _load_tls(guest: Guest, address: int, *_: int) -> None:
    segments.load_tls(guest.state, guest.read_physical(address, 24))


def _set_stack(guest: Guest, selector: int, esp: int, pages: int, _: int) -> None:
    if selector & 3 != 1:
        raise GuestBroke(f"SET_STACK with selector {selector:#x}", "a kernel stack's segment has RPL 1: 0x69")
    if pages > 2:
        raise GuestBroke(f"SET_STACK with {pages} pages", "a kernel stack has at most 2")
    guest.state.ss1, guest.state.esp1, guest.state.stack_pages = selector & 0xFFFF, esp, pages
    guest.tables.pin_stack()


def _ts(guest: Guest, value: int, *_: int) -> None:
    guest.state.ts = lib.CR0_TS if value else 0


def _set_clockevent(guest: Guest, nanoseconds: int, *_: int) -> None:
    guest.set_clock(nanoseconds)


def _halt(guest: Guest, *_: int) -> None:
    guest.state.halted = 1


def _set_pte(guest: Guest, pgdir: int, address: int, low: int, high: int) -> None:
    guest.tables.set_pte(pgdir, address, low, high)


def _set_pgd(guest: Guest, pgdir: int, index: int, *_: int) -> None:
    guest.tables.set_pgd(pgdir, index)


def _set_pmd(guest: Guest, pmd: int, index: int, *_: int) -> None:
    guest.tables.set_pmd(pmd, index)


def _notify(guest: Guest, address: int, *_: int) -> int | None:
    """A kick for a device, or else the early console of 3.x: a text, of which it is told how much was taken.

    (abi 9.7 and 10.2)
    """
    if guest.bus is not None and guest.bus.notify(address):
        return None
    text = guest.read_physical_until_nul(address, NOTIFY_TEXT_BYTES)
    try:
        guest.write_console(text)
    except HookError as error:
        guest.end(OutcomeKind.KILLED, error.message)
        raise
    return len(text)


def _send_interrupts(guest: Guest, *_: int) -> None:
    """Nothing: interrupts are looked at before every entry."""


Action = Callable[..., int | None]

ACTIONS: dict[int, Action] = {
    lib.LHCALL_FLUSH_ASYNC: _flush_async,
    lib.LHCALL_LGUEST_INIT: _init,
    lib.LHCALL_SHUTDOWN: _shutdown,
    lib.LHCALL_LOAD_GDT: _load_gdt,
    lib.LHCALL_NEW_PGTABLE: _new_pgtable,
    lib.LHCALL_FLUSH_TLB: _flush_tlb,
    lib.LHCALL_LOAD_IDT_ENTRY: _load_idt_entry,
    lib.LHCALL_SET_STACK: _set_stack,
    lib.LHCALL_TS: _ts,
    lib.LHCALL_SET_CLOCKEVENT: _set_clockevent,
    lib.LHCALL_HALT: _halt,
    lib.LHCALL_SET_PMD: _set_pmd,
    lib.LHCALL_SET_PTE: _set_pte,
    lib.LHCALL_SET_PGD: _set_pgd,
    lib.LHCALL_LOAD_TLS: _load_tls,
    lib.LHCALL_NOTIFY: _notify,
    lib.LHCALL_LOAD_GDT_ENTRY: _load_gdt_entry,
    lib.LHCALL_SEND_INTERRUPTS: _send_interrupts,
}

NAMES: dict[int, str] = {
    value: name.removeprefix("LHCALL_")
    for name, value in ((n, getattr(lib, n)) for n in dir(lib) if n.startswith("LHCALL_"))
    if not name.startswith("LHCALL_RING_")
}
