"""Segments and gates: what a Guest asks for, and what a CPU gets to see.

A Guest's GDT and IDT are kept twice: here in its block, already checked, and live
in the state page of the vCPU it runs on.  The live tables are read-only while the
Guest runs, so accessed bits are set beforehand; they must never hold a door to
ring 0, so no system descriptor gets in and every gate of the Guest's names its
own kernel segment (conformance 1.14).
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterable
from functools import lru_cache
from typing import Any

from kvmhost._native import ffi, lib
from kvmhost.host.errors import GuestBroke
from kvmhost.switcher import gates
from kvmhost.switcher.blobs import Blob
from kvmhost.switcher.pair import StatePage

# GDT entries that are the Host's: Switcher code and data, the TSS, the double-fault TSS (abi 6).
HOST_GDT_ENTRIES = frozenset({10, 11, 16, 31})
TLS_ENTRIES = range(6, 9)
# Gates a Guest may offer that are never taken: NMI, double fault, reserved, hypercall (abi 5.1).
IGNORED_GATES = frozenset({2, 8, 15, lib.HYPERCALL_VECTOR})
# Vectors that always go through the Host: it fills pages, emulates I/O and owns CR0.TS; a machine
# check is never a Guest's (conformance SEC-028).
NEVER_DIRECT = frozenset({7, 13, 14, 18}) | IGNORED_GATES

_PRESENT = 0x8000
_NOT_SYSTEM = 0x1000
_ACCESSED = 0x0100
_DPL = 0x6000
_DPL_1 = 0x2000
_GATE_DPL = 0x6000

COULD_BE_DIRECT = tuple(v for v in (*range(32), lib.SYSCALL_VECTOR) if v not in NEVER_DIRECT)


def fix_descriptor(low: int, high: int) -> gates.Entry:
    """Make a Guest's descriptor one that may stand in a live GDT (abi 6, conformance ROG-007/008).

    A code or data segment of DPL 0 becomes DPL 1 and counts as accessed.  A system descriptor
    (gate, TSS, LDT) becomes nothing: each kind is a way to ring 0 or to another table.

    >>> [hex(word) for word in fix_descriptor(0x0000FFFF, 0x00CF9A00)]
    ['0xffff', '0xcfbb00']
    >>> fix_descriptor(0x00501234, 0x00008C00)
    (0, 0)
    """
    if not high & _NOT_SYSTEM:
        return 0, 0
    if not high & _DPL:
        high |= _DPL_1
    return low, high | _ACCESSED


def boot_gdt(state: Any) -> None:
    """A Guest starts with two segments: flat code and data at ring 1 (abi 6)."""
    ffi.memmove(state.gdt, bytes(ffi.sizeof(state.gdt)), ffi.sizeof(state.gdt))
    for index, entry in (
        (lib.GUEST_CS >> 3, gates.flat_code(1)),
        (lib.GUEST_DS >> 3, gates.flat_data(1)),
    ):
        state.gdt[2 * index], state.gdt[2 * index + 1] = entry


def load_gdt_entry(state: Any, index: int, low: int, high: int) -> None:
    """LOAD_GDT_ENTRY: one descriptor.  Raises GuestBroke for an index over 31."""
    if index >= lib.GDT_ENTRIES:
        raise GuestBroke(
            f"LOAD_GDT_ENTRY for entry {index}", f"the GDT has {lib.GDT_ENTRIES} entries, from 0"
        )
    state.gdt[2 * index], state.gdt[2 * index + 1] = fix_descriptor(low, high)
    flag(state, lib.CHANGED_GDT)


def load_gdt(state: Any, descriptors: bytes) -> None:
    """LOAD_GDT: at most 32 descriptors, 8 bytes each, as they stand in the Guest's memory."""
    _load(state, 0, descriptors)
    flag(state, lib.CHANGED_GDT)


