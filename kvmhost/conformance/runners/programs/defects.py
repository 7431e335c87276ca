"""Defects of the product's Host, to be planted while a program runs: its row must see each of them.

A control of a row names one and says what will then be found.  Each takes away one thing that the Host does
to protect itself, or to be exact, by putting a worse function where the good one is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from kvmhost._native import lib
from kvmhost.host import emulate, segments, slice
from kvmhost.host.host_area import TEXT_AT, HostArea
from kvmhost.host.machine import Machine
from kvmhost.host.page_bits import PAGE, RW
from kvmhost.host.paging_guest import GuestTables
from kvmhost.host.paging_shadow import ShadowTrees
from kvmhost.kvm.failures import Explanation
from kvmhost.switcher import gates
from kvmhost.switcher import load as load_switcher

Entry = tuple[int, int]
INCREMENT_BYTES = 3
NOP, CLD_BYTES = b"\x90", 1
PUSH_EDX, PUSH_ECX = b"\x52", b"\x51"
MACHINE_CHECK = 18


@contextmanager
def planted(name: str) -> Iterator[None]:
    """While this is entered the Host has the defect; "" is none.  KeyError for a name that no defect has."""
    with ExitStack() as stack:
        segments.live_gate.cache_clear()
        stack.callback(segments.live_gate.cache_clear)
        if name:
            for owner, attribute, new in DEFECTS[name]():
                stack.enter_context(patch.object(owner, attribute, new))
        yield


Swaps = Iterator[tuple[Any, str, Any]]


def blind_accessed() -> Swaps:
    """Every descriptor gets the accessed bit, whatever it is."""
    yield segments, "fix_descriptor", lambda low, high: (low, high | 0x100)


def as_asked() -> Swaps:
    """Descriptors are copied as the Guest has them."""
    yield segments, "fix_descriptor", lambda low, high: (low, high)


def _direct(never: frozenset[int], could: tuple[int, ...]) -> Swaps:
    yield segments, "NEVER_DIRECT", never
    yield segments, "COULD_BE_DIRECT", could


def every_gate() -> Swaps:
    """Any vector may be the Guest's but those that merged lguest never took."""
    yield from _direct(segments.IGNORED_GATES, tuple(range(256)))


def machine_check() -> Swaps:
    """Merged lguest's own list, which forgot vector 18."""
    never = segments.NEVER_DIRECT - {MACHINE_CHECK}
    yield from _direct(never, (*segments.COULD_BE_DIRECT, MACHINE_CHECK))


def selector_kept() -> Swaps:
    """A gate's selector is the one that the Guest wrote."""
    yield gates, "direct_gate", lambda low, high: (low, high)


def any_target() -> Swaps:
    """A direct gate may lead anywhere."""

    def live_gate(blob: Any, vector: int, low: int, high: int, hooked: bool) -> Entry:
        own = vector not in segments.NEVER_DIRECT and bool(high & gates.PRESENT)
        return (low, high) if own else gates.default_gate(blob, vector)

    live_gate.cache_clear = lambda: None  # type: ignore[attr-defined]
    yield segments, "live_gate", live_gate


def writable_state_page() -> Swaps:
    """The state page, with the live GDT and IDT, is shown like the register page."""
    original = ShadowTrees.map_switcher

    def map_switcher(self: Any, text: int, registers: int, state_page: int, pair: int) -> None:
        original(self, text, registers, state_page, pair)
        index = (pair - lib.SWITCHER_BASE) // PAGE + 1
        self._u64[self._switcher_table // 8 + index] |= RW

    yield ShadowTrees, "map_switcher", map_switcher


def any_frame() -> Swaps:
    """A Guest's last entry may name any frame."""
    yield GuestTables, "check_last", lambda self, entry: None


def frame_not_checked() -> Swaps:
    """What somebody leaves in the frame is not looked at."""
    yield slice, "_check_start", lambda guest: None
    yield slice, "_check_frame", lambda guest: None


def eip_short() -> Swaps:
    """EIP goes a byte less far than the instruction is long."""

    def finish(guest: Any, length: int) -> bool:
        guest.frame.eip += length - 1
        return True

    yield emulate, "_finish", finish


def no_cause() -> Swaps:
    """Of a vCPU that is lost nothing is told."""
    yield slice, "diagnose", lambda vcpu, stop: Explanation("", "")
    yield slice, "last_moments", lambda cpu, guest, stop: ""


def unknown_exit() -> Swaps:
    """A shutdown is an exit that nobody thought of."""

    def lost(*_: Any) -> Any:
        raise KeyError("shutdown")

    yield slice, "_lost", lost


def edx_lost() -> Swaps:
    """The Switcher saves ECX where EDX belongs, on the way that interrupts take."""

    def changed(name: str) -> Any:
        blob = load_switcher(name)
        at = next(blob.symbols[label] for label in blob.symbols if label.endswith("push_edx_deliver"))
        if blob.text[at : at + 1] != PUSH_EDX:
            raise ValueError(f"no push of EDX at {at:#x} of {name}")
        return replace(blob, text=blob.text[:at] + PUSH_ECX + blob.text[at + 1 :])

    original = Machine.__init__

    def init(self: Any, memory: int, switcher: str, **rest: Any) -> None:
        original(self, memory, switcher=changed(switcher), **rest)

    yield Machine, "__init__", init


def kicks_not_counted() -> Swaps:
    """The Host's handler of kicks acknowledges them, but does not count."""
    original = HostArea.__init__

    def init(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        at = TEXT_AT + self.symbols["host_kick"] + CLD_BYTES
        self.memory.write(at, NOP * INCREMENT_BYTES)

    yield HostArea, "__init__", init


DEFECTS: dict[str, Callable[[], Swaps]] = {
    "blind-accessed": blind_accessed,
    "descriptors-as-asked": as_asked,
    "every-gate": every_gate,
    "machine-check": machine_check,
    "selector-kept": selector_kept,
    "any-target": any_target,
    "writable-state-page": writable_state_page,
    "any-frame": any_frame,
    "frame-not-checked": frame_not_checked,
    "eip-short": eip_short,
    "no-cause": no_cause,
    "unknown-exit": unknown_exit,
    "edx-lost": edx_lost,
    "kicks-not-counted": kicks_not_counted,
}
