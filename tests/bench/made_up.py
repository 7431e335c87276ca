"""Reports that nobody measured: what a run on a machine would look like, drawn from a seed."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from kvmhost.bench.benchmark import Benchmark, Unit
from kvmhost.bench.results import Provenance, Report, Result, Series, Spoiler

HOSTILE = "<script>alert('x')</script> & \"quoted\" \x00 \x1b[31m \ud800 </style>"
CYCLES, NS, BYTES, COUNT = Unit.CYCLES, Unit.NANOSECONDS, Unit.BYTES, Unit.COUNT

TITLES = {
    "switch": "the Host to the Guest and back without leaving the VM",
    "exit": "out of the VM and back in, and what stands on top of it",
    "trap": "a trap of the Guest by where it is handled",
    "paging": "shadow page tables",
    "machine": "a whole machine: made, started, destroyed, and its memory",
    "boot": "a kernel from its image to its first line",
}

#: Name, unit, middle, what it is.  Of the switch the parts are in the order in which they happen.
PARTS = (
    ("switch/part-save-registers", 34, "PUSHes the Host's registers and segments onto its stack"),
    ("switch/part-gdt", 28, "LGDT of the Guest's table"),
    ("switch/part-idt", 26, "LIDT of the Guest's table"),
    ("switch/part-tss", 41, "clears the busy bit and loads TR"),
    ("switch/part-cr3-in", 96, "MOV to CR3 of the Guest's page directory, two pages touched after it"),
    ("switch/part-pop-registers", 22, "POPs the Guest's registers and segments from its page"),
    ("switch/part-iret", 71, "IRET from ring 0 to ring 1"),
    ("switch/part-trap", 88, "an INT gate from ring 1 to ring 0"),
    ("switch/part-store-registers", 24, "PUSHes the Guest's registers into its page"),
    ("switch/part-cr3-out", 91, "MOV to CR3 of the Host's page directory"),
    ("switch/part-home", 63, "the Host's tables and segments, and the far return"),
)
OTHERS = (
    ("switch/round-trip-seed", CYCLES, 601, "the Switcher of July 2007, as it was"),
    ("switch/round-trip-hardened", CYCLES, 622, "the Switcher that cannot be bent by its Guest"),
    ("switch/round-trip-foreign", CYCLES, 668, "the Switcher that --switcher named"),
    ("switch/ring0-ring3", CYCLES, 158, "IRET to ring 3 and an INT back, nothing else"),
    ("switch/sysenter", CYCLES, 74, "SYSEXIT and SYSENTER"),
    ("switch/task-switch", CYCLES, 418, "a far JMP to a TSS and one back"),
    *(
        (f"switch/cr3-touched-{n}", CYCLES, 90 + 21 * n**0.9, f"MOV to CR3, then {n} pages touched")
        for n in (0, 1, 2, 4, 8, 16, 32, 64)
    ),
    ("exit/c-loop", NS, 742, "KVM_RUN in a bare C loop around an OUT"),
    ("exit/shim-loop", NS, 748, "the same in the shim's loop"),
    ("exit/cffi", NS, 861, "KVM_RUN called through cffi"),
    ("exit/cffi-shim", NS, 869, "the shim called once an exit through cffi"),
    ("exit/ctypes", NS, 1480, "ioctl called through ctypes"),
    ("exit/fcntl", NS, 1130, "ioctl called through fcntl"),
    ("exit/python-handler", NS, 1190, "a Python function called with each trap"),
    ("exit/python-hook", NS, 1540, "a hook of the user's besides"),
    *(
        (f"exit/{kind}", CYCLES, middle, f"one exit by {kind}")
        for kind, middle in (
            ("port", 1910),
            ("mmio", 3470),
            ("hlt", 2260),
            ("cpuid", 1540),
            ("window", 2810),
            ("registers-ioctl", 3140),
            ("shared-memory", 88),
        )
    ),
    *(
        (f"trap/{kind}", CYCLES, middle, f"one trap that is handled {where}")
        for kind, middle, where in (
            ("direct", 171, "by the Guest itself at ring 1"),
            ("shim", 3120, "in the shim"),
            ("python", 4710, "in Python"),
            ("python-hook", 6890, "in Python with a hook"),
            ("virtual-interrupt", 3900, "when an interrupt is injected"),
            ("kick", 12800, "when another thread kicks"),
            ("nmi", 2890, "as an NMI"),
            ("page-fault", 3390, "as a page fault"),
        )
    ),
    *(
        (f"paging/{kind}", CYCLES, middle, f"paging: {kind}")
        for kind, middle in (
            ("fault-fill", 4410),
            ("pte-update", 2170),
            ("flush", 1320),
            ("pae-fault-fill", 4980),
            ("pae-pte", 2340),
        )
    ),
    *(
        (f"paging/switch-roots-{n}", CYCLES, 640 + 9 * n, f"a switch among {n} shadow roots")
        for n in range(1, 9)
    ),
    ("machine/create", NS, 1.91e6, "KVM_CREATE_VM to a vCPU that could run"),
    ("machine/first-instruction", NS, 2.38e6, "from nothing to the Guest's first instruction"),
    ("machine/c-first-instruction", NS, 2.02e6, "the same by the bare C program"),
    ("machine/destroy", NS, 0.61e6, "closing it all"),
    ("machine/memory", BYTES, 31.6e6, "resident memory beside the Guest's own"),
    *(
        (f"machine/guests-{n}", NS, 2.3e6 * n**1.04, f"{n} Guests in one process, started")
        for n in (1, 2, 4, 8, 16, 32, 64)
    ),
    ("boot/first-output", NS, 0.418e9, "from the image to the first byte on the console"),
    ("boot/user-space", NS, 1.94e9, "from the image to the first process"),
    ("boot/traps", COUNT, 184_213, "traps until the first process"),
    ("boot/exits", COUNT, 9_412, "exits until the first process"),
)
REFERENCES = {
    "switch": "switch/ring0-ring3",
    "exit": "exit/c-loop",
    "trap": "trap/direct",
    "paging": "paging/flush",
}
EXITS = {"exit": 1, "trap": 1, "paging": 1}


def known() -> list[Benchmark]:
    """The benchmarks as a catalogue would name them."""
    found = [
        Benchmark(
            "switch/empty", "Nothing between two readings of the counter.", CYCLES, "switch", overhead=True
        )
    ]
    lines = [(name, CYCLES, middle, what) for name, middle, what in PARTS] + list(OTHERS)
    for name, unit, _, what in lines:
        suite = name.partition("/")[0]
        says = (
            f"One operation is this: {what}. It is timed from the instruction after the first reading of the "
            f"counter to the one before the second; the loop around it and both readings are subtracted."
        )
        minus = ("switch/empty",) if suite == "switch" else ()
        found.append(Benchmark(name, says, unit, suite, minus, REFERENCES.get(suite, "")))
    return found


def values(source: Random, middle: float, number: int, whole: bool, drift: float) -> tuple[float, ...]:
    """What a quiet machine gives: a narrow body, a shoulder, now and then an interrupt."""
    found = []
    for _ in range(number):
        value = middle * (1 + drift + abs(source.gauss(0, 0.006)))
        if source.random() < 0.12:
            value *= 1.018 + abs(source.gauss(0, 0.004))
        if source.random() < 0.02:
            value *= 1.2 + 3 * source.random()
        found.append(float(round(value)) if whole and middle > 400 else round(value, 2))
    return tuple(found)


def result(
    name: str,
    unit: Unit,
    middle: float,
    *,
    seed: int = 0,
    runs: int = 5,
    number: int = 30,
    lab: bool = False,
    icount: bool = False,
    reference: float = 0.0,
) -> Result:
    """One benchmark."""
    source = Random(ascii(f"{name} {seed}"))
    suite = name.partition("/")[0]
    exact = unit in (COUNT, BYTES) or (icount and unit is CYCLES)
    series = []
    for _ in range(runs):
        seen = (
            tuple(float(round(middle)) for _ in range(number))
            if exact and unit is not BYTES
            else values(source, middle, number, unit is CYCLES, source.gauss(0, 0.003))
        )
        counts = {"exits": (float(EXITS[suite]),) * number} if suite in EXITS else {}
        if suite == "switch":
            counts["instructions"] = (float(max(1, round(middle / 9))),) * number
        if name == "exit/registers-ioctl":
            counts["ioctls"] = tuple(float(2 + (n % 2)) for n in range(number))
        base = values(source, reference, number, False, 0.0) if reference else ()
        if exact and base:
            base = (float(round(reference)),) * number
        ratios = tuple(a / b for a, b in zip(seen, base, strict=True)) if base else ()
        series.append(
            Series(
                name,
                unit,
                1000,
                (middle * 1.4, middle * 1.1),
                () if lab and not (exact or icount) else seen,
                21.0,
                counts,
                name != "machine/guests-64",
                ratios,
            )
        )
    return Result(name, unit, tuple(series))


def provenance(**changes: object) -> Provenance:
    """A machine of the mind."""
    plain = Provenance(
        backend="vmx",
        cpu="Made-Up Xeon 9999 CPU @ 3.00GHz",
        microcode="0x2b000571",
        kernel="6.12.48+deb13-amd64",
        kvmhost="0.1.0",
        tsc_hz=3_000_000_000,
        made="2026-11-22 22:05",
        hashes={"hardened": "5f0c2d" * 10 + "aa11", "seed": "81aa97" * 10 + "bb22"},
        facts={
            "mitigations meltdown": "Mitigation: PTI",
            "mitigations spectre_v2": "Mitigation: Enhanced / Automatic IBRS; IBPB: conditional; RSB filling",
            "kvm_intel ept": "Y",
            "kvm_intel nested": "N",
            "clocksource": "tsc",
            "governor": "performance",
        },
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def report(
    *,
    seed: int = 0,
    factor: float = 1.0,
    lab: bool = False,
    icount: bool = False,
    slower: tuple[str, ...] = (),
    skip: tuple[str, ...] = ("switch/round-trip-foreign",),
    runs: int = 5,
    number: int = 30,
    **changes: object,
) -> Report:
    """A whole run.  factor: how much dearer everything is than on the first machine."""
    middles = {name: (CYCLES, float(middle)) for name, middle, _ in PARTS}
    middles |= {name: (unit, float(middle)) for name, unit, middle, _ in OTHERS}
    source = Random(seed)
    tilt = {name: factor * (1 + source.gauss(0, 0.05) * (factor != 1.0)) for name in middles}
    found = [
        result("switch/empty", CYCLES, 0.25, seed=seed, runs=runs, number=number, lab=lab, icount=icount)
    ]
    for name, (unit, middle) in middles.items():
        if name in skip:
            found.append(Result(name, unit, (), "no Switcher was named: give --switcher FILE"))
            continue
        own = 1.0 if unit in (COUNT, BYTES) else tilt[name] * (1.3 if name in slower else 1.0)
        reference = REFERENCES.get(name.partition("/")[0], "")
        ground = middles[reference][1] * tilt[reference] if reference else 0.0
        found.append(
            result(
                name,
                unit,
                middle * own,
                seed=seed,
                runs=runs,
                number=number,
                lab=lab,
                icount=icount,
                reference=ground,
            )
        )
    where: dict[str, object] = {"icount": icount}
    if lab:
        where |= {"backend": "lab", "cpu": "QEMU TCG CPU", "microcode": ""}
    settings = provenance(**where, **changes.pop("where", {}))  # type: ignore[arg-type]
    plain = Report(settings, tuple(found), words=("bench", "--thorough"), seconds=311.4)
    return replace(plain, **changes)  # type: ignore[arg-type]


SPOILERS = (
    Spoiler("governor", "CPU 3 runs under powersave", "cpupower frequency-set -g performance"),
    Spoiler("sibling", "CPU 7 shares a core and was 43 % busy", "take it away: echo 0 > .../cpu7/online"),
)
