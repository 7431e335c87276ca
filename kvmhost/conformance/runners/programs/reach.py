"""What a Guest can reach: its page tables as the CPU walks them, after every change (SEC-024).

They are walked here from the top, entry by entry, by nobody's word but the manual's (Intel SDM vol. 3, "PAE
Paging"), each time that the Guest comes out and once more after what it asked for was done.  Of every frame
that they lead to it is noted whose it is and what ring 1 and 3 may do there.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kvmhost.host.host_area import BASE, SWITCHER_TEXT_AT
from kvmhost.host.outcome import OutcomeKind
from kvmhost.host.traps import Trap
from kvmhost.kvm import CpuidEntry, Kvm

from .script import MEGABYTE, MEMORY, NUMBERS, STACK_TOP, Script, dword, ended, machine_of

if TYPE_CHECKING:
    from kvmhost.host.guest import Guest
    from kvmhost.host.machine import Machine

PRESENT, RW, USER, LARGE, NX = 1, 2, 4, 0x80, 1 << 63
FRAME, PAGE, LARGE_PAGE = 0x000FFFFFFFFFF000, 0x1000, 2 * MEGABYTE
RIGHTS = "rwxu"
# The Guest's own tables, two levels: P RW US A D.
FULL = 0x67
DIRECTORY, OTHER_DIRECTORY, TABLE, OTHER_TABLE = 0x10000, 0x11000, 0x12000, 0x13000
# The directory's entry that leads to the directory itself, and where its tables are seen by it.
MIRROR = 1000
MIRRORED = MIRROR << 22
BLOCK = 2 * MEGABYTE


def present(table: bytes) -> Iterator[int]:
    """The entries of a table that lead somewhere."""
    if table.strip(b"\0"):
        yield from (entry for (entry,) in struct.iter_unpack("<Q", table) if entry & PRESENT)


class Walker:
    """Notes what a Guest of a machine can reach."""

    def __init__(self, machine: Machine, guest: Guest) -> None:
        self.memory, self.guest = machine.memory, guest
        self.area = machine.cpus[0].area
        self.mailbox = machine.cpus[0].mailbox
        ram = guest.state.mem_base
        self.owned = {
            "the-switchers-text": range(SWITCHER_TEXT_AT, SWITCHER_TEXT_AT + PAGE),
            "the-state-page": range(self.area.state_page_at, self.area.state_page_at + PAGE),
            "its-register-page": range(guest.registers_at, guest.registers_at + PAGE),
            "its-memory": range(ram, ram + guest.ram.size),
            "the-hosts": range(BASE + MEGABYTE),
            "its-tables": range(guest.block, guest.block + BLOCK),
        }
        self.found: dict[str, set[str]] = defaultdict(set)
        self.roots: set[int] = set()
        # What was noted already: tables as they were, by their place and the rights of what leads there.
        self.known: dict[tuple[int, int], bytes] = {}
        self.walks = 0

    def walk(self) -> None:
        """All roots that the CPU has been given so far."""
        self.roots |= {self.mailbox.root, self.guest.tables.root} - {0}
        self.walks += 1
        for root in self.roots:
            for top in present(self.memory.read(root, 32)):
                for entry in present(self.memory.read(top & FRAME, PAGE)):
                    self._upper(entry)

    def _upper(self, entry: int) -> None:
        table = entry & FRAME
        raw = b"" if entry & LARGE else self.memory.read(table, PAGE)
        if self.known.get((table, entry & ~FRAME)) == raw:
            return
        self.known[table, entry & ~FRAME] = raw
        if entry & LARGE:
            self._note(entry & -LARGE_PAGE & FRAME, LARGE_PAGE, entry, entry)
        for last in present(raw):
            self._note(last & FRAME, PAGE, last & entry, last | entry)

    def _note(self, frame: int, size: int, both: int, either: int) -> None:
        rights = {"r"}
        rights |= {letter for bit, letter in ((RW, "w"), (USER, "u")) if both & bit}
        if not either & NX:
            rights.add("x")
        for at in range(frame, frame + size, PAGE):
            owner = next((name for name, where in self.owned.items() if at in where), "somebody-elses")
            self.found[owner] |= rights

    def rights(self) -> dict[str, str]:
        """By owner what may be done, some of rwxu; "nothing" where nothing is mapped."""
        names = (*self.owned, "somebody-elses")
        return {name: "".join(r for r in RIGHTS if r in self.found[name]) or "nothing" for name in names}


def watched(machine: Machine, guest: Guest) -> Walker:
    """A walker that looks whenever the Guest comes out, before and after what the Host does then."""
    walker = Walker(machine, guest)

    def look(trap: Any) -> None:
        walker.walk()
        try:
            trap.default()
        finally:
            walker.walk()

    for kind in (Trap.HYPERCALL, Trap.PAGE_FAULT):
        guest.on(kind)(look)
    return walker


def directory(script: Script, at: int, table: int) -> None:
    """A directory that shows the first 4 MiB at 0 and at 3 GiB, and itself."""
    slots = {0: table, 768: table, MIRROR: at}
    script.data.append(
        (at, b"".join(dword(slots[n] | FULL) if n in slots else dword(0) for n in range(1024)))
    )
    script.data.append((table, b"".join(dword(n << 12 | FULL) for n in range(1024))))


def busy(script: Script) -> None:
    """Touch, change and drop all kinds of mappings."""
    script.store(0x300000, 1)
    script.load(MEMORY - PAGE)
    for pgdir in (DIRECTORY, OTHER_DIRECTORY, DIRECTORY):
        script.call("NEW_PGTABLE", pgdir)
        script.call("SET_STACK", 0x69, STACK_TOP, 1)
        script.store(0xC0201000, 2)
        script.load(0xC0302000)
        # Its own entry for 0x305000, changed through the mirror: it shows the frame of a table now.
        script.store(MIRRORED + 4 * 0x305, TABLE | FULL)
        script.call("SET_PTE", pgdir, 0x305000, TABLE | FULL)
        script.store(0x305000 + 4 * 0x306, DIRECTORY | FULL)
        script.load(MIRRORED + (MIRROR << 12))
        script.call("SET_PGD", pgdir, 0)
        script.store(0x306FFC, 0)
    script.call("FLUSH_TLB", 0)
    script.store(0x307000, 3)
    # The Switcher's slot in its own directory, which must have no effect.
    script.store(MIRRORED + (MIRROR << 12) + 4 * 1023, TABLE | FULL)
    script.call("SET_PGD", DIRECTORY, 1023)
    script.call("FLUSH_TLB", 1)
    script.store(0x308000, 4)


def beyond(script: Script) -> None:
    """A page of somebody else's, directly behind its own memory."""
    script.data.append((TABLE + 4 * 0x309, dword(MEMORY | FULL)))
    script.call("NEW_PGTABLE", DIRECTORY)
    script.load(0x309000)


