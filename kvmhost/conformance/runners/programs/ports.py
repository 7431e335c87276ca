"""Port instructions of a Guest at ring 1, done for it by the Host (IOP-005).

All eight forms with and without an operand size prefix.  A bus of the program's own answers, so what reaches
a device is seen; the Guest goes on behind the instruction, and EAX tells what an IN filled in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvmhost.host.traps import Trap
from kvmhost.kvm import CpuidEntry, Kvm

from .script import Script, dword, ended, machine_of

PORT, DX_PORT, EAX = 0x64, 0x1234, 0x11223344
CODES = ("e464", "e564", "66e564", "e664", "e764", "66e764", "ec", "ed", "66ed", "ee", "ef", "66ef")
MOV_EAX, MOV_EDX = b"\xb8", b"\xba"
ANSWER = 0xA5B6C7D8


class Ports:
    """A bus on which every port answers."""

    def __init__(self) -> None:
        self.heard = "nothing"

    def read_port(self, port: int, width: int) -> int:
        self.heard = f"read {width} at {port:#x}"
        return ANSWER

    def write_port(self, port: int, width: int, value: int) -> None:
        self.heard = f"write {width} at {port:#x}: {value:#x}"

    def notify(self, address: int) -> bool:
        return False

    def read_mmio(self, physical: int, width: int) -> int | None:
        return None

    def write_mmio(self, physical: int, width: int, value: int) -> bool:
        return False

    def close(self) -> None:
        """There is nothing to close."""


def iop_005(kvm: Kvm, cpuid: tuple[CpuidEntry, ...], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Each form once: what the bus heard, EAX then, and how far EIP went."""
    script = Script()
    places = {}
    for code in CODES:
        script.raw(MOV_EAX + dword(EAX) + MOV_EDX + dword(DX_PORT))
        places[script.here] = code
        script.raw(bytes.fromhex(code))
    script.end()
    found = dict.fromkeys(CODES, "no fault")
    with machine_of(kvm, parameters) as machine:
        guest = script.guest(machine)
        bus = guest.bus = Ports()

        @guest.on(Trap.GENERAL_PROTECTION)
        def faulted(trap: Any) -> None:
            begin, bus.heard = trap.eip, "nothing"
            trap.default()
            code = places[begin]
            found[code] = f"{bus.heard}, EAX {trap.regs.eax:#x}, EIP + {trap.eip - begin}"
            # Also where the Host went astray the next form is to have its turn.
            trap.regs.eip = begin + len(bytes.fromhex(code))

        end = ended(guest)
    return {"guest": end, **found}
