"""Instructions that fault at ring 1 and have an answer all the same.

Stock kernels execute a few privileged instructions that no paravirtual hook
replaces: port I/O while they probe, MSR reads before they have an IDT, CPUID
always.  Each is answered as a machine without that hardware would answer
(abi 4.4, 9.6).  HLT is the end: a Guest that waits for an interrupt says so by
hypercall.  Everything else is the Guest's own #GP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmhost._native import lib
from kvmhost.host.cpuid import answer
from kvmhost.host.mmio import REGISTERS
from kvmhost.host.outcome import OutcomeKind

if TYPE_CHECKING:
    from kvmhost.host.bus import Bus
    from kvmhost.host.guest import Guest

LONGEST = 4
ALL_ONES = 0xFFFFFFFF
OPERAND_SIZE = 0x66
CLI = 0xFA
HLT = 0xF4
# The counters of a PC's interval timer read 0, like one that ran down.  A kernel of 4.9 measures the CPU by
# them whatever the Host told it, and takes all ones for a count that has just begun: it then reads 100,000
# times before it gives up, and one of 4.12 does so twice.  A decompressor that looks for randomness reads
# until bit 6 is 0.
TIMER_COUNTERS = range(0x40, 0x43)
# A PC's keyboard controller resets the machine: how a 2.6.24 restarts, which has no hypercall for it.
KEYBOARD_RESET = (0x64, 1, 0xFE)
CPUID = b"\x0f\xa2"
RDMSR = b"\x0f\x32"
WRMSR = b"\x0f\x30"
# MOV from and to a control register; ModR/M C0 to C7 names CR0 and a general register, E0 to E7 CR4.
MOV_FROM_CR = b"\x0f\x20"
MOV_TO_CR = b"\x0f\x22"
CR0_FORM = 0xC0
CR4_FORM = 0xE0
# Protected mode, MP, ET, NE, write protection and paging: the bits under which a Guest runs (abi 1.3).
CR0_BITS = 0x80010033

# Opcode to (length, width of the data in bytes or None for "16 or 32", whether it reads); of length 1: by DX.
_PORT_IO: dict[int, tuple[int, int | None, bool]] = {
    0xE4: (2, 1, True),
    0xE5: (2, None, True),
    0xE6: (2, 1, False),
    0xE7: (2, None, False),
    0xEC: (1, 1, True),
    0xED: (1, None, True),
    0xEE: (1, 1, False),
    0xEF: (1, None, False),
}


def _finish(guest: Guest, length: int) -> bool:
    guest.frame.eip += length
    return True


def _port_io(guest: Guest, code: bytes) -> bool:
    """A device answers, or nobody: then reads see all ones (of a timer zeros); writes go nowhere (abi 4.4).

    What a read of 8 or 16 bits does not fill of EAX is kept.
    """
    prefix = 1 if code[0] == OPERAND_SIZE else 0
    form = _PORT_IO.get(code[prefix]) if prefix < len(code) else None
    if form is None:
        return False
    length, width, reads = form
    if width is None:
        width = 2 if prefix else 4
    if not prefix + length <= len(code):
        return False
    frame, bus = guest.frame, guest.bus
    port = frame.edx & 0xFFFF if length == 1 else code[prefix + 1]
    mask = ALL_ONES >> 32 - 8 * width
    if reads:
        value = _read_port(bus, port, width)
        frame.eax = frame.eax & ~mask | value & mask
    elif (port, width, frame.eax & mask) == KEYBOARD_RESET:
        guest.end(OutcomeKind.RESTARTED, "restart")
    elif bus is not None:
        bus.write_port(port, width, frame.eax & mask)
    return _finish(guest, prefix + length)


def _read_port(bus: Bus | None, port: int, width: int) -> int:
    if port in TIMER_COUNTERS:
        return 0
    return ALL_ONES if bus is None else bus.read_port(port, width)


def _cpuid(guest: Guest) -> bool:
    frame = guest.frame
    frame.eax, frame.ebx, frame.ecx, frame.edx = answer(guest.cpuid, frame.eax)
    return _finish(guest, len(CPUID))


def _control_register(guest: Guest, code: bytes) -> bool:
    """CR0 can be read: a decompressor that randomizes the kernel's place looks whether there is an FPU.

    CR4 reads as 0 and forgets what is written, as by the hooks of every Guest (abi 1.3): kernels of 4.4 read
    it once without them, through a fix-up that needs gates, before there are any.
    """
    form = code[2] & ~7
    if code.startswith(MOV_FROM_CR) and form == CR0_FORM:
        value = CR0_BITS | (lib.CR0_TS if guest.state.ts else 0)
    elif form == CR4_FORM:
        value = 0
    else:
        return False
    if code.startswith(MOV_FROM_CR):
        setattr(guest.frame, REGISTERS[code[2] & 7], value)
    return _finish(guest, len(MOV_FROM_CR) + 1)


def emulate(guest: Guest) -> bool:
    """Try to emulate the instruction at EIP after a #GP with error code 0.

    True if it was done and EIP moved on; False if the #GP is the Guest's to handle.
    """
    code = guest.read_linear(guest.frame.eip, LONGEST)
    if not code:
        return False
    if code.startswith(CPUID):
        return _cpuid(guest)
    if guest.frame.cs & 3 != 1:
        return False
    if code.startswith(RDMSR):
        guest.frame.eax = guest.frame.edx = 0
        return _finish(guest, len(RDMSR))
    if code.startswith(WRMSR):
        return _finish(guest, len(WRMSR))
    if code.startswith((MOV_FROM_CR, MOV_TO_CR)) and code[2:3]:
        return _control_register(guest, code)
    if code[0] == CLI:
        return _finish(guest, 1)
    if code[0] == HLT:
        guest.end(OutcomeKind.POWERED_OFF, "halted without power-off")
        return True
    return _port_io(guest, code)
