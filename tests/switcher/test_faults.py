"""A fault at any boundary of `hardened` ends in a report that names the boundary.

UD2 is written over the live text at each boundary in turn, and a Guest is run
along a path that comes by.  A few boundaries cannot be tested so, because the
way to the report leads over them again, or over the second byte of an UD2 there:
at those KVM injects the exception once, when single steps have brought the CPU
to the very instruction.  After each report the same machine runs a whole Guest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from host import tiny_guest as tiny
from switcher.rig import interrupts

from kvmhost._native import lib
from kvmhost.host import Guest, Machine, Outcome, OutcomeKind
from kvmhost.host.host_area import SWITCHER_TEXT_AT
from kvmhost.kvm import Events, ExceptionEvent, ExitDebug, ExitIo
from kvmhost.switcher import default_gate, load

pytestmark = pytest.mark.lab

UD2 = b"\x0f\x0b"
NMI, OVERFLOW, INVALID_OPCODE, INTERRUPT = 2, 4, 6, 0xF0
OPENED = (NMI, OVERFLOW, INTERRUPT)
BOUNDARIES = {name: at for name, at in load("hardened").symbols.items() if re.match(r"[A-Z]\d\d_", name)}
# The last instruction that can be displaced before the Guest runs.
LAST_POP = "E24_pop_es"
# Where UD2 cannot stay: what the Guest does to lead there, what is planted at the last pop, and
# the stub in which single steps begin (an exception's delivery ends them).
INJECTED: dict[str, tuple[bytes, bytes, int | None]] = {
    "E26": (b"", b"", None),
    "R00": (interrupts([OVERFLOW]), b"", OVERFLOW),
    "R01": (interrupts([OVERFLOW]), b"", OVERFLOW),
    "F00": (b"", interrupts([OVERFLOW]), OVERFLOW),
    "F01": (b"", interrupts([OVERFLOW]), OVERFLOW),
    "N17": (b"", interrupts([NMI]), NMI),
}
STOP_PORT = 0xE5
OUT_STOP = bytes([0xE6, STOP_PORT])
FAMILIES = {
    "the way in": r"E",
    "the way home of a trap": r"R.*_return$",
    "the way home of an interrupt": r"R.*_deliver$|D",
    "an NMI": r"N",
    "the report": r"R0[01]|F",
}
RESTART = tiny.init() + tiny.hypercall(2, 0, 2)


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine in which any ring may raise the vectors that the paths need."""
    with Machine(memory=2 << 20, switcher="hardened") as machine:
        cpu = machine.cpus[0]
        prepare = cpu.prepare

        def prepare_and_open(guest: Guest) -> None:
            prepare(guest)
            for vector in OPENED:
                cpu.page.set_gate(vector, default_gate(machine.blob, vector, dpl=3))

        cpu.prepare = prepare_and_open
        yield machine


def plant(machine: Machine, boundary: str, code: bytes) -> None:
    machine.memory.write(SWITCHER_TEXT_AT + BOUNDARIES[boundary], code)


def way_to(boundary: str) -> bytes:
    """What a Guest does so that the CPU comes by a boundary."""
    if boundary.endswith("_deliver") or boundary.startswith("D"):
        return interrupts([INTERRUPT])
    if boundary[:3] in ("N00", "N01"):
        return interrupts([NMI])
    return tiny.hypercall(0)


def planted(machine: Machine, boundary: str) -> Outcome:
    """Run a Guest with UD2 at a boundary."""
    guest = tiny.boot(machine, way_to(boundary), memory=2 << 20)
    if boundary.startswith("N") and boundary[:3] not in ("N00", "N01"):
        plant(machine, LAST_POP, interrupts([NMI]))
    plant(machine, boundary, UD2)
    return guest.run(timeout=20)


def injected(machine: Machine, boundary: str) -> Outcome:
    """Step a Guest to a boundary and give it #UD there, once."""
    code, at_last_pop, stub = INJECTED[boundary[:3]]
    guest = tiny.boot(machine, code, memory=2 << 20)
    plant(machine, LAST_POP, at_last_pop)
    guest.tables.demand_page(tiny.CODE_AT, 0)
    machine.cpus[0].prepare(guest)
    if stub is not None:
        run_to_stub(machine, stub)
    step_to(machine, boundary)
    event = ExceptionEvent(injected=True, vector=INVALID_OPCODE)
    machine.cpus[0].vcpu.set_events(Events(exception=event))
    return guest.run(timeout=20)


