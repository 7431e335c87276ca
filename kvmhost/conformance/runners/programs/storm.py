"""A storm of interrupts over a Guest that computes (INT-006).

The Guest's checksum runs through registers, memory, its stack and the carry.  The vCPU's alarm clock kicks it
again and again after a while that is drawn anew each time; each kick is a real interrupt, which goes through
the Switcher to the Host's handler and back.  Then the same number of rounds is computed in peace.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kvmhost._native import lib
from kvmhost.host.traps import Trap
from kvmhost.kvm import CpuidEntry, Kvm

from .script import SECONDS, Script, dword, machine_of

if TYPE_CHECKING:
    from kvmhost.host.guest import Guest
    from kvmhost.host.machine import Machine

LIMIT, SCRATCH = 0x3000, 0x3010
NEVER = 0xFFFFFFFF
# mov eax, 1; xor ecx, ecx; xor edx, edx; xor esi, esi
START = b"\xb8" + dword(1) + b"\x31\xc9\x31\xd2\x31\xf6"
# again: imul eax, eax, 1664525; add eax, 1013904223; adc edx, 0; push eax; pop ebx; mov [SCRATCH], ebx
#        add esi, [SCRATCH]; adc edx, 0; rol edx, 5; ror esi, 7; inc ecx; cmp ecx, [LIMIT]; jne again
# Whatever a register loses on the way stays lost to the end: no round forgets a bit of the one before.
ROUND = (
    b"\x69\xc0" + dword(1664525) + b"\x05" + dword(1013904223) + b"\x83\xd2\x00\x50\x5b"
    + b"\x89\x1d" + dword(SCRATCH) + b"\x03\x35" + dword(SCRATCH)
    + b"\x83\xd2\x00\xc1\xc2\x05\xc1\xce\x07\x41\x3b\x0d" + dword(LIMIT)
)  # fmt: skip
RESULT = ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp", "esp", "eip", "cs", "ss", "ds", "es")
# Interrupts after which the rounds are repeated in peace: long before their 32-bit counter has gone around.
STRETCH = 500
# Rounds that are left to a Guest that is told to come to an end.
LAST_ROUNDS = 1000
# Nanoseconds to the next interrupt at first; it becomes what this machine needs to be inside by then.
SHORT, LONG = 20_000, 50_000_000
# Tries for each interrupt that is wanted, after which too few of them are the result.
TRIES = 20


class Storm:
    """One Guest on one vCPU, entered by hand."""

    def __init__(self, machine: Machine, draw: random.Random) -> None:
        self.machine, self.draw = machine, draw
        self.cpu = machine.cpus[0]
        self.delay = SHORT
        self.posted = self.taken = self.in_vain = 0
        script = Script()
        script.call("FLUSH_ASYNC")
        script.raw(START)
        script.raw(ROUND + b"\x75" + struct.pack("<b", -len(ROUND) - 2))
        script.call("FLUSH_ASYNC")
        self.guest: Guest = script.guest(machine)
        self.guest.ram.write(LIMIT, dword(NEVER))
        self._to_the_start()

    def _to_the_start(self) -> None:
        """Until the Guest has all its pages and stands before its checksum."""
        calls = []

        def count(trap: Any) -> None:
            trap.default()
            calls.append(trap)
            if len(calls) == 2:
                self.machine.stop()

        self.guest.on(Trap.HYPERCALL)(count)
        self.machine.run(timeout=SECONDS)
        self.guest.off(Trap.HYPERCALL, count)
        lib.kvmhost_take(self.cpu.c)
        self.begin = self.guest.frame.snapshot()

    def compute(self, interrupts: int) -> dict[str, int]:
        """Start over; at least so many interrupts.  The registers at the end."""
        for name, value in self.begin.items():
            setattr(self.guest.frame, name, value)
        self.cpu.prepare(self.guest)
        if interrupts:
            self.guest.ram.write(LIMIT, dword(NEVER))
            self._disturb(interrupts)
            self.guest.ram.write(LIMIT, dword(self.guest.frame.ecx + LAST_ROUNDS))
        left = lib.kvmhost_enter(self.cpu.c)
        found = {name: value for name, value in self.guest.frame.snapshot().items() if name in RESULT}
        return {**found, "left": left, "trap": self.guest.trapnum[0]}

    def _disturb(self, interrupts: int) -> None:
        c, posts = self.cpu.c, self.cpu.c.posts
        wanted = c.traps[lib.KICK_VECTOR] + interrupts
        for _ in range(TRIES * interrupts):
            if c.traps[lib.KICK_VECTOR] >= wanted:
                break
            runs = c.runs
            self.cpu.look_again(self.draw.randrange(self.delay // 2, self.delay))
            if lib.kvmhost_enter(c) != lib.LEFT_ATTENTION:
                break
            self.taken += bool(lib.kvmhost_take(c) & lib.ATTENTION_EVENT)
            in_vain = c.runs == runs
            self.in_vain += in_vain
            self.delay = min(self.delay * 3 // 2, LONG) if in_vain else max(self.delay * 15 // 16, SHORT)
        self.posted += c.posts - posts


def counted(found: int, of: int) -> str:
    """Whether two counters agree.

    >>> counted(3, 3), counted(0, 3), counted(4, 3)
    ('each once', 'none', '4 of 3')
    """
    return "each once" if found == of else f"{found} of {of}" if found else "none"


def int_006(kvm: Kvm, cpuid: tuple[CpuidEntry, ...], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The checksum in the storm and in peace; interrupts as the Switcher, Host and shim count them."""
    count = int(parameters["count"])
    with machine_of(kvm, parameters) as machine:
        storm = Storm(machine, random.Random(f"{parameters['seed']}/INT-006"))
        c, mailbox = storm.cpu.c, storm.cpu.mailbox
        trapped, acknowledged, sent = c.traps[lib.KICK_VECTOR], mailbox.kicks, c.kicks
        alike = []
        for done in range(0, count, STRETCH):
            disturbed = storm.compute(min(STRETCH, count - done))
            alike.append(disturbed == storm.compute(0))
        trapped = c.traps[lib.KICK_VECTOR] - trapped
        acknowledged, sent = mailbox.kicks - acknowledged, c.kicks - sent
        posted, taken, in_vain = storm.posted, storm.taken, storm.in_vain
        unexpected = mailbox.unexpected
    return {
        "interrupts": "enough" if trapped >= count else trapped,
        "checksum": "the same" if all(alike) else "another",
        "handled-by-the-host": counted(acknowledged, trapped),
        # A kick that was sent before the vCPU was inside may become one with the next.
        "sent": "each came" if sent - in_vain <= trapped <= sent else f"{sent}, of which {trapped} came",
        "reasons-seen": counted(taken, posted),
        "unexpected": unexpected,
    }
