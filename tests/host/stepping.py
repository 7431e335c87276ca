"""One world switch, an instruction at a time.

The vCPU starts behind the Host's OUT and is single-stepped to the next one.  KVM
steps by setting the real TF (conformance DV-12), so every image of the flags that
is pushed on the way carries it: the one that the Host's pushf leaves is cleaned
after each step, or the Host would trap when it gets it back.  And an INT clears TF,
so the step over it would end at the Host's OUT: an OUT of the stepper's own is
planted at the stub and taken away again before the stub runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from host import tiny_guest as tiny

from kvmhost._native import lib
from kvmhost.host.host_area import SWITCHER_TEXT_AT
from kvmhost.kvm import ExitDebug, ExitIo

TF = 1 << 8
# `int $0x1F` for ever, in a Guest that has said LGUEST_INIT.
TRAPPING = tiny.init() + tiny.forever(b"\x31\xc0\xcd\x1f")
INT_AT = tiny.CODE_AT + len(tiny.init()) + 2
PLANTED_PORT = 0xE5
PLANTED = bytes([0xE6, PLANTED_PORT])  # out %al, $PLANTED_PORT


class Stepper:
    """Steps the first vCPU of a machine through switches of one Guest, each from the same state."""

    def __init__(self, machine: Any, guest: Any) -> None:
        self.machine, self.guest = machine, guest
        self.cpu = machine.cpus[0]
        self.vcpu = self.cpu.vcpu
        self._warm_up()
        self.registers = guest.frame.snapshot()

    def _warm_up(self) -> None:
        """Until the Guest has been through LGUEST_INIT and its pages are filled in."""
        calls = []

        def count(trap: Any) -> None:
            trap.default()
            calls.append(trap.hypercall.number)
            if len(calls) == 4:
                self.machine.stop()

        self.guest.on(lib.HYPERCALL_VECTOR)(count)
        self.machine.run(timeout=60)
        self.guest.off(lib.HYPERCALL_VECTOR, count)

    def rewind(self) -> None:
        """Put the Guest's registers back and make ready for an entry."""
        for name, value in self.registers.items():
            setattr(self.guest.frame, name, value)
        self.guest.frame.trapnum = lib.NO_TRAP
        lib.kvmhost_take(self.cpu.c)
        self.cpu.prepare(self.guest)

    def step(self) -> bool:
        """One instruction; False if it was the Host's OUT."""
        if self.vcpu.regs().rip == INT_AT and self.vcpu.sregs().cs.selector & 3:
            self._step_into_stub(lib.HYPERCALL_VECTOR)
            return True
        self.vcpu.set_guest_debug(single_step=True)
        left = self.vcpu.run()
        at = (self.cpu.area.stack_top - 4) // 4
        self.machine.memory.u32[at] &= ~TF & 0xFFFFFFFF
        if isinstance(left, ExitDebug):
            return True
        assert isinstance(left, ExitIo), left
        return False

    def _step_into_stub(self, vector: int) -> None:
        stub = self.machine.blob.gate_address(vector)
        text = SWITCHER_TEXT_AT + stub - lib.SWITCHER_BASE
        original = self.machine.memory.read(text, len(PLANTED))
        self.machine.memory.write(text, PLANTED)
        self.vcpu.set_guest_debug()
        left = self.vcpu.run()
        self.machine.memory.write(text, original)
        assert isinstance(left, ExitIo), left
        assert left.port == PLANTED_PORT, left
        self.cpu.settle()
        self.vcpu.set_regs(replace(self.vcpu.regs(), rip=stub))

    def boundaries(self) -> Iterator[int]:
        """Step through a whole switch, yielding the linear address about to be executed."""
        while self.step():
            yield self.vcpu.regs().rip

    def trace(self) -> list[int]:
        """The addresses of a whole switch that nobody disturbs."""
        self.rewind()
        addresses = list(self.boundaries())
        self.vcpu.set_guest_debug()
        return addresses

    def step_to(self, count: int) -> None:
        """Stop in front of the count-th instruction (0: the first one after the OUT)."""
        self.rewind()
        for _ in range(count + 1):
            assert self.step()
        self.vcpu.set_guest_debug()

    def finish(self) -> Any:
        """Run freely to the OUT, or to whatever comes instead."""
        return self.vcpu.run()

    def result(self) -> dict[str, int]:
        """The Guest's registers after a switch, without what the stepping itself left in them."""
        values = self.guest.frame.snapshot()
        values["eflags"] &= ~TF
        return values
