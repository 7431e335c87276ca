"""The trap API as a user meets it: hooks, defaults, registers, memory, killing, errors."""

import struct

import pytest
from host import tiny_guest as tiny

from kvmhost._native import lib
from kvmhost.host import GuestBroke, HookError, Machine, OutcomeKind, Trap

pytestmark = pytest.mark.lab


def power_off() -> bytes:
    words = struct.unpack("<III", b"Power down\0\0")
    stores = b"".join(tiny.store(0x3000 + 4 * n, word) for n, word in enumerate(words))
    return stores + tiny.hypercall(2, 0x3000, 1)


@pytest.fixture(params=["seed", "hardened"])
def machine(request: pytest.FixtureRequest):
    with Machine(8 << 20, switcher=request.param) as machine:
        yield machine


def test_power_off_is_told_apart_from_a_crash(machine: Machine) -> None:
    good = tiny.boot(machine, tiny.init() + power_off())
    assert good.run(timeout=20).kind is OutcomeKind.POWERED_OFF
    bad = tiny.boot(machine, tiny.init() + tiny.store(0x3000, 0x00736F6E) + tiny.hypercall(2, 0x3000, 1))
    outcome = bad.run(timeout=20)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.CRASHED, "nos")


def test_restart_wins_over_a_bad_address(machine: Machine) -> None:
    guest = tiny.boot(machine, tiny.init() + tiny.hypercall(2, 0x40000000, 2))
    assert guest.run(timeout=20).kind is OutcomeKind.RESTARTED


def test_hook_sees_registers_and_changes_them(machine: Machine) -> None:
    guest = tiny.boot(machine, tiny.init() + tiny.mov("edx", 7) + b"\x0f\x0b" + tiny.forever(b"\x90"))
    seen = []

    @guest.on(Trap.INVALID_OPCODE)
    def count(trap) -> None:
        seen.append((trap.eip, trap.regs.edx, trap.read(trap.eip, 2)))
        trap.regs.edx += 1
        if trap.regs.edx == 10:
            trap.kill("seen enough")

    outcome = guest.run(timeout=20)
    at = tiny.CODE_AT + len(tiny.init()) + 5
    assert seen == [(at, 7, b"\x0f\x0b"), (at, 8, b"\x0f\x0b"), (at, 9, b"\x0f\x0b")]
    assert (outcome.kind, outcome.reason) == (OutcomeKind.KILLED, "seen enough")
    assert "ud2" in outcome.report
    assert machine.statistics().handled["INVALID_OPCODE", "hook"] == 3


def test_hook_skips_and_patches_memory(machine: Machine) -> None:
    guest = tiny.boot(machine, tiny.init() + b"\x0f\x0b" * 2 + power_off())

    @guest.on(Trap.INVALID_OPCODE)
    def patch(trap) -> None:
        trap.write(trap.eip, b"\x90\x90")

    assert guest.run(timeout=20).kind is OutcomeKind.POWERED_OFF
    assert machine.statistics().traps[Trap.INVALID_OPCODE] == 2


def test_newest_handler_first_then_the_older_then_the_host(machine: Machine) -> None:
    guest = tiny.boot(machine, tiny.init() + tiny.hypercall(0) + power_off())
    order = []

    @guest.on(Trap.HYPERCALL)
    def older(trap) -> None:
        order.append(("older", trap.hypercall.name))
        trap.default()

    @guest.on(Trap.HYPERCALL)
    def newer(trap) -> None:
        order.append(("newer", trap.hypercall.name))
        trap.default()

    assert guest.run(timeout=20).kind is OutcomeKind.POWERED_OFF
    names = ["LGUEST_INIT", "FLUSH_ASYNC", "SHUTDOWN"]
    assert order == [(who, name) for name in names for who in ("newer", "older")]


def test_hooks_see_the_calls_of_the_async_ring(machine: Machine) -> None:
    ring_status, ring_entry = tiny.DATA_AT + 24, tiny.DATA_AT + 88
    queue = tiny.store(ring_entry, 8) + tiny.store(ring_entry + 4, 1) + tiny.store(ring_status, 0xFFFFFF00)
    guest = tiny.boot(machine, tiny.init() + queue + tiny.hypercall(0) + power_off())
    seen = []

    @guest.on(Trap.HYPERCALL)
    def watch(trap) -> None:
        seen.append((trap.hypercall.name, trap.hypercall.from_ring))
        trap.default()

    guest.run(timeout=20)
    assert seen[1:3] == [("TS", True), ("FLUSH_ASYNC", False)]
    assert guest.state.ts == 8
    assert guest.ram.read(ring_status, 4) == b"\xff" * 4