def large(script: Script) -> None:
    """Four MiB behind its memory in one entry."""
    script.data.append((DIRECTORY + 4 * 512, dword(MEMORY | FULL | LARGE)))
    script.call("NEW_PGTABLE", DIRECTORY)
    script.load(512 << 22)


def switchers(script: Script) -> None:
    """An entry in the Switcher's range."""
    script.call("NEW_PGTABLE", DIRECTORY)
    script.queue([(NUMBERS["SET_PTE"], DIRECTORY, 0xFFC01000, TABLE | FULL)])


def top(script: Script) -> None:
    """A directory where the memory ends."""
    script.call("NEW_PGTABLE", MEMORY)


ATTEMPTS = {
    "a-frame-beyond-its-memory": beyond,
    "a-large-page": large,
    "the-switchers-range": switchers,
    "a-directory-beyond-its-memory": top,
}


def sec_024(kvm: Kvm, cpuid: tuple[CpuidEntry, ...], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """One Guest that does what it may, and some that try what they may not; what all of them could reach."""
    reached: dict[str, set[str]] = defaultdict(set)
    ends = {}
    walks = 0
    with machine_of(kvm, parameters) as machine:
        for name, act in {"what-it-may": busy, **ATTEMPTS}.items():
            script = Script()
            directory(script, DIRECTORY, TABLE)
            directory(script, OTHER_DIRECTORY, OTHER_TABLE)
            act(script)
            script.end()
            guest = script.guest(machine)
            # Whose memory lies behind this one's; it does not run.
            machine.add_guest(MEMORY, "neighbour").end(OutcomeKind.POWERED_OFF, "")
            walker = watched(machine, guest)
            ends[name] = ended(guest).partition(":")[0]
            walker.walk()
            walks += walker.walks
            for owner, rights in walker.rights().items():
                reached[owner] |= set(rights if rights != "nothing" else "")
    together = {
        owner: "".join(r for r in RIGHTS if r in found) or "nothing" for owner, found in reached.items()
    }
    return {**ends, **together, "often": walks >= int(parameters["walks"])}
