"""The stage: one fixed piece of memory on which every case is played, and the names for what stands on it.

Forty pages at 4 MiB, linear = physical in all page tables, hold everything a case may need: two sets of page
tables, descriptor tables, stacks, code of three rings, the Switcher with its pair of pages, and the collector
that takes down what happened.  A row says only what it wants to be different.

There are two worlds.  "L1" has one set of tables and no Switcher: single instructions are looked at, from
ring 0, 1 or 3.  In "pair" a Host and a Guest live as section 4 of the design has it, and a Switcher (L2's or
the product's) goes from one to the other and back.  Each with two-level ("legacy") or PAE paging.

Every trap of the L1 world and every trap of the Host ends in a collector stub; vector STOP (0x2F) is the way
to end a case on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal, TypeAlias

from . import descriptors, expression
from .case import Cpu, Start, Template
from .page_tables import PagingFormat, build_tables
from .switcher_image import FRAME_OFFSET, SwitcherImage

World: TypeAlias = Literal["L1", "pair"]

PAGE = 4096
ARENA = 0x00400000
PAGES = (
    *("HOST_TOP", "HOST_PD0", "HOST_PD3", "HOST_PT", "HOST_SWPT"),
    *("GUEST_TOP", "GUEST_PD0", "GUEST_PD3", "GUEST_PT", "GUEST_SWPT"),
    *("HOST_GDT", "HOST_IDT", "HOST_STACK", "HOST_CODE", "COLLECT", "COLLECT2", "SAVE"),
    *("SW_TEXT", "SW_TEXT2", "H_PAGE", "REGS_PAGE", "STATE_PAGE"),
    *("G_CODE", "G_DATA", "G_STACK", "G_STACK1", "U_CODE", "U_DATA", "U_STACK", "HANDLERS"),
    *(f"X{number}" for number in range(10)),
)
ARENA_SIZE = len(PAGES) * PAGE
ADDRESS: Mapping[str, int] = {name: ARENA + number * PAGE for number, name in enumerate(PAGES)}
# The collector writes to the first, the CPU pushes on the second.
ALWAYS_CHANGED = frozenset({PAGES.index("SAVE"), PAGES.index("HOST_STACK")})
USER_PAGES = ("U_CODE", "U_DATA", "U_STACK")
GUEST_PAGES = ("G_CODE", "G_DATA", "G_STACK", "G_STACK1", *USER_PAGES)

SW = 0xFFC00000
P = SW + PAGE
STATE = P + PAGE
STOP = 0x2F
HOST_TSS = ADDRESS["HOST_GDT"] + 0x800
ENTRY = ADDRESS["HOST_CODE"] + 0xFF0
MAILBOX = ADDRESS["X9"]
GDT_LIMIT = 32 * 8 - 1
IDT_LIMIT = 256 * 8 - 1

LCS, LDS, HCS, HDS, TSEL = 0x50, 0x58, 0x60, 0x68, 0x80
UCS, UDS = 0x73, 0x7B
GCS = {"L1": 20 * 8 | 1, "pair": 0x61}
GDS = {"L1": 21 * 8 | 1, "pair": 0x69}
FREE_SELECTORS = range(22, 32)

CR0 = 0x80010031  # PG WP NE ET PE
CR4_PAE = 0x20
DEFAULT_GPRS: Mapping[str, int] = {
    "eax": 0xA0A0A0A0,
    "ecx": 0xC1C1C1C1,
    "edx": 0xD2D2D2D2,
    "ebx": 0xB3B3B3B3,
    "ebp": 0xB5B5B5B5,
    "esi": 0x56565656,
    "edi": 0xD7D7D7D7,
}
# What the Host has in its registers when it enters the Switcher; EAX and EBX are the arguments.
HOST_GPRS: Mapping[str, int] = {
    "ecx": 0x0C0C0C0C,
    "edx": 0x0D0D0D0D,
    "ebp": 0x0B0B0B0B,
    "esi": 0x05050505,
    "edi": 0x07070707,
}
NO_TRAP = 256
# The frame that a Guest starts from.
GUEST_FRAME: Mapping[str, int] = {
    **DEFAULT_GPRS,
    "gs": 0,
    "fs": 0,
    "ds": GDS["pair"],
    "es": GDS["pair"],
    "trapnum": NO_TRAP,
    "errcode": 0,
    "eip": ADDRESS["G_CODE"],
    "cs": GCS["pair"],
    "eflags": 0x202,
    "esp": ADDRESS["G_STACK"] + PAGE,
    "ss": GDS["pair"],
}


class StageError(ValueError):
    """Something the stage does not have."""


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """One world, ready to be changed by a Scene (scene.py).

    symbols are what rows may name: pages, selectors, addresses; SW.<label> of the Switcher;
    REGS.<register> and STATE.<field> (linear, under the Guest's tables), FRAME.<register> and
    STATE_PAGE.<field> (the same places, physical: use these for watched memory).
    """

    world: World
    paging: PagingFormat
    switcher: SwitcherImage | None
    symbols: Mapping[str, int] = field(repr=False)
    template: Template = field(repr=False)
    # What evaluate() has found: thousands of cases write the same few words.
    _values: dict[str, int] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(world: World, paging: PagingFormat = "legacy", switcher: SwitcherImage | None = None) -> Stage:
        """The stage of a world; a pair needs its Switcher.  The same call gives the same object."""
        if (world == "pair") != (switcher is not None):
            raise StageError("a pair is a pair with a Switcher, and the L1 world has none")
        key = f"{world}-{paging}" + (f"-{switcher.name}-{hash_text(switcher)}" if switcher else "")
        return _stage(key, world, paging, switcher)

    def evaluate(self, value: str | int) -> int:
        """A number as a row writes it.  Raises expression.ExpressionError."""
        if isinstance(value, int):
            return value
        if value not in self._values:
            self._values[value] = expression.evaluate(value, self.symbols)
        return self._values[value]

    def cpu(self, start: Start) -> Cpu:
        """The machine at one of the four starts."""
        return _cpu(self, start)


@cache
def _cpu(stage: Stage, start: Start) -> Cpu:
    if (start == "trip") != (stage.world == "pair"):
        raise StageError(f"a case of world {stage.world} cannot start with {start!r}")
    rings = {
        "ring0": ("HOST_CODE", HCS, HDS, "HOST_STACK", 0x2),
        "trip": ("HOST_CODE", HCS, HDS, "HOST_STACK", 0x2),
        "ring1": ("G_CODE", GCS[stage.world], GDS[stage.world], "G_STACK", 0x202),
        "ring3": ("U_CODE", UCS, UDS, "U_STACK", 0x202),
    }
    code, cs, data, stack, eflags = rings[start]
    gprs = {**HOST_GPRS, "eax": P, "ebx": ADDRESS["GUEST_TOP"]} if start == "trip" else DEFAULT_GPRS
    cpu = Cpu(
        eip=ADDRESS[code],
        cs=cs,
        ss=data,
        esp=ADDRESS[stack] + PAGE,
        eflags=eflags,
        cr0=CR0,
        cr3=ADDRESS["HOST_TOP"],
        cr4=CR4_PAE if stage.paging == "pae" else 0,
        gdt_base=ADDRESS["HOST_GDT"],
        gdt_limit=GDT_LIMIT,
        idt_base=ADDRESS["HOST_IDT"],
        idt_limit=IDT_LIMIT,
        tr=TSEL,
        ds=data,
        es=data,
    )
    return replace(cpu, **gprs)  # type: ignore[arg-type]


def page_number(address: int) -> int:
    """Which arena page a physical address lies in; StageError if in none."""
    if not ARENA <= address < ARENA + ARENA_SIZE:
        raise StageError(f"{address:#x} is not in the arena, {ARENA:#x} to {ARENA + ARENA_SIZE - 1:#x}")
    return (address - ARENA) // PAGE


def place_name(address: int) -> str:
    """How a person calls a physical address of the arena: its page and the offset in it."""
    if not ARENA <= address < ARENA + ARENA_SIZE:
        return f"{address:#x}"
    page, offset = divmod(address - ARENA, PAGE)
    return PAGES[page] + (f"+{offset:#x}" if offset else "")


def hash_text(switcher: SwitcherImage) -> str:
    """What tells two Switchers of one name apart: mutations of one text must not share a template."""
    known = _hashes.get(id(switcher))
    if known is not None and known[0] is switcher:
        return known[1]
    import hashlib

    facts = repr((switcher.symbols, switcher.entries, switcher.frame, switcher.descriptors))
    found = hashlib.sha256(switcher.text + facts.encode()).hexdigest()[:16]
    _hashes[id(switcher)] = switcher, found
    return found


# By identity, for thousands of cases ask; the image is kept, so that its id stays its own.
_hashes: dict[int, tuple[SwitcherImage, str]] = {}


_stages: dict[str, Stage] = {}


def _stage(key: str, world: World, paging: PagingFormat, switcher: SwitcherImage | None) -> Stage:
    if key not in _stages:
        symbols = _symbols(world, switcher)
        image = _Image(world, paging, switcher, symbols).build()
        report = frozenset({symbols["SW.fault_in_switcher"]} if "SW.fault_in_switcher" in symbols else ())
        _stages[key] = Stage(world, paging, switcher, symbols, Template(key, image, report))
    return _stages[key]


@cache
def _fixed_symbols() -> dict[str, int]:
    return {
        **ADDRESS,
        "ARENA": ARENA,
        "SW": SW,
        "P": P,
        "REGS": P + FRAME_OFFSET,
        "STATE": STATE,
        "STOP": STOP,
        "HOST_TSS": HOST_TSS,
        "ENTRY": ENTRY,
        "MAILBOX": MAILBOX,
        "LCS": LCS,
        "LDS": LDS,
        "HCS": HCS,
        "HDS": HDS,
        "UCS": UCS,
        "UDS": UDS,
        "TSEL": TSEL,
        **{f"D{index}": index * 8 for index in FREE_SELECTORS},
    }


def _symbols(world: World, switcher: SwitcherImage | None) -> dict[str, int]:
    symbols = {**_fixed_symbols(), "GCS": GCS[world], "GDS": GDS[world]}
    if switcher:
        # Every Switcher numbers its own instructions: rows name them by what they do, "SW.pop_gs".
        symbols.update({f"SW.{_unnumbered(name)}": SW + offset for name, offset in switcher.symbols.items()})
        symbols.update({f"SW.{name}": SW + offset for name, offset in switcher.symbols.items()})
        symbols.update({f"SW.{name}": SW + offset for name, offset in switcher.boundaries.items()})
        symbols.update({f"SW.stub{vector}": SW + offset for vector, offset in enumerate(switcher.entries)})
        for name, offset in switcher.frame_offsets().items():
            symbols[f"REGS.{name}"] = P + offset
            symbols[f"FRAME.{name}"] = ADDRESS["REGS_PAGE"] + offset
        for name, offset in switcher.state_offsets().items():
            symbols[f"STATE.{name}"] = STATE + offset
            symbols[f"STATE_PAGE.{name}"] = ADDRESS["STATE_PAGE"] + offset
    return symbols


def _unnumbered(label: str) -> str:
    """E21_pop_gs without its number; what has none stays as it is."""
    number, _, name = label.partition("_")
    return name if len(number) == 3 and number[1:].isdigit() and name else label


class _Image:
    """Builds a template, page by page."""

    def __init__(
        self, world: World, paging: PagingFormat, switcher: SwitcherImage | None, symbols: Mapping[str, int]
    ) -> None:
        self.world, self.paging, self.switcher, self.symbols = world, paging, switcher, symbols
        self.bytes = bytearray(ARENA_SIZE)

    def build(self) -> bytes:
        self._host_descriptors()
        self._collector_stubs()
        everything = {address: (address, True, name in USER_PAGES) for name, address in ADDRESS.items()}
        pair = {SW: (ADDRESS["SW_TEXT"], True, False), STATE: (ADDRESS["STATE_PAGE"], True, False)}
        host = {**everything, **pair, P: (ADDRESS["H_PAGE"], True, False)}
        self._tables("HOST", host)
        if self.switcher:
            guest = {ADDRESS[name]: everything[ADDRESS[name]] for name in GUEST_PAGES}
            guest[SW] = (ADDRESS["SW_TEXT"], False, False)
            guest[STATE] = (ADDRESS["STATE_PAGE"], False, False)
            guest[P] = (ADDRESS["REGS_PAGE"], True, False)
            self._tables("GUEST", guest)
            self._put(ADDRESS["SW_TEXT"], self.switcher.text)
            self._state_page(self.switcher)
            self._frame(self.switcher)
            self._trip(self.switcher)
        return bytes(self.bytes)

    def _put(self, address: int, data: bytes) -> None:
        offset = address - ARENA
        self.bytes[offset : offset + len(data)] = data

    def _tables(self, prefix: str, mapped: Mapping[int, tuple[int, bool, bool]]) -> None:
        names = ("TOP", "PD0", "PD3", "PT", "SWPT")
        pages = {name: ADDRESS[f"{prefix}_{name}"] for name in names}
        for address, data in build_tables(self.paging, pages, mapped).items():
            self._put(address, data)

    def _gdt(self, table: int, kernel_dpl: int, tss_base: int) -> None:
        """kernel_dpl: of the segments at HCS and HDS, which are GCS and GDS in a Guest's table."""
        for place, ring in ((LCS >> 3, 0), (HCS >> 3, kernel_dpl), (UCS >> 3, 3)):
            self._put(table + place * 8, descriptors.segment(type="code-rx", dpl=ring))
            self._put(table + place * 8 + 8, descriptors.segment(type="data-rw", dpl=ring))
        self._put(
            table + TSEL,
            descriptors.segment(type="tss32", base=tss_base, limit=descriptors.TSS_BYTES - 1, g=0, b=0),
        )

    def _host_descriptors(self) -> None:
        self._gdt(ADDRESS["HOST_GDT"], 0, HOST_TSS)
        if self.world == "L1":
            for selector, kind in ((GCS["L1"], "code-rx"), (GDS["L1"], "data-rw")):
                self._put(ADDRESS["HOST_GDT"] + (selector & ~7), descriptors.segment(type=kind, dpl=1))
        self._put(
            HOST_TSS,
            descriptors.tss(
                esp0=ADDRESS["HOST_STACK"] + PAGE,
                ss0=HDS,
                esp1=ADDRESS["G_STACK1"] + PAGE,
                ss1=GDS[self.world],
            ),
        )
        for vector in range(256):
            gate = descriptors.gate(
                selector=HCS,
                offset=ADDRESS["COLLECT"] + vector * 16,
                dpl=3 if vector == STOP and self.world == "L1" else 0,
            )
            self._put(ADDRESS["HOST_IDT"] + vector * 8, gate)

    def _collector_stubs(self) -> None:
        """push dword N; jmp COLLECT2.  What is at COLLECT2 comes from the runner's engine."""
        for vector in range(256):
            stub = ADDRESS["COLLECT"] + vector * 16
            jump = (ADDRESS["COLLECT2"] - (stub + 10)) & 0xFFFFFFFF
            self._put(stub, b"\x68" + vector.to_bytes(4, "little") + b"\xe9" + jump.to_bytes(4, "little"))

    def _state_page(self, switcher: SwitcherImage) -> None:
        page, at = ADDRESS["STATE_PAGE"], switcher.state_offsets()

        def pseudo(base: int, limit: int) -> bytes:
            return limit.to_bytes(2, "little") + base.to_bytes(4, "little")

        self._put(page + at["host_cr3"], ADDRESS["HOST_TOP"].to_bytes(4, "little"))
        self._put(page + at["host_idt_desc"], pseudo(ADDRESS["HOST_IDT"], IDT_LIMIT))
        self._put(page + at["host_gdt_desc"], pseudo(ADDRESS["HOST_GDT"], GDT_LIMIT))
        self._put(page + at["guest_idt_desc"], pseudo(STATE + at["guest_idt"], IDT_LIMIT))
        self._put(page + at["guest_gdt_desc"], pseudo(STATE + at["guest_gdt"], GDT_LIMIT))
        self._put(
            page + at["guest_tss"],
            descriptors.tss(esp0=P + PAGE, ss0=LDS, esp1=ADDRESS["G_STACK1"] + PAGE, ss1=GDS["pair"]),
        )
        self._gdt(page + at["guest_gdt"], 1, STATE + at["guest_tss"])
        for vector in range(256):
            gate = descriptors.gate(
                selector=LCS, offset=SW + switcher.entries[vector], dpl={0x1F: 1, 0x80: 3}.get(vector, 0)
            )
            self._put(page + at["guest_idt"] + vector * 8, gate)
        # The product's hardened Switcher counts NMIs in a mailbox that the page's last dword names.
        self._put(page + PAGE - 4, MAILBOX.to_bytes(4, "little"))

    def _frame(self, switcher: SwitcherImage) -> None:
        for name, offset in switcher.frame_offsets().items():
            self._put(ADDRESS["REGS_PAGE"] + offset, GUEST_FRAME[name].to_bytes(4, "little"))

    def _trip(self, switcher: SwitcherImage) -> None:
        """pushf; lcall *ENTRY; int STOP."""
        code = b"\x9c\xff\x1d" + ENTRY.to_bytes(4, "little") + b"\xcd" + bytes([STOP])
        self._put(ADDRESS["HOST_CODE"], code)
        door = SW + switcher.symbols["switch_to_guest"]
        self._put(ENTRY, door.to_bytes(4, "little") + LCS.to_bytes(2, "little"))