def test_handler_that_raises_stops_the_guest_and_nothing_else(machine: Machine) -> None:
    guest = tiny.boot(machine, tiny.init() + b"\x0f\x0b")
    other = tiny.boot(machine, tiny.init() + power_off())

    @guest.on(Trap.INVALID_OPCODE)
    def wrong(trap) -> None:
        raise ZeroDivisionError("a bug of the user's")

    with pytest.raises(HookError) as caught:
        machine.run(timeout=20)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "INVALID_OPCODE" in str(caught.value)
    assert "ud2" in str(caught.value)
    assert f"eip {tiny.CODE_AT + len(tiny.init()):08x}" in str(caught.value)
    assert guest.outcome.kind is OutcomeKind.KILLED
    assert machine.run(timeout=20)[other].kind is OutcomeKind.POWERED_OFF


@pytest.mark.parametrize(("cs", "ss"), [(0x60, 0x68), (0x50, 0x58), (0x61, 0x7B), (0x62, 0x6A)])
def test_handler_cannot_send_the_guest_to_ring_0(machine: Machine, cs: int, ss: int) -> None:
    guest = tiny.boot(machine, tiny.init() + b"\x0f\x0b")

    @guest.on(Trap.INVALID_OPCODE)
    def forge(trap) -> None:
        trap.regs.cs, trap.regs.ss = cs, ss

    outcome = guest.run(timeout=20)
    assert outcome.kind is OutcomeKind.KILLED
    assert f"CS {cs:#x}" in outcome.reason


def test_unhandled_trap_names_what_where_and_what_to_do(machine: Machine) -> None:
    guest = tiny.boot(machine, tiny.init() + b"\x0f\x0b")
    outcome = guest.run(timeout=20)
    assert outcome.kind is OutcomeKind.KILLED
    assert "unhandled trap 6 (invalid opcode)" in outcome.reason
    assert "LOAD_IDT_ENTRY" in outcome.report


def test_a_trap_reaches_the_guests_own_gate(machine: Machine) -> None:
    start = tiny.init() + tiny.set_gate(6, tiny.CODE_AT + 0x400) + b"\x0f\x0b"
    guest = tiny.boot(machine, start)
    guest.ram.write(tiny.CODE_AT + 0x400, tiny.increment(0x4000) + power_off())
    assert guest.run(timeout=20).kind is OutcomeKind.POWERED_OFF
    assert guest.ram.read(0x4000, 4) == b"\x01\0\0\0"
    frame = struct.unpack("<III", guest.ram.read(tiny.STACK_TOP - 12, 12))
    # EIP, CS at ring 1, and flags whose IF is the Guest's own: irq_enabled was 0.
    assert frame[:2] == (tiny.CODE_AT + len(start) - 2, 0x61)
    assert frame[2] & 0x200 == 0


def test_hooking_a_direct_gate_bounces_it_until_unhooked(machine: Machine) -> None:
    handler = tiny.CODE_AT + 0x400
    loop = tiny.set_gate(3, handler, kind=0xF, dpl=3)
    code = tiny.init() + loop
    body = b"\xcc" + tiny.hypercall(0)
    guest = tiny.boot(machine, code + tiny.forever(body))
    guest.ram.write(handler, tiny.increment(0x4000) + b"\xcf")
    hits = []

    def hooked(trap) -> None:
        hits.append(trap.eip)
        trap.default()
        if len(hits) == 3:
            guest.off(Trap.BREAKPOINT, hooked)

    rounds = []

    @guest.on(Trap.HYPERCALL)
    def flow(trap) -> None:
        if trap.hypercall.name == "FLUSH_ASYNC":
            rounds.append(struct.unpack("<I", guest.ram.read(0x4000, 4))[0])
            if len(rounds) == 2:
                guest.on(Trap.BREAKPOINT)(hooked)
            if len(rounds) == 8:
                trap.kill("done")
        trap.default()

    guest.run(timeout=20)
    assert rounds == list(range(1, 9)), "the Guest's handler ran every time, hooked or not"
    assert len(hits) == 3
    assert machine.statistics().traps[Trap.BREAKPOINT] == 3


def test_emulated_instructions(machine: Machine) -> None:
    code = (
        tiny.init()
        + tiny.mov("eax", 0)
        + b"\xe4\x60"  # in $0x60, %al
        + b"\xfa"  # cli
        + b"\xe7\x80"  # out %eax, $0x80
        + b"\x89\xc7"  # mov %eax, %edi
        + tiny.mov("ecx", 0xC0000082)
        + b"\x0f\x32"  # rdmsr
        + b"\x0f\x30"  # wrmsr
        + b"\x0f\x0b"
    )
    guest = tiny.boot(machine, code)
    outcome = guest.run(timeout=20)
    assert "invalid opcode" in outcome.reason
    assert (guest.frame.edi, guest.frame.eax, guest.frame.edx) == (0xFF, 0, 0)


