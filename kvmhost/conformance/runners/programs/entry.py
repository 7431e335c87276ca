"""States that KVM is given by hand, and what the CPU makes of them (KVM-003, KVM-004, INT-004).

Each starts a vCPU in flat, unpaged protected mode and changes one thing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from kvmhost._native import lib
from kvmhost.kvm import (
    CpuidEntry,
    Dtable,
    ExitFailEntry,
    ExitHlt,
    ExitInternalError,
    ExitInterrupted,
    ExitIo,
    ExitShutdown,
    Kvm,
    NotReadyError,
    Regs,
    Sregs,
    Vcpu,
)

from ..flat import flat

CODE, GDT, IDT, HANDLER, STACK = 0x1000, 0x2000, 0x3000, 0x4000, 0x6000
MEMORY = 0x10000
CS, DS = int(lib.CONFORM_CS), int(lib.CONFORM_DS)
VECTOR = 0x21
HLT = b"\xf4"
# pushed EFLAGS to EAX, and out: pop, pop, pop eax; hlt
TELL_FLAGS = b"\x59\x59\x58" + HLT
RFLAGS_IF = 0x200


@contextmanager
def machine(
    kvm: Kvm,
    cpuid: tuple[CpuidEntry, ...],
    change: Callable[[Sregs], Sregs] = lambda sregs: sregs,
    code: bytes = b"\x90" + HLT,
) -> Iterator[Vcpu]:
    """A vCPU at CODE, where HLT stands, with an IDT whose only gate is VECTOR's."""
    with kvm.create_vm() as vm:
        vm.set_identity_map_addr(lib.KVM_IDENTITY_MAP_BASE)
        vm.set_tss_addr(lib.KVM_TSS_BASE)
        slot = vm.add_memory(0, MEMORY)
        view = slot.view
        view[CODE : CODE + len(code)] = code
        view[HANDLER : HANDLER + len(TELL_FLAGS)] = TELL_FLAGS
        gate = struct.pack("<HHHH", HANDLER, CS, 0x8E00, 0)
        view[IDT + 8 * VECTOR : IDT + 8 * VECTOR + 8] = gate
        for selector, kind in ((CS, 0x9B), (DS, 0x93)):
            view[GDT + selector : GDT + selector + 8] = struct.pack("<HHBBBB", 0xFFFF, 0, 0, kind, 0xCF, 0)
        vcpu = vm.create_vcpu(0)
        vcpu.set_cpuid(cpuid)
        data = flat(3, DS)
        sregs = replace(
            vcpu.sregs(),
            cs=flat(11, CS), ds=data, es=data, fs=data, gs=data, ss=data, cr0=0x31,
            gdt=Dtable(base=GDT, limit=0x7F), idt=Dtable(base=IDT, limit=0x7FF),
        )  # fmt: skip
        vcpu.set_sregs(change(sregs))
        vcpu.set_regs(Regs(rip=CODE, rsp=STACK, rflags=2))
        yield vcpu


def outcome(vcpu: Vcpu) -> str:
    """How a run ends, in a word."""
    left = vcpu.run()
    while isinstance(left, ExitInterrupted):
        left = vcpu.run()
    if isinstance(left, ExitHlt):
        return "halted"
    if isinstance(left, ExitShutdown):
        return "shutdown"
    if isinstance(left, ExitFailEntry):
        return f"entry failed with {left.reason:#x}"
    if isinstance(left, ExitInternalError):
        return f"KVM's emulator gave up, suberror {left.suberror}"
    if isinstance(left, ExitIo):
        return f"port {left.port:#x}"
    return type(left).__name__


def kvm_003(kvm: Kvm, cpuid: tuple[CpuidEntry, ...], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """TR of the given type, and a HLT, or other code in its place."""
    kind, code = int(parameters["type"]), bytes.fromhex(parameters.get("code", "f4"))

    def change(sregs: Sregs) -> Sregs:
        return replace(sregs, tr=replace(sregs.tr, type=kind))

    with machine(kvm, cpuid, change, code) as vcpu:
        return {"run": outcome(vcpu)}


def kvm_004(kvm: Kvm, cpuid: tuple[CpuidEntry, ...], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A code segment of ring 1 with a stack segment of DPL 0, and of DPL 1: does HLT run, as at ring 0?

    parameters.dpl: the DPL that each of the two really has.
    """

    def change(ss_dpl: int) -> Callable[[Sregs], Sregs]:
        return lambda sregs: replace(
            sregs,
            cs=flat(11, CS | 1, 1),
            ss=flat(3, DS | 1, ss_dpl),
            tr=replace(sregs.tr, type=9 if parameters.get("vendor") == "AuthenticAMD" else 11),
        )

    found = {}
    for named, ss_dpl in enumerate(parameters.get("dpl", (0, 1))):
        with machine(kvm, cpuid, change(ss_dpl)) as vcpu:
            found[f"ss-dpl-{named}"] = outcome(vcpu)
    return found


def int_004(kvm: Kvm, cpuid: tuple[CpuidEntry, ...], _: Mapping[str, Any]) -> dict[str, Any]:
    """KVM_INTERRUPT while IF is clear: refused by this API, and what KVM does with it all the same."""
    with machine(kvm, cpuid) as vcpu:
        try:
            vcpu.interrupt(VECTOR)
            refused = "taken"
        except NotReadyError:
            refused = "refused"
        vcpu.interrupt(VECTOR, force=True)
        ended = outcome(vcpu)
        regs = vcpu.regs()
        handled = ended == "halted" and regs.rip == HANDLER + len(TELL_FLAGS)
        if not handled:
            return {"without-force": refused, "by-force": ended}
        pushed = "clear" if not regs.rax & RFLAGS_IF else "set"
        return {"without-force": refused, "by-force": f"delivered, the pushed IF {pushed}"}
