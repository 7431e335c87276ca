"""What is told of a vCPU that left the VM and cannot go on (DBF-006)."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from host.native_guest import native

from kvmhost._native import lib
from kvmhost.host.memory import VmMemory
from kvmhost.host.slice import _lost
from kvmhost.kvm import Dtable, ExitShutdown, Regs, Sregs, flat_sregs

SWITCHER = 0xFFC00042


def cpu(regs: Regs, sregs: Sregs) -> Any:
    vcpu = SimpleNamespace(regs=lambda: regs, sregs=lambda: sregs, exit=ExitShutdown)
    host = SimpleNamespace(blob=SimpleNamespace(locate=lambda eip: f"the boundary at {eip:#x}"))
    return SimpleNamespace(index=3, vcpu=vcpu, host=host, area=SimpleNamespace(pdpt=0x1000))


def told(memory: VmMemory, regs: Regs, sregs: Sregs, traps: int) -> tuple[str, list[str]]:
    guest = native(memory)
    guest.state.traps_noted = traps
    for number in range(traps):
        note = guest.state.trap_notes[number]
        note.trapnum, note.eip, note.cs = lib.HYPERCALL_VECTOR, 0x100000 + number, 0x61
    broken = _lost(cpu(regs, sregs), guest, lib.LEFT_EXIT)
    return str(broken), broken.log.splitlines()


def test_a_shutdown_tells_place_tables_and_the_last_traps(memory: VmMemory) -> None:
    sregs = replace(flat_sregs(), cr3=0x3000, gdt=Dtable(0x5000, 0xFF), idt=Dtable(0x6000, 0x7FF))
    words, log = told(memory, Regs(rip=SWITCHER), sregs, 2)
    assert words.startswith("vCPU 3 left the VM by ExitShutdown: a triple fault")
    for fact in (f"EIP {SWITCHER:#x}", "CR3 0x3000", "GDT 0x5000 limit 0xff", "IDT 0x6000 limit 0x7ff"):
        assert fact in words
    assert f"in the Switcher, the boundary at {SWITCHER:#x}" in log[0] and "CR3 0x3000" in log[0]
    assert log[1] == "The last traps of native, oldest first:"
    assert [line.split()[1] for line in log[2:]] == ["0x00100000", "0x00100001"]


@pytest.mark.parametrize("traps", [0, 1])
def test_a_vcpu_that_was_reset_is_not_said_to_be_anywhere(memory: VmMemory, traps: int) -> None:
    sregs = flat_sregs()
    sregs = replace(sregs, cs=replace(sregs.cs, base=0xFFFF0000))
    words, log = told(memory, Regs(rip=0xFFF0), sregs, traps)
    assert "after a reset" in words
    assert len(log) == (2 if traps else 0)
    assert not any("it is at" in line for line in log)
