"""Descriptors that a Guest asks for, and the GDT that the CPU then has (SW-ROG-007, SW-ROG-008).

The Guest offers them by LOAD_GDT_ENTRY and, the three thread-local ones, by LOAD_TLS; then it copies its live
table, which it may read, and the copies are compared with what was asked for.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from kvmhost.kvm import CpuidEntry, Kvm

from .script import NUMBERS, Script, dword, ended, entries, machine_of, share, spans

Entry = tuple[int, int]
TLS = range(6, 9)
# Entries that are nobody's: not the Switcher's, the TSS or the Guest's own code and data.
FREE = (*range(1, 6), 9, 14, 15, *range(17, 31))
ACCESSED, NOT_SYSTEM, DPL, PRESENT, DPL_1 = 0x100, 0x1000, 0x6000, 0x8000, 0x2000
WORD = 0xFFFFFFFF


def offer(script: Script, asked: Mapping[int, Entry]) -> int:
    """Ask for descriptors by index, and copy the live table; where the copy will be."""
    script.queue((NUMBERS["LOAD_GDT_ENTRY"], n, *asked[n]) for n in asked if n not in TLS)
    if TLS.start in asked:
        words = b"".join(dword(word) for n in TLS for word in asked[n])
        script.call("LOAD_TLS", script.lay(words))
    return script.keep_gdt()


def play(
    kvm: Kvm, parameters: Mapping[str, Any], rounds: list[dict[int, Entry]]
) -> tuple[str, list[tuple[Entry, Entry]]]:
    """Let a Guest ask round by round; how it ended, and pairs of what was asked for and what came."""
    script = Script()
    copies = [offer(script, asked) for asked in rounds]
    script.end()
    with machine_of(kvm, parameters) as machine:
        guest = script.guest(machine)
        end = ended(guest)
        tables = [entries(guest.ram.read(copy, 256)) for copy in copies]
    return end, [
        (asked[n], table[n]) for asked, table in zip(rounds, tables, strict=True) for n in sorted(asked)
    ]


def sw_rog_007(kvm: Kvm, cpuid: tuple[CpuidEntry, ...], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Random code and data descriptors."""
    draw = random.Random(f"{parameters['seed']}/SW-ROG-007")
    indices = (*FREE, *TLS)
    rounds = [
        {n: (draw.getrandbits(32), draw.getrandbits(32) | NOT_SYSTEM) for n in indices}
        for _ in range(-(-int(parameters["count"]) // len(indices)))
    ]
    end, pairs = play(kvm, parameters, rounds)
    return {
        "guest": end,
        "enough": len(pairs) >= int(parameters["count"]),
        "accessed": share(bool(high & ACCESSED) for _, (_, high) in pairs),
        "of-ring-0": share(not high & DPL for _, (_, high) in pairs),
        "else-as-asked": share(
            live == (low, high & ~ACCESSED & WORD | (DPL_1 if not high & DPL else 0) | live[1] & ACCESSED)
            for (low, high), live in pairs
        ),
    }


def sw_rog_008(kvm: Kvm, cpuid: tuple[CpuidEntry, ...], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Every type of system descriptor with every DPL, present, by both hypercalls."""
    wanted = [(0x0050_1234, PRESENT | dpl << 13 | kind << 8 | 0x10) for kind in range(16) for dpl in range(4)]
    rounds = [dict(zip(FREE, wanted[at : at + len(FREE)], strict=False)) for at in range(0, 64, len(FREE))]
    threes = [dict(zip(TLS, (wanted * 2)[at : at + 3], strict=True)) for at in range(0, 64, 3)]
    end, pairs = play(kvm, parameters, rounds + threes)
    entry, tls = pairs[: len(wanted)], pairs[len(wanted) :]
    return {
        "guest": end,
        "asked": spans(asked[1] >> 8 & 0xF for asked, _ in entry),
        "present-after-LOAD_GDT_ENTRY": spans(high >> 8 & 0x1F for _, (_, high) in entry if high & PRESENT),
        "present-after-LOAD_TLS": spans(high >> 8 & 0x1F for _, (_, high) in tls if high & PRESENT),
    }