def _load(state: Any, first: int, descriptors: bytes) -> None:
    for index in range(len(descriptors) // 8):
        low, high = struct.unpack_from("<II", descriptors, 8 * index)
        at = 2 * (first + index)
        state.gdt[at], state.gdt[at + 1] = fix_descriptor(low, high)


def load_tls(state: Any, descriptors: bytes) -> None:
    """LOAD_TLS: the three thread-local segments, 24 bytes as they stand in the Guest's memory."""
    _load(state, TLS_ENTRIES.start, descriptors)
    flag(state, lib.CHANGED_GDT_TLS)


def load_idt_entry(state: Any, vector: int, low: int, high: int) -> None:
    """LOAD_IDT_ENTRY: one gate.  Raises GuestBroke for a vector over 255 or a gate of no use."""
    if vector in IGNORED_GATES:
        return
    if vector >= lib.IDT_ENTRIES:
        raise GuestBroke(
            f"LOAD_IDT_ENTRY for vector {vector:#x}", f"the IDT has {lib.IDT_ENTRIES} vectors, from 0"
        )
    gate = gates.unpack_gate(low, high)
    if gate.present and gate.kind not in (gates.INTERRUPT_GATE, gates.TRAP_GATE):
        raise GuestBroke(
            f"LOAD_IDT_ENTRY for vector {vector:#x} with a gate of type {gate.kind:#x}",
            "only 32-bit interrupt gates (0xE) and trap gates (0xF) are taken",
        )
    state.idt[2 * vector], state.idt[2 * vector + 1] = gates.direct_gate(low, high)
    flag(state, lib.CHANGED_IDT)


@lru_cache(maxsize=4096)
def live_gate(blob: Blob, vector: int, low: int, high: int, hooked: bool) -> gates.Entry:
    """The gate that a CPU sees for a vector where the Guest's own gate is (low, high) (abi 5.2).

    Direct if the Guest's is a trap gate (an interrupt gate would have to clear the *virtual* IF),
    its target lies below the Switcher and nobody hooked the trap; else to the stub, with the
    Guest's DPL so that its user space may still raise what it allowed.
    """
    if vector in NEVER_DIRECT or not high & _PRESENT:
        return gates.default_gate(blob, vector)
    gate = gates.unpack_gate(low, high)
    if gate.kind == gates.TRAP_GATE and not hooked and gate.offset < lib.SWITCHER_BASE:
        return low, high
    return gates.default_gate(blob, vector, gate.dpl)


def flag(state: Any, changed: int) -> None:
    """Say what a CPU must copy in before its next entry, CHANGED_* bits.  From any thread."""
    lib.kvmhost_set_bits(ffi.addressof(state, "changed"), changed)


# [T30]
def copy_in(blob: Blob, state: Any, page: StatePage, hooks: Container[int]) -> None:
    """Copy what is flagged as changed, and nothing else, to a CPU's live tables (abi 4.2).

    The flags go first: one that another thread sets meanwhile (a hook) is for the next time, and one
    whose copy failed is set again.
    """
    changed = state.changed
    lib.kvmhost_clear_bits(ffi.addressof(state, "changed"), changed)
    try:
        if changed & lib.CHANGED_IDT:
            copy_idt(blob, state, page, hooks)
        if changed & lib.CHANGED_GDT:
            copy_gdt(state, page)
        elif changed & lib.CHANGED_GDT_TLS:
            copy_tls(state, page)
    except BaseException:
        flag(state, changed)
        raise


def copy_idt(blob: Blob, state: Any, page: StatePage, hooks: Container[int]) -> None:
    """Rebuild the live IDT: every vector that could be direct; hooks: vectors that must not be."""
    asked, live = state.idt, page.guest_idt
    for vector in COULD_BE_DIRECT:
        at = 2 * vector
        live[at], live[at + 1] = live_gate(blob, vector, asked[at], asked[at + 1], vector in hooks)


def _runs(indices: Iterable[int]) -> tuple[range, ...]:
    """Neighbouring GDT entries, together.

    >>> _runs([1, 2, 3, 7])
    (range(1, 4), range(7, 8))
    """
    runs: list[range] = []
    for index in indices:
        if runs and runs[-1].stop == index:
            runs[-1] = range(runs[-1].start, index + 1)
        else:
            runs.append(range(index, index + 1))
    return tuple(runs)


GUEST_GDT_RUNS = _runs(index for index in range(lib.GDT_ENTRIES) if index not in HOST_GDT_ENTRIES)


def _copy_descriptors(state: Any, page: StatePage, indices: range) -> None:
    start = 2 * indices.start
    ffi.memmove(page.guest_gdt + start, state.gdt + start, 8 * len(indices))


def copy_gdt(state: Any, page: StatePage) -> None:
    """Copy the whole GDT but for the Host's own entries."""
    for run in GUEST_GDT_RUNS:
        _copy_descriptors(state, page, run)


def copy_tls(state: Any, page: StatePage) -> None:
    """Copy exactly the three thread-local entries."""
    _copy_descriptors(state, page, TLS_ENTRIES)
