"""One case on the model, from its start to the collector, as an Observation like any other engine's."""

from __future__ import annotations

from ..case import GPRS, NO_ERROR, Case, Observation, Trap
from ..stage import ARENA, PAGE, PAGES
from .faults import Fault, Shutdown, Unknown
from .instructions import step
from .machine import ALL, COLLECT, EFER, KNOWN_CR4, NXE, Machine

#: More instructions than any case of the stage has.
STEPS = 2000
STUB = 16
DR6, DR7 = 0xFFFF0FF0, 0x400


def play(case: Case) -> Observation:
    """What the model sees.  Raises Unknown where it has no rule."""
    cpu = case.cpu
    if cpu is None or case.template is None or case.external:
        raise Unknown("events and programs")
    if cpu.cr4 & ~KNOWN_CR4 or dict(cpu.dr).get(7, DR7) & 0xFF:
        raise Unknown("this CR4, or breakpoints")
    if any(number != EFER or value & ~NXE for number, value in cpu.msrs):
        raise Unknown("model-specific registers")
    try:
        machine = Machine.of(case)
    except Fault as fault:
        return Observation("setup", detail=f"the start raised {fault}")
    before = bytes(machine.memory)
    try:
        for _ in range(STEPS):
            if machine.eip in COLLECT and machine.cpl == 0 and (machine.eip - COLLECT.start) % STUB == 0:
                return collected(case, machine, before)
            step(machine)
    except Shutdown:
        memory = watched(case, machine)
        return Observation("shutdown", memory=memory, changed=changed(machine, before))
    raise Unknown(f"a case of more than {STEPS} instructions")


def collected(case: Case, machine: Machine, before: bytes) -> Observation:
    """What the collector would save."""
    vector = (machine.eip - COLLECT.start) // STUB
    machine.push(vector)
    top = machine.regs["esp"]
    room = (PAGE - top % PAGE) // 4
    stack = tuple(machine.peek(4 * place) for place in range(min(room, 16)))
    error, frame = (NO_ERROR, stack[1:]) if machine.coded is None else (stack[1], stack[2:])
    eip, cs, eflags = frame[:3]
    outer = bool(cs & 3)
    ss, esp = (frame[4] & 0xFFFF, frame[3]) if outer else (None, None)
    below = esp if esp is not None else top + 4 * (5 if machine.coded is not None else 4) & ALL
    cpu = case.cpu
    assert cpu is not None
    registers = dict(cpu.dr)
    return Observation(
        "trap",
        Trap(vector, error, eip, cs & 0xFFFF, eflags, ss, esp),
        regs={
            **{name: machine.regs[name] for name in GPRS},
            "esp": below,
            "eflags": eflags,
            "handler_eflags": machine.eflags,
        },
        segs={name: segment.selector for name, segment in machine.segs.items()},
        cr={"cr0": machine.cr0, "cr2": machine.cr2, "cr3": machine.cr3, "cr4": machine.cr4},
        dr={
            **{f"dr{number}": registers.get(number, 0) for number in range(4)},
            "dr6": registers.get(6, DR6),
            "dr7": registers.get(7, DR7),
        },
        tables={
            "gdt_base": machine.gdt[0],
            "gdt_limit": machine.gdt[1],
            "idt_base": machine.idt[0],
            "idt_limit": machine.idt[1],
            "tr": machine.tr.selector,
            "ldtr": machine.ldtr.selector,
        },
        stack=stack,
        memory=watched(case, machine),
        changed=changed(machine, before),
    )


def watched(case: Case, machine: Machine) -> dict[tuple[int, int], bytes]:
    """The ranges that the case asks for."""
    return {
        (watch.address, watch.size): bytes(machine.memory[watch.address - ARENA :][: watch.size])
        for watch in case.watched()
    }


def changed(machine: Machine, before: bytes) -> frozenset[int]:
    """The numbers of the pages that are not as they were."""
    return frozenset(
        page
        for page in range(len(PAGES))
        if machine.memory[page * PAGE : (page + 1) * PAGE] != before[page * PAGE : (page + 1) * PAGE]
    )
