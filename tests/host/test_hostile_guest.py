"""Guests that do anything at all: each goes on or dies alone, and reaches nothing but its own.

A life is one Guest of any generation with random page tables, code, registers, hypercalls in the ring and
interrupts, trapping again and again.  2,000 traps by default; KVMHOST_FUZZ_CASES=100000 asks for more.
"""

from __future__ import annotations

import os
import random
import struct
from collections import Counter
from types import SimpleNamespace
from typing import Any

from host.native_guest import ABIS, DATA_AT, MEMORY, RAM_AT, Guest, boot_params, call, fill_data, native

from kvmhost._native import lib
from kvmhost.host import slice as stays
from kvmhost.host.errors import GuestBroke
from kvmhost.host.memory import VmMemory
from kvmhost.host.outcome import OutcomeKind
from kvmhost.host.segments import load_idt_entry
from kvmhost.launcher.devices.bus import attach, device_bytes
from kvmhost.launcher.devices.console import Console

CASES = int(os.environ.get("KVMHOST_FUZZ_CASES", "2000"))
TRAPS_A_LIFE = 40
CODE_AT = 0x100000
GOOD_TABLES = 0x6000
STACK_TOP = 0x80000
BORDERS = (0, 1, 2, 0xFFF, 0x1000, DATA_AT, 0x3000, CODE_AT, MEMORY - 4, MEMORY, MEMORY + 0x1000, 0xC0000000)
BORDERS += (
    MEMORY + (1 << 20),
    0xC0000000 + DATA_AT,
    0xC0100000,
    0xFFBFFFFF,
    0xFFC00000,
    0xFFFFFFFC,
    0xFFFFFFFF,
)
FLAGS = [0x67] * 9 + [0x63, 0x27, 3, 1, 0, 0x87, 0x167]
# What is emulated, the beginnings of it, and a few that are not.
CODE = (
    *("0fa2", "0f32", "0f30", "66ed", "e464", "e6fe", "66ef", "f4", "fa", "0f01c1", "0f20e0", "0f22e7"),
    *("8b03", "668902", "c605", "0fb700", "a1", "8a6504", "0f0b", "cd80"),
)
VECTORS = [0x1F] * 4 + [14] * 3 + [13] * 3 + [3, 6, 7, 128]
# The end of most lives, so not tried as often as the others.
RARE = {lib.LHCALL_LGUEST_INIT, lib.LHCALL_SHUTDOWN}
BESIDE = b"\xa5" * 4096


def good_tables() -> bytes:
    """A directory that shows the first 4 MiB twice, at 0 and at PAGE_OFFSET, and its table.

    But the last page leads beyond the end of all memory.
    """
    lead = GOOD_TABLES + 0x1067
    directory = struct.pack("<1024I", *(lead if slot in (0, 768) else 0 for slot in range(1024)))
    return directory + struct.pack("<1024I", *range(0x67, 0x3FF067, 0x1000), 0x600067)