def run_to_stub(machine: Machine, vector: int) -> None:
    """Run until the CPU is at the first instruction of a stub: an OUT in its place leaves the VM."""
    vcpu, start = machine.cpus[0].vcpu, machine.blob.default_idt_entries[vector]
    machine.memory.write(SWITCHER_TEXT_AT + start, OUT_STOP)
    left = vcpu.run()
    assert isinstance(left, ExitIo) and left.port == STOP_PORT, left
    vcpu.complete()
    machine.memory.write(SWITCHER_TEXT_AT + start, machine.blob.text[start : start + len(OUT_STOP)])
    vcpu.set_regs(replace(vcpu.regs(), rip=lib.SWITCHER_BASE + start))


def step_to(machine: Machine, boundary: str) -> None:
    """Single steps to a boundary."""
    vcpu = machine.cpus[0].vcpu
    target = lib.SWITCHER_BASE + BOUNDARIES[boundary]
    for _ in range(200):
        vcpu.set_guest_debug(single_step=True)
        left = vcpu.run()
        if isinstance(left, ExitIo) and left.port == lib.PORT_SWITCHER_FAULT:
            vcpu.complete()
        else:
            assert isinstance(left, ExitDebug), left
        if vcpu.regs().rip == target:
            vcpu.set_guest_debug()
            return
    raise AssertionError(f"never came to {boundary}")


def complaint(machine: Machine, boundary: str) -> str:
    """What is wrong with how a fault at a boundary ends; empty if nothing is."""
    outcome = (injected if boundary[:3] in INJECTED else planted)(machine, boundary)
    machine.memory.write(SWITCHER_TEXT_AT, machine.blob.text)
    if outcome.kind is not OutcomeKind.KILLED or outcome.report is None:
        return f"{boundary}: {outcome}"
    if f"faulted at {boundary} " not in outcome.reason or f"boundary {boundary}" not in outcome.report:
        return f"{boundary}: {outcome.reason}"
    if f"trap {INVALID_OPCODE} " not in outcome.reason:
        return f"{boundary}: {outcome.reason}"
    after = tiny.boot(machine, RESTART, memory=2 << 20).run(timeout=20)
    return "" if after.kind is OutcomeKind.RESTARTED else f"{boundary}: and then {after}"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fault_names_its_boundary(machine: Machine, family: str) -> None:
    names = [name for name in BOUNDARIES if re.match(FAMILIES[family], name)]
    assert len(names) >= 4
    assert [text for name in names if (text := complaint(machine, name))] == []


@pytest.mark.parametrize(
    ("vector", "code"),
    [(lib.HYPERCALL_VECTOR, tiny.hypercall(0)), (INTERRUPT, b""), (NMI, b""), (OVERFLOW, b"")],
)
def test_a_fault_names_its_stub(machine: Machine, vector: int, code: bytes) -> None:
    """The three instructions of a stub: 0 in place of an error code, the vector, the jump."""
    start = machine.blob.default_idt_entries[vector]
    push = 5 if vector >= 128 else 2
    for inside, place in ((0, ""), (2, "+2"), (2 + push, f"+{2 + push}")):
        machine.memory.write(SWITCHER_TEXT_AT + start + inside, UD2)
        guest = tiny.boot(machine, code or interrupts([vector]), memory=2 << 20)
        outcome = guest.run(timeout=20)
        machine.memory.write(SWITCHER_TEXT_AT, machine.blob.text)
        assert outcome.kind is OutcomeKind.KILLED
        assert f"faulted at the stub of vector {vector}{place} " in outcome.reason


def test_every_boundary_is_in_a_family() -> None:
    assert all(any(re.match(rule, name) for rule in FAMILIES.values()) for name in BOUNDARIES)


def test_without_a_fault_the_paths_are_quiet(machine: Machine) -> None:
    """The paths alone kill nobody: what the tests above see is the planted fault."""
    code = interrupts([INTERRUPT, NMI]) + RESTART
    assert tiny.boot(machine, code, memory=2 << 20).run(timeout=20).kind is OutcomeKind.RESTARTED
