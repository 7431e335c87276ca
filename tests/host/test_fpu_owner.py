"""Whose FPU state is where, when the vCPU sometimes comes back before ring 0 saw the order.

A model of ring 0 carries orders out on a dictionary of save areas. Whatever the sequence, every Guest must
find what it left.
"""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmhost._native import lib
from kvmhost.host import cpu as room
from kvmhost.host.cpu import Cpu


class RingZero:
    """The registers, the save areas, and what host_work does with them."""

    def __init__(self, guests: int) -> None:
        self.areas = {at: f"state of {at}" for at in range(guests)}
        self.registers = "power-on"
        self.mailbox: Any = SimpleNamespace(work=0, cr0=room.CR0, fpu_save=-1, fpu_load=-1)

    def carry_out(self) -> None:
        work, self.mailbox.work = self.mailbox.work, 0
        if work & lib.WORK_FPU_SAVE:
            self.areas[self.mailbox.fpu_save] = self.registers
        if work & lib.WORK_FPU_LOAD:
            self.registers = self.areas[self.mailbox.fpu_load]


GUESTS = 3
# Which Guest is prepared, whether it goes in, and whether the vCPU puts the FPU away afterwards.
steps = st.lists(st.tuples(st.integers(0, GUESTS - 1), st.booleans(), st.booleans()), max_size=30)


@settings(deadline=None)
@given(steps)
def test_every_guest_finds_what_it_left(sequence: list[tuple[int, bool, bool]]) -> None:
    ring = RingZero(GUESTS)
    cpu: Any = Cpu.__new__(Cpu)
    cpu.index, cpu.mailbox, cpu.c = 0, ring.mailbox, None
    cpu.fpu_of = cpu.fpu_ordered = cpu.settled = None
    guests: list[Any] = [SimpleNamespace(fxsave_at=at, state=SimpleNamespace(ts=0)) for at in range(GUESTS)]
    left = {at: f"state of {at}" for at in range(GUESTS)}
    with pytest.MonkeyPatch.context() as patch:
        shim = SimpleNamespace(
            kvmhost_visit=lambda _: ring.carry_out() or lib.LEFT_TRAP,
            **{name: getattr(lib, name) for name in dir(lib) if name.startswith(("WORK_", "LEFT_"))},
        )
        patch.setattr(room, "lib", shim)
        for number, (which, goes_in, put_down) in enumerate(sequence):
            cpu._prepare_fpu(guests[which])
            if goes_in:
                ring.carry_out()
                assert ring.registers == left[which]
                ring.registers = left[which] = f"{which} at step {number}"
            if put_down:
                cpu.put_down()
                assert ring.areas == left
