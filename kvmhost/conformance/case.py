"""The contract between everything in this package: what is to be run, what must come out, what came out.

A Case is complete and numeric.  No symbol, no default and no builder is left in it, so that every engine gets
exactly the same machine, and so that a report can print it without asking anybody.  Addresses are physical,
which in the arena is the same as linear (stage.py), except where a docstring says linear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

GPRS = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")

Start: TypeAlias = Literal["ring0", "ring1", "ring3", "trip"]
Outcome: TypeAlias = Literal["trap", "shutdown", "report", "values", "timeout", "setup", "broken"]

NO_ERROR = -1
"""TrapExpect.error, Trap.error: the CPU pushed no error code."""


@dataclass(frozen=True, slots=True)
class Patch:
    """Bytes laid over the template before the case starts."""

    address: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Cpu:
    """The machine as the case's first instruction finds it.

    Selectors are 16 bits wide, everything else 32, MSR values 64.  tr = 0 leaves TR with the runner's own
    TSS; ldtr = 0 is the null selector.  Selectors in the data segments are loaded from the case's own GDT,
    by a CPU at ring 0.  An IRET to an outer ring nulls those that the outer ring may not have, as ever.
    """

    eip: int
    cs: int
    ss: int
    esp: int
    eflags: int
    cr0: int
    cr3: int
    cr4: int
    gdt_base: int
    gdt_limit: int
    idt_base: int
    idt_limit: int
    tr: int
    ldtr: int = 0
    ds: int = 0
    es: int = 0
    fs: int = 0
    gs: int = 0
    eax: int = 0
    ecx: int = 0
    edx: int = 0
    ebx: int = 0
    ebp: int = 0
    esi: int = 0
    edi: int = 0
    cr2: int = 0
    dr: tuple[tuple[int, int], ...] = ()
    """(register number, value), loaded in this order; DR7 must be the last."""
    msrs: tuple[tuple[int, int], ...] = ()
    """(number, value), written in this order; the old values are put back after the case."""


# "trace" is a runner's own: nothing happens, but the way is looked at.
EventKind: TypeAlias = Literal["nmi", "intr", "mce", "snapshot", "inspect", "trace"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something from outside: when the vCPU is about to execute `at` (linear) for the `hit`-th time.

    steps instead of at: so many single steps after the case's first instruction.  vector is for "intr";
    count events of the same kind are raised at once.  after: a second event, counted from this one on.
    left_out: parts of the state that are lost on the way ("regs", "sregs", "tr" ...); only a planted defect
    does that.
    """

    kind: EventKind
    at: int | None = None
    hit: int = 1
    steps: int | None = None
    vector: int = 0
    count: int = 1
    after: Event | None = None
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Watch:
    """A range of the arena that the result must bring along."""

    address: int
    size: int


@dataclass(frozen=True, slots=True)
class TrapExpect:
    """What the collector must find; a field that is None is not looked at. error may be NO_ERROR."""

    vector: int | None = None
    error: int | None = None
    eip: int | None = None
    cs: int | None = None
    eflags: int | None = None
    eflags_mask: int = 0xFFFFFFFF
    ss: int | None = None
    esp: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryExpect:
    """Bytes that must lie at address at the end; mask has as many bytes, None compares all bits.

    what is the name that the row gave it, for reports.
    """

    address: int
    data: bytes
    mask: bytes | None = None
    what: str = ""