class Life:
    """One Guest and the source of its whims."""

    def __init__(self, memory: VmMemory, seed: int) -> None:
        self.whim = random.Random(seed)
        abi = self.whim.choice(ABIS)
        self.guest = guest = native(memory, abi, device_bytes=device_bytes(abi))
        memory.write(RAM_AT + guest.ram.size, BESIDE)
        guest.machine.fail = self.fail
        if self.whim.random() < 0.7:
            attach(guest, [Console(output=lambda words: None)])
        for page in (1, 3, 4, 5):
            guest.ram.write(4096 * page, self.entries())
        guest.ram.write(GOOD_TABLES, good_tables())
        code = (bytes.fromhex(text).ljust(16, b"\x90") for text in self.whim.choices(CODE, k=256))
        guest.ram.write(CODE_AT, b"".join(code))
        boot_params(guest)
        guest.set_entry(CODE_AT)
        fill_data(guest, abi)
        self.cpu: Any = SimpleNamespace(mailbox=SimpleNamespace(cr2=0), look_again=lambda seconds: None)
        if self.whim.random() < 0.95:
            call(guest, lib.LHCALL_LGUEST_INIT, DATA_AT)
            call(guest, lib.LHCALL_SET_STACK, 0x69, STACK_TOP, 1)
            if self.whim.random() < 0.7:
                call(guest, lib.LHCALL_NEW_PGTABLE, GOOD_TABLES)
            # With a handler for nearly everything it lives longer.
            for vector in range(256):
                if self.whim.random() < 0.98:
                    kind = self.whim.choice((0x8E00, 0x8F00, 0xEE00))
                    load_idt_entry(guest.state, vector, 0x610000, 0xC0100000 | kind)

    def fail(self, error: BaseException) -> None:
        raise AssertionError("no device of a Guest fails by what the Guest does") from error

    def word(self) -> int:
        near = self.whim.choice(BORDERS) + self.whim.randrange(-8, 9)
        return self.whim.choice((near, self.whim.choice(BORDERS), self.whim.getrandbits(32))) & 0xFFFFFFFF

    def entries(self) -> bytes:
        """A page of a Guest's tables: most lead to each other, some behind RAM."""
        width = self.whim.choice((4, 8))
        count = 4096 // width
        frames = [*range(8), self.whim.randrange(MEMORY >> 12), (MEMORY >> 12) + 256]
        pairs = zip(self.whim.choices(frames, k=count), self.whim.choices(FLAGS, k=count), strict=True)
        return struct.pack(f"<{count}{'IQ'[width == 8]}", *(frame << 12 | flags for frame, flags in pairs))

    def step(self) -> None:
        """One stay: what it left in its registers and in its memory, and what it left by."""
        guest, whim, frame = self.guest, self.whim, self.guest.frame
        for name in ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp", "esp"):
            setattr(frame, name, self.word())
        frame.eip = whim.choice((self.word(), CODE_AT + 16 * whim.randrange(256), 0xC0100000))
        if whim.random() < 0.95:
            frame.esp = STACK_TOP
        frame.cs, frame.ss = whim.choice(
            ((0x61, 0x69), (0x73, 0x7B), (whim.getrandbits(16), whim.getrandbits(16)))
        )
        frame.eflags, frame.errcode = whim.getrandbits(32), whim.choice((0, 0, 1, 2, 3, 4, 6, 7, 16, 17, 20))
        frame.trapnum = whim.choice(
            VECTORS if whim.random() < 0.95 else (whim.randrange(257), whim.getrandbits(32))
        )
        if whim.random() < 0.98:
            frame.eax = whim.choice(sorted(guest.abi.calls - RARE))
        if frame.eax == lib.LHCALL_NEW_PGTABLE and whim.random() < 0.8:
            setattr(frame, guest.abi.arguments[0], GOOD_TABLES)
        self.cpu.mailbox.cr2 = self.word()
        if guest.data is not None:
            self.scribble(guest.data)
        stays._settle(self.cpu, guest)
        if guest.outcome is None:
            stays._deliver(self.cpu, guest)
        guest.state.halted = 0

    def scribble(self, data: Any) -> None:
        whim, width = self.whim, data.layout.entry_words
        for _ in range(whim.choice((0, 0, 0, 1, 1, 2, 64))):
            slot = whim.randrange(64)
            data.status[slot] = 0
            for word in range(width):
                data.ring[slot * width + word] = self.word()
            data.ring[slot * width] = whim.choice(sorted(self.guest.abi.calls))
        if whim.random() < 0.2:
            self.guest.state.irqs_pending = whim.getrandbits(32)
            data.words.blocked_interrupts = whim.choice((0, 0xFFFFFFFF, whim.getrandbits(32)))
            data.words.irq_enabled = whim.choice((0, 0x200, 0xFFFFFDFF))
        if whim.random() < 0.2:
            at = whim.choice((0x1000, 0x3000, 0x4000)) + 4 * whim.randrange(1024)
            self.guest.ram.write(at, struct.pack("<I", self.word()))


def live(memory: VmMemory, seed: int) -> tuple[int, str]:
    """One life: how many traps it had, and how it ended."""
    memory.release(RAM_AT - lib.GUEST_BLOCK_SIZE, lib.GUEST_BLOCK_SIZE + (8 << 20))
    life = Life(memory, seed)
    guest: Guest = life.guest
    traps = 0
    try:
        while guest.outcome is None and traps < TRAPS_A_LIFE:
            life.step()
            traps += 1
        assert guest.tables.audit() == [], seed
        assert memory.read(RAM_AT + guest.ram.size, 4096) == BESIDE, seed
        assert memory.read(0, lib.GUEST_AREA_BASE) == bytes(lib.GUEST_AREA_BASE), seed
        if guest.outcome is None:
            return traps, "alive"
        # A last word may be empty; a sentence of ours is not.
        assert guest.outcome.reason or guest.outcome.kind is OutcomeKind.CRASHED, seed
        return traps, guest.outcome.reason or "silence"
    finally:
        if guest.bus is not None:
            guest.bus.close()


def test_guests_that_do_anything(memory: VmMemory) -> None:
    traps, ends, seed = 0, Counter[str](), 0
    while traps < CASES:
        more, end = live(memory, seed)
        traps, seed = traps + more, seed + 1
        ends[end.split()[0]] += 1
    # They die of many things, or this shows little.
    assert len(ends) > 5, ends


def test_addresses_wrap_as_they_do_for_the_cpu(memory: VmMemory) -> None:
    """A handler that reads what lies below a stack pointer of 0 is told that nothing does."""
    guest = native(memory, ABIS[-1])
    assert guest.read_linear(-4, 4) == b""
    assert guest.read_linear((1 << 32) + CODE_AT, 4) == bytes(4)
    try:
        guest.write_linear(-4, b"x")
    except GuestBroke as broke:
        assert "0xfffffffc" in broke.reason
    else:
        raise AssertionError("it was written somewhere")
