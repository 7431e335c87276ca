"""The suite `switch`: Host to Guest and back without leaving the VM, whole and in parts.

Every body is in native/bench/ring0.S and runs on the product's own Machine (kvmhost/bench/rig.py).  This file
says what each one is, and how many instructions it has: where a counter counts instructions instead of time,
that is what must be read.  The parts stand in the order of hardened.S, so that their figures laid end to end
are one world switch; and together they have exactly its instructions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvmhost.bench.benchmark import Benchmark, Sample, Setting, Subject, Suite, Unit

if TYPE_CHECKING:
    from kvmhost.bench.rig import Rig
    from kvmhost.kvm import Kvm

GROUP: Final = "switch"
REFERENCE: Final = "switch/round-trip-hardened"
LOOP: Final = "switch/overhead"
READING: Final = "switch/overhead-reading"
ARGUMENTS: Final = "switch/overhead-arguments"

_WARM: Final = "A few operations come first, in the same run of the VM, and are not timed."
_FENCED: Final = (
    "Read with lfence; rdtsc; lfence at ring 0 before the first operation and after the last, inside the "
    "VM; each operation stands between two LFENCEs, and those, the loop's counter and the two readings "
    "(switch/overhead) are subtracted."
)
_EACH: Final = (
    "Each one is read by itself, the counter before and after it with LFENCE on both sides; what makes "
    "ready for it and what undoes it is not timed, and two readings with nothing between them "
    f"(switch/overhead-reading) are subtracted. {_WARM}"
)
_TRIP: Final = (
    "From the ring-0 Host's PUSHF through the far call into the Switcher, to ring 1 of the Guest, which "
    "traps at once by HLT (a general-protection fault, so its EIP stays where it is), through the stub of "
    "vector 13 and all the way back to the instruction behind the call. The register page has flat data in "
    "DS, ES, FS and GS. Nothing leaves the VM. Subtracted are the loop, its LFENCEs, the two readings, and "
    "the two MOVs that load the call's arguments (switch/overhead-arguments). Instructions are "
    "single-stepped, once, not while timing: PUSHF, far call, the trapping one and the last IRET are among "
    f"them. {_WARM}"
)
_CALL: Final = (
    "but the Guest makes a hypercall: INT $0x1F, and in the next round the JMP back to it, which counts, "
    "too. Its stub does not ask who trapped."
)


@dataclass(frozen=True, slots=True)
class Body:
    """What a benchmark runs.

    instructions: those of one operation, as native/bench/ring0.S has them; of what is only subtracted, none.
    """

    name: str
    instructions: int


def _overhead(name: str, says: str) -> Benchmark:
    return Benchmark(name, says, Unit.CYCLES, GROUP, needs=("paging32",), overhead=True)


def _trip(name: str, says: str, needs: tuple[str, ...] = ()) -> Benchmark:
    return Benchmark(
        f"switch/{name}", says, Unit.CYCLES, GROUP, (ARGUMENTS,), REFERENCE, ("paging32", *needs)
    )


def _loop(name: str, says: str, needs: tuple[str, ...] = (), warm: str = f" {_WARM}") -> Benchmark:
    return Benchmark(
        f"switch/{name}",
        f"{says} {_FENCED}{warm}",
        Unit.CYCLES,
        GROUP,
        (LOOP,),
        REFERENCE,
        ("paging32", *needs),
    )


def _each(name: str, says: str) -> Benchmark:
    return Benchmark(
        f"switch/{name}", f"{says} {_EACH}", Unit.CYCLES, GROUP, (READING,), REFERENCE, ("paging32",)
    )


#: What a world switch consists of: the name, the body, its instructions, and which of hardened.S they are.
PARTS: Final = (
    ("call", "call", 2, "What the Host does: PUSHF and the far call to the Switcher's door."),
    ("save-host", "save_host", 7, "E00 to E06: ES, DS, GS, FS and EBP pushed, ESP put away and moved."),
    ("load-idt", "load_idt", 1, "E07: LIDT of the Guest's table."),
    ("load-gdt", "load_gdt", 1, "E08: LGDT of the Guest's table."),
    ("load-tr", "load_tr", 4, "E09 to E12: LTR, and the other TSS's busy bit cleared."),
    (
        "load-cr3",
        "load_cr3",
        1,
        "E13: MOV to CR3, of another root that maps the same; the second reading's own fetch walks the "
        "tables.",
    ),
    ("pop-registers", "pop_registers", 7, "E14 to E20: the seven general registers popped."),
    (
        "pop-segments",
        "pop_segments",
        5,
        "E21 to E25: GS, FS, DS, ES popped, flat data of ring 1, and 8 skipped.",
    ),
    ("iret-out", "iret_out", 1, "E26: IRET to ring 1, where the second reading is taken."),
    ("trap-in", "trap_in", 1, "The trap into ring 0, by INT: read before it at ring 1, and behind the gate."),
    ("stub", "stub", 4, "The stub of vector 13, R00 and R01: vector pushed, jumped, and asked who trapped."),
    ("push-frame", "push_frame", 11, "R02 to R12: four segments and seven general registers pushed."),
    ("find-pair", "find_pair", 6, "R13 to R18: DS loaded, the pair found, trap number and Host's CR3 read."),
    ("load-host-cr3", "load_host_cr3", 1, "R19: MOV to CR3, as on the way out."),
    (
        "load-host-gdt",
        "load_host_gdt",
        2,
        "R20 and R21: the Guest's TSS made idle, LGDT of the Host's table.",
    ),
    ("load-host-idt", "load_host_idt", 1, "R22: LIDT of the Host's table."),
    ("load-host-tr", "load_host_tr", 3, "R23 to R25: the Host's stack, and LTR."),
    ("restore-host", "restore_host", 5, "R26 to R30: EBP, FS, GS, DS and ES popped."),
    ("return", "return", 1, "R31: IRET to the same ring."),
)

BENCHMARKS: Final = (
    _overhead(LOOP, "An empty loop between two readings: LFENCE twice, the counter down and the jump back."),
    _overhead(READING, "Two readings of the time-stamp counter with nothing between them."),
    _overhead(ARGUMENTS, f"The loop of {LOOP} with two MOVs in it that load a Switcher's arguments."),
    Benchmark(
        "switch/empty",
        f"The empty loop once more, by the same code, and {LOOP} subtracted: the harness must read 0 here.",
        Unit.CYCLES,
        GROUP,
        (LOOP,),
        needs=("paging32",),
    ),
    _trip("round-trip-hardened", f"Our default Switcher. {_TRIP}"),
    _trip("round-trip-seed", f"The Switcher of 2007. {_TRIP}"),
    _trip("round-trip-foreign", f"The Switcher given with --switcher. {_TRIP}", ("switcher",)),
    _trip("hypercall-hardened", f"As switch/round-trip-hardened, {_CALL}"),
    _trip("hypercall-seed", f"As switch/round-trip-seed, {_CALL}"),
    *(_each(f"part-{name}", f"One part of a switch by hardened. {says}") for name, _, _, says in PARTS),
    _loop("segments", "DS, ES, FS and GS loaded with flat data: four MOVs."),
    _loop("lgdt", "LGDT of the table that is loaded already."),
    _loop("lidt", "LIDT of the table that is loaded already."),
    _each("ltr", "LTR alone; the busy bit is cleared before it."),
    _loop("cr3-same", "MOV to CR3 of the value it has, and no memory touched but the loop's own."),
    _loop("cr3-touched-8", "MOV to CR3, and a word read from each of 8 pages: 9 instructions."),
    _loop("cr3-touched-64", "MOV to CR3, and a word read from each of 64 pages: 65 instructions."),
    _loop(
        "ring0-ring3",
        "Out to ring 3 by IRET, and in again by INT through an interrupt gate, on the same page tables: "
        "IRET, the JMP that stands behind the INT, INT.",
    ),
    _loop("sysenter", "Out to ring 3 by SYSEXIT, and in again by SYSENTER.", ("sysenter",)),
    _loop(
        "task-switch",
        "A far JMP to another task's TSS and one back, each with CR3 and all registers, and the JMP that "
        "stands behind the second. KVM emulates a task switch: the exits are those that the CPU made on "
        "the way, by KVM's own count, without interrupts of the machine beneath and the one exit that "
        "ends a sample; so that they are all this one's, nothing is done before that is not timed.",
        warm="",
    ),
)

BODIES: Final[Mapping[str, Body]] = {
    LOOP: Body("empty", 0),
    READING: Body("reading", 0),
    ARGUMENTS: Body("arguments", 0),
    "switch/empty": Body("empty", 0),
    **{f"switch/part-{name}": Body(body, instructions) for name, body, instructions, _ in PARTS},
    "switch/segments": Body("segments", 4),
    "switch/lgdt": Body("lgdt", 1),
    "switch/lidt": Body("lidt", 1),
    "switch/ltr": Body("ltr", 1),
    "switch/cr3-same": Body("cr3_same", 1),
    "switch/cr3-touched-8": Body("cr3_touched_8", 9),
    "switch/cr3-touched-64": Body("cr3_touched_64", 65),
    "switch/ring0-ring3": Body("ring0_ring3", 3),
    "switch/sysenter": Body("sysenter", 2),
    "switch/task-switch": Body("task_switch", 3),
}

#: Which Switcher makes the trip, and whether the Guest comes back by a hypercall.
TRIPS: Final[Mapping[str, tuple[str, bool]]] = {
    "switch/round-trip-hardened": ("hardened", False),
    "switch/round-trip-seed": ("seed", False),
    "switch/round-trip-foreign": ("", False),
    "switch/hypercall-hardened": ("hardened", True),
    "switch/hypercall-seed": ("seed", True),
}

#: CPUID leaf 1, EDX: SYSENTER and SYSEXIT (Intel SDM vol. 2, "CPUID").
SEP: Final = 1 << 11


class BodySubject:
    """Something at ring 0 that takes a known number of instructions."""

    def __init__(self, rig: Rig, body: Body) -> None:
        self.rig, self.body = rig, body

    def sample(self, loops: int) -> Sample:
        """See Subject."""
        total = self.rig.sample(self.body.name, loops)
        return Sample(total, loops, {"instructions": self.body.instructions * loops})


class OverheadSubject(BodySubject):
    """What is subtracted.  It counts nothing: the others count without it from the start."""

    def sample(self, loops: int) -> Sample:
        """See Subject."""
        return Sample(self.rig.sample(self.body.name, loops), loops)


class TaskSubject(BodySubject):
    """Task switches, and what they cost in exits that KVM_RUN does not return for."""

    def sample(self, loops: int) -> Sample:
        """See Subject.  Without a warm-up, whose exits would be counted, too."""
        before = self._exits()
        total = self.rig.sample(self.body.name, loops, warm_up=0)
        exits = self._exits() - before - 1  # the OUT that ends the sample
        return Sample(total, loops, {"instructions": self.body.instructions * loops, "exits": exits})

    def _exits(self) -> int:
        found = self.rig.vcpu.statistics()
        return int(found["exits"].value) - int(found["irq_exits"].value)


class TripSubject:
    """Whole switches.  Their instructions are counted when it is made."""

    def __init__(self, rig: Rig, hypercall: bool) -> None:
        from kvmhost.bench.steps import count
        from kvmhost.host.traps import Trap

        self.rig = rig
        self.trap = Trap.HYPERCALL if hypercall else Trap.GENERAL_PROTECTION
        self.instructions = count(rig, self.trap)

    def sample(self, loops: int) -> Sample:
        """See Subject."""
        total = self.rig.round_trip(loops, self.trap)
        return Sample(total, loops, {"instructions": self.instructions * loops})


class Rigs:
    """A rig for each Switcher, made when the first benchmark needs it."""

    def __init__(self, setting: Setting, kvm: Kvm, stack: ExitStack) -> None:
        self.setting, self.kvm, self.stack = setting, kvm, stack
        self.made: dict[str, Rig] = {}

    def rig(self, switcher: str) -> Rig:
        """The one with this Switcher, by name or path."""
        if switcher not in self.made:
            from kvmhost.bench.rig import Rig

            self.made[switcher] = self.stack.enter_context(Rig(switcher, self.kvm))
        return self.made[switcher]

    def subject(self, benchmark: Benchmark) -> Subject | str:
        """What measures a benchmark, or why nothing does."""
        from kvmhost.bench.errors import Unmeasurable

        name = benchmark.name
        if "sysenter" in benchmark.needs and not self._has_sysenter():
            return "this CPU has no SYSENTER, or KVM hides it"
        if "switcher" in benchmark.needs and self.setting.switcher is None:
            return "there is no foreign Switcher to compare with: name one with --switcher"
        if name not in TRIPS:
            kind = TaskSubject if name == "switch/task-switch" else BodySubject
            return (OverheadSubject if benchmark.overhead else kind)(self.rig("hardened"), BODIES[name])
        switcher, hypercall = TRIPS[name]
        try:
            return TripSubject(self.rig(switcher or str(self.setting.switcher)), hypercall)
        except Unmeasurable as error:
            return f"{error.message}: {error.cause}"

    def _has_sysenter(self) -> bool:
        return any(entry.function == 1 and entry.edx & SEP for entry in self.kvm.supported_cpuid())


@contextmanager
def subjects(benchmarks: tuple[Benchmark, ...], setting: Setting) -> Iterator[Mapping[str, Subject | str]]:
    """See Suite.  Raises KvmError, KvmhostError or SwitcherError where no Machine can be made."""
    import os

    from kvmhost.kvm import Kvm

    with ExitStack() as stack:
        fd = None if setting.device is None else os.dup(setting.device)
        kvm = stack.enter_context(Kvm(fd=fd))
        rigs = Rigs(setting, kvm, stack)
        yield {benchmark.name: rigs.subject(benchmark) for benchmark in benchmarks}


SUITE: Final = Suite("switch", "World switches, and what they are made of", BENCHMARKS, subjects)