@dataclass(frozen=True, slots=True)
class Masked:
    """A value of which only some bits count."""

    value: int
    mask: int = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Expect:
    """What must come out.  Whatever is not named is not compared.

    regs are GPRS and "eflags" (of the trapped program, from its frame); esp is in trap.  segs are the data
    segments as the collector found them, cr "cr0" to "cr4", dr "dr0" to "dr7", tables the keys of
    Observation.tables.  changed are the numbers of arena pages that may differ from the start (None: not
    compared; the pages of stage.ALWAYS_CHANGED may always).  hidden: segment name to its cached parts (base,
    limit, type, dpl, present, s, g, db, l, avl, unusable), seen by the kvm runner alone.
    """

    outcome: Outcome = "trap"
    trap: TrapExpect | None = None
    regs: Mapping[str, Masked] = field(default_factory=dict)
    segs: Mapping[str, int] = field(default_factory=dict)
    cr: Mapping[str, Masked] = field(default_factory=dict)
    dr: Mapping[str, Masked] = field(default_factory=dict)
    tables: Mapping[str, int] = field(default_factory=dict)
    memory: tuple[MemoryExpect, ...] = ()
    changed: frozenset[int] | None = None
    hidden: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    values: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another outcome that the manual leaves open, and where it says so."""

    reason: str
    expect: Expect


@dataclass(frozen=True, slots=True)
class Deviation:
    """What a class of environments is known to do instead.

    expect None: it deviates in a way that shows nothing (the row is not demonstrable there).
    """

    dev: str
    expect: Expect | None = None


@dataclass(frozen=True, slots=True)
class Template:
    """The arena as it is before a case's patches.  Two Templates with one key are the same.

    report: linear addresses at which a Switcher gives up and reports through port 0xE2.
    """

    key: str
    image: bytes = field(repr=False, compare=False)
    report: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Case:
    """One run of one row: a machine, and what must become of it.

    layer is "L1", "L2-seed", "L2-hardened", "L3-seed", "L3-hardened" or "L3-foreign".  kind is the row's
    letter (P E K S N).  program is the name of a check of kind K, which has no machine of its own: then
    template and cpu are None, and parameters are the program's.
    """

    row: str
    name: str
    layer: str
    kind: str
    template: Template | None
    cpu: Cpu | None
    patches: tuple[Patch, ...] = ()
    watches: tuple[Watch, ...] = ()
    event: Event | None = None
    expect: Expect = field(default_factory=Expect)
    any_of: tuple[Alternative, ...] = ()
    deviations: Mapping[str, Deviation] = field(default_factory=dict)
    requires: frozenset[str] = frozenset()
    program: str | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Unique in a run: ROW/name@layer."""
        return f"{self.row}/{self.name}@{self.layer}"

    @property
    def external(self) -> bool:
        """Whether the runner must get hold of the vCPU in the middle: only kvm can."""
        return self.event is not None or self.looks_inside

    @property
    def looks_inside(self) -> bool:
        """Whether the cached parts of segment registers are compared."""
        return bool(self.expect.hidden)

    @property
    def meant(self) -> tuple[Outcome, int | None]:
        """The outcome that is expected, and the vector if it is a trap."""
        return self.expect.outcome, self.expect.trap.vector if self.expect.trap else None

    def expectations(self) -> tuple[Expect, ...]:
        """Every Expect in the case, whichever environment it is for."""
        deviating = (deviation.expect for deviation in self.deviations.values())
        return (
            self.expect,
            *(alternative.expect for alternative in self.any_of),
            *(expect for expect in deviating if expect is not None),
        )

    def watched(self) -> tuple[Watch, ...]:
        """All ranges that a result must bring: those asked for and those that are compared."""
        compared = (Watch(m.address, len(m.data)) for e in self.expectations() for m in e.memory)
        return tuple(dict.fromkeys((*self.watches, *compared)))


@dataclass(frozen=True, slots=True)
class Trap:
    """What the CPU pushed, and in which ring it left the program.

    error is NO_ERROR where none was pushed.  ss and esp are None where the CPU pushed none: the trap came
    from ring 0.
    """

    vector: int
    error: int
    eip: int
    cs: int
    eflags: int
    ss: int | None
    esp: int | None


@dataclass(frozen=True, slots=True)
class Observation:
    """What came out of one run of one Case.

    outcome "setup": the machine of the case could not be built, detail says at what; "broken": the engine
    itself failed there.  regs has GPRS (esp: where the trapped program's stack was) and "eflags"; segs the
    selectors that the collector found (ss: the live one); cr "cr0" "cr2" "cr3" "cr4"; dr "dr0".."dr3" "dr6"
    "dr7"; tables "gdt_base" "gdt_limit" "idt_base" "idt_limit" "tr" "ldtr".  stack are the dwords upwards
    from where the handler's ESP was (the vector that the stub pushed is the first).  memory is by (address,
    size) of the case's watched().  changed are arena pages, None where the engine died before they could be
    compared.  A shutdown or a timeout brings none of the registers, but memory where the engine allows.  raw
    is all that an engine said of the case, b"" where that is not one piece: two of the same bytes are alike.
    """

    outcome: Outcome
    trap: Trap | None = None
    regs: Mapping[str, int] = field(default_factory=dict)
    segs: Mapping[str, int] = field(default_factory=dict)
    cr: Mapping[str, int] = field(default_factory=dict)
    dr: Mapping[str, int] = field(default_factory=dict)
    tables: Mapping[str, int] = field(default_factory=dict)
    stack: tuple[int, ...] = ()
    memory: Mapping[tuple[int, int], bytes] = field(default_factory=dict)
    changed: frozenset[int] | None = None
    hidden: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    values: Mapping[str, object] = field(default_factory=dict)
    detail: str = ""
    raw: bytes = field(default=b"", repr=False, compare=False)
