"""What the product says when its machine ends in a shutdown (DBF-006).

Twice: a Guest of the seed's that leaves it with a selector it cannot load, and a Host whose own IDT has gone
when it faults.  The words of the report are looked through for what a person needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from kvmhost.host.errors import KvmhostError
from kvmhost.host.host_area import IDT_AT, TEXT_AT
from kvmhost.host.machine import Machine
from kvmhost.host.traps import Trap
from kvmhost.kvm import CpuidEntry, Kvm

from .script import IDT_BYTES, MEMORY, SECONDS, Script

if TYPE_CHECKING:
    from kvmhost.host.guest import Guest

UD2 = b"\x0f\x0b"
MOV_EAX, MOV_GS_EAX = b"\xb8", b"\x8e\xe8"
ENTRY, FLAT, ABSENT = 20, 0x00CFB300, 0x00CF3300


def bad_selector(machine: Machine) -> Guest:
    """GS is loaded, and its descriptor taken away; the pop of it faults where nobody can handle that."""
    script = Script()
    script.call("LOAD_GDT_ENTRY", ENTRY, 0xFFFF, FLAT)
    script.raw(MOV_EAX + (8 * ENTRY | 1).to_bytes(4, "little") + MOV_GS_EAX)
    script.call("LOAD_GDT_ENTRY", ENTRY, 0xFFFF, ABSENT)
    script.end()
    return script.guest(machine)


def no_idt(machine: Machine) -> Guest:
    """After the Guest's first call the Host has no gates any more, and an instruction that faults."""
    script = Script()
    script.end()
    guest = script.guest(machine)

    @guest.on(Trap.HYPERCALL)
    def damage(trap: Any) -> None:
        trap.default()
        machine.memory.write(IDT_AT, bytes(IDT_BYTES))
        machine.memory.write(TEXT_AT + machine.host.symbols["host_return"], UD2)

    return guest


def end_of(kvm: Kvm, switcher: str, make: Callable[[Machine], Guest]) -> dict[str, str]:
    """How a machine ends, and which facts its report has."""
    with Machine(MEMORY, switcher=switcher, kvm=kvm) as machine:
        guest = make(machine)
        try:
            guest.run(timeout=SECONDS)
        except Exception as error:  # whatever it is: its kind is what is asked
            kind, log = type(error).__name__, getattr(error, "log", "")
            words = str(error) if isinstance(error, KvmhostError) else ""
        else:
            kind, log, words = "nothing", "", ""
    text = f"{words}\n{log}"
    return {
        "raised": kind,
        "class": "shutdown" if "ExitShutdown" in text and "triple fault" in text else "not told",
        "next-step": "told" if "Next: " in text else "not told",
        "tables": _tables(text),
        "last-trap": "told" if "The last traps" in text and "ring 1  hypercall" in text else "not told",
        "traceback": "yes" if "Traceback" in text or not words else "no",
    }


def _tables(text: str) -> str:
    """Whether CR3, GDTR, IDTR and the place are told, or that they were lost with the vCPU's reset."""
    if "those after a reset" in text:
        return "lost by the reset"
    return "told" if all(word in text for word in ("CR3", "GDT", "IDT", "it is at")) else "not told"


def dbf_006(kvm: Kvm, cpuid: tuple[CpuidEntry, ...], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Both ways."""
    ways = {"guest": ("seed", bad_selector), "host": ("hardened", no_idt)}
    return {
        f"{way}.{name}": value
        for way, (switcher, make) in ways.items()
        for name, value in end_of(kvm, switcher, make).items()
    }
