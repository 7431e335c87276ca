"""How many instructions a round trip takes, counted one by one.

The vCPU is single-stepped from the PUSHF that every switch begins with to the instruction behind the far
call.  KVM steps by setting the real TF, so the images of the flags that ring 0 pushes are cleaned of it.  The
trap in is the one instruction that TF cannot stop behind, because its gate clears TF: an OUT is planted at
the stub, and taken away again before the stub runs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from kvmhost._native import lib
from kvmhost.bench.errors import Unmeasurable
from kvmhost.bench.rig import HLT_AT, INT_AT, Rig
from kvmhost.host.host_area import SWITCHER_TEXT_AT
from kvmhost.host.traps import Trap
from kvmhost.kvm import ExitDebug, ExitIo

TF: Final = 1 << 8
PUSHF: Final = 0x9C
PLANTED_PORT: Final = 0xE5
PLANTED: Final = bytes([0xE6, PLANTED_PORT])  # out %al, $PLANTED_PORT
#: Far more than any Switcher has.
MOST: Final = 1000


def count(rig: Rig, trap: Trap = Trap.GENERAL_PROTECTION) -> int:
    """Instructions from PUSHF to the return, both worlds', the trapping one among them.

    Raises Unmeasurable where this KVM does not step, or the way does not lead back.
    """
    rig.send_guest(trap)
    rig.order("round_trip", 1)
    rig.vcpu.complete()
    first, behind = rig.at["round_trip_first"], rig.at["round_trip_behind"]
    counted = 0
    for _ in range(MOST):
        at = rig.vcpu.regs().rip
        if counted and at == behind:
            rig.vcpu.set_guest_debug()
            rig.run()
            return counted
        counted += bool(counted) or at == first
        step(rig, trap, at)
    raise Unmeasurable(
        f"a round trip was not over after {MOST} instructions",
        cause=f"it was at {rig.place(rig.vcpu.regs().rip)}",
        next_step="this KVM may not be able to single-step: see `kvmhost doctor`",
    )


def step(rig: Rig, trap: Trap, at: int) -> None:
    """One instruction.  Raises Unmeasurable if it ended anywhere but in front of the next."""
    in_guest = rig.vcpu.sregs().cs.selector & 3
    if in_guest and at in (HLT_AT, INT_AT):
        step_into_stub(rig, trap)
        return
    rig.vcpu.set_guest_debug(single_step=True)
    left = rig.vcpu.run()
    if not isinstance(left, ExitDebug):
        raise rig.lost(left)
    if not in_guest and at < lib.SWITCHER_BASE and rig.memory.u8[at] == PUSHF:
        rig.memory.u32[rig.vcpu.regs().rsp // 4] &= ~TF & 0xFFFFFFFF


def step_into_stub(rig: Rig, trap: Trap) -> None:
    """Let the Guest trap, and stop in front of the stub's first instruction."""
    stub = rig.machine.blob.gate_address(trap)
    text = SWITCHER_TEXT_AT + stub - lib.SWITCHER_BASE
    original = rig.memory.read(text, len(PLANTED))
    rig.memory.write(text, PLANTED)
    try:
        rig.vcpu.set_guest_debug()
        left = rig.vcpu.run()
    finally:
        rig.memory.write(text, original)
    if not isinstance(left, ExitIo) or left.port != PLANTED_PORT:
        raise rig.lost(left)
    rig.vcpu.complete()
    rig.vcpu.set_regs(replace(rig.vcpu.regs(), rip=stub), check=True)