def test_cpuid_is_the_guests_own(machine: Machine) -> None:
    code = tiny.init() + tiny.mov("eax", 1) + tiny.mov("ecx", 0) + b"\x0f\xa2\x0f\x0b"
    guest = tiny.boot(machine, code)
    guest.cpuid[1] = (0x11111111, 0x22222222, 0x33333333, 0x44444444)
    guest.run(timeout=20)
    frame = guest.frame
    assert (frame.eax, frame.ebx, frame.ecx, frame.edx) == (0x11111111, 0x22222222, 0x33333333, 0x44444444)


def test_two_guests_have_two_cpuids(machine: Machine) -> None:
    code = tiny.init() + tiny.mov("eax", 0x40000000) + b"\x0f\xa2\x0f\x0b"
    one, two = tiny.boot(machine, code), tiny.boot(machine, code)
    two.cpuid[0x40000000] = (1, 2, 3, 4)
    machine.run(timeout=20)
    assert (one.frame.eax, one.frame.ebx) == (0, 0)
    assert (two.frame.eax, two.frame.ebx) == (1, 2)


def test_shell_hook_may_mend_an_unhandled_trap(machine: Machine) -> None:
    guest = tiny.boot(machine, tiny.init() + b"\x0f\x0b" + power_off())
    reasons = []

    def mend(trap, reason: str) -> bool:
        reasons.append(reason)
        trap.regs.eip += 2
        return True

    guest.unhandled = mend
    assert guest.run(timeout=20).kind is OutcomeKind.POWERED_OFF
    assert len(reasons) == 1


def test_use_after_close_is_an_error_and_no_crash(machine: Machine) -> None:
    guest = tiny.boot(machine, tiny.init() + power_off())
    guest.run(timeout=20)
    machine.close()
    with pytest.raises(Exception, match="closed"):
        print(guest.frame.eax)
    with pytest.raises(Exception, match="closed"):
        machine.run()
    assert machine.statistics().switches > 0


def test_ram_is_all_there_is(machine: Machine) -> None:
    guest = machine.add_guest(1 << 20)
    with pytest.raises(GuestBroke, match="outside of memory"):
        guest.ram.read((1 << 20) - 1, 2)


def test_flags_of_a_handlers_making_leave_the_guest_kickable(machine: Machine) -> None:
    guest = tiny.boot(machine, tiny.init() + b"\x0f\x0b" + tiny.forever(b"\x90"))

    @guest.on(Trap.INVALID_OPCODE)
    def shut(trap) -> None:
        trap.regs.eip += 2
        trap.regs.eflags = 3 << 12  # IF off, IOPL 3

    assert guest.run(timeout=0.5).kind is OutcomeKind.TIMED_OUT
    assert guest.frame.eflags & 0x3200 == 0x200


def test_whoever_mends_an_unhandled_trap_cannot_lift_the_guest_to_ring_0(machine: Machine) -> None:
    guest = tiny.boot(machine, tiny.init() + b"\x0f\x0b")

    def mend(trap, reason) -> bool:
        trap.regs.cs = 0x60
        return True

    guest.unhandled = mend
    outcome = guest.run(timeout=20)
    assert outcome.kind is OutcomeKind.KILLED
    assert "it would run with CS 0x60" in outcome.reason


def test_virtual_8086_mode_ends_a_guest_and_nothing_else() -> None:
    """A CPU ignores VM in an IRET at ring 1 (then the UD2 is next); the lab's does not."""
    # In that mode CS is a paragraph and EIP has 16 bits: so this is where the lab's CPU goes on.
    start = tiny.init() + tiny.store(0x10 * lib.GUEST_CS + 0x40, 0x0B0F0B0F)
    start += b"\x90" * (0x40 - 16 - len(start))
    at = tiny.CODE_AT + 0x40
    push = b"".join(b"\x68" + struct.pack("<I", word) for word in (0x20202, lib.GUEST_CS, at))
    with Machine(8 << 20, switcher="hardened") as machine:
        guest = tiny.boot(machine, start + push + b"\xcf" + b"\x0f\x0b")
        outcome = guest.run(timeout=20)
        assert outcome.kind is OutcomeKind.KILLED
        assert outcome.reason.startswith(("it left protected mode", "unhandled trap 6"))
        neighbour = tiny.boot(machine, tiny.init() + power_off())
        assert neighbour.run(timeout=20).kind is OutcomeKind.POWERED_OFF
