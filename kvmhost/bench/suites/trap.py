"""What a trap costs by where it is handled: at ring 1 without anybody's help, in the shim, or in Python.

What the Guest does itself is timed by the Guest, with the time-stamp counter.  What is done to it from
outside (an interrupt, a kick, an NMI) is timed outside, by a second thread in C, until it shows in shared
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from kvmhost.bench.benchmark import Benchmark, Sample, Setting, Subject, Suite, Unit

INSIDE, OUTSIDE = "inside", "outside"
#: Why nothing of two threads is told where instructions are counted.
TURNS = (
    "it takes two CPUs at once, and in a lab that counts instructions threads take turns (try --lab-times)"
)
_LOOP = "The empty loop, with the readings of the counter, is subtracted."


def _inside(name: str, says: str) -> Benchmark:
    return Benchmark(
        f"trap/{name}",
        f"{says}  {_LOOP}",
        Unit.CYCLES,
        INSIDE,
        minus=("trap/loop",),
        reference="trap/hypercall",
        needs=("paging32",),
    )


def _outside(name: str, says: str) -> Benchmark:
    return Benchmark(
        f"trap/{name}",
        f"{says}  Timed by a second thread, by the monotonic clock; the same waiting for the Guest alone is "
        "the overhead that is subtracted.",
        Unit.NANOSECONDS,
        OUTSIDE,
        minus=("trap/waiting",),
        reference="trap/kick",
        needs=("paging32",),
    )


BENCHMARKS = (
    Benchmark(
        "trap/loop",
        "A loop at ring 1 with nothing in it, between two serialised readings of the counter.",
        Unit.CYCLES,
        INSIDE,
        overhead=True,
        needs=("paging32",),
    ),
    _inside(
        "system-call",
        "INT 0x80 at ring 3, straight to a handler at ring 1 that is one IRET: the Host hears nothing of it.",
    ),
    _inside(
        "exception-direct",
        "INT3 at ring 1 through a trap gate, straight to a handler at ring 1 that is one IRET.",
    ),
    _inside(
        "exception-reflected",
        "The same through an interrupt gate: out of the Guest, out of the VM, and Python reflects it into "
        "the Guest's handler.",
    ),
    _inside("hypercall", "A hypercall that finds nothing to do (FLUSH_ASYNC), answered in Python."),
    _inside("hypercall-hooked", "The same with a handler of the user's in Python that lets the Host go on."),
    _inside(
        "hypercall-queued",
        "A call (TS) put into the async ring, and its part of the hypercalls that empty the ring.",
    ),
    _inside("cpuid", "CPUID at ring 1: it faults, and Python answers from the Guest's own table."),
    _inside("port-read", "IN from a port that is nobody's, emulated in Python."),
    Benchmark(
        "trap/waiting",
        "The second thread waits until the spinning Guest has shown that it runs, twice.",
        Unit.NANOSECONDS,
        OUTSIDE,
        overhead=True,
        needs=("paging32",),
    ),
    _outside(
        "kick",
        "A kick by irqfd that nobody asked for: until the shim, which sees that there is nothing to do and "
        "goes back in, has counted it.",
    ),
    _outside(
        "attention",
        "kvmhost_post, which wakes Python: until Python has taken what was posted.",
    ),
    _outside(
        "virtual-interrupt",
        "An interrupt for the Guest, posted: until the Guest's handler at ring 1 has counted it.",
    ),
    _outside(
        "nmi",
        "An NMI to the vCPU in the Guest: a whole switch to the Host's vector 2, until the shim has counted "
        "it and before Python is told.",
    ),
)


@contextmanager
def subjects(benchmarks: tuple[Benchmark, ...], setting: Setting) -> Iterator[Mapping[str, Subject | str]]:
    """The subjects of one of the two groups."""
    from kvmhost.bench.subject import Called

    if benchmarks[0].group == OUTSIDE and setting.icount:
        yield {benchmark.name: TURNS for benchmark in benchmarks}
        return
    with ExitStack() as held:
        make = _inside_calls if benchmarks[0].group == INSIDE else _outside_calls
        calls = make(setting, held)
        yield {benchmark.name: Called(calls[benchmark.name.partition("/")[2]]) for benchmark in benchmarks}


SUITE = Suite("trap", "Traps, by where they are handled", BENCHMARKS, subjects)

Call = Callable[[int], Sample]


def _inside_calls(setting: Setting, held: ExitStack) -> dict[str, Call]:
    from kvmhost._bench import lib
    from kvmhost.bench.timed_guest import TimedGuest

    plain = held.enter_context(TimedGuest(setting))
    hooked = held.enter_context(TimedGuest(setting))
    hooked.hook()
    return {
        "loop": plain.inside(lib.BENCH_NOTHING),
        "system-call": plain.inside(lib.BENCH_USER),
        "exception-direct": plain.inside(lib.BENCH_EXCEPTION_DIRECT),
        "exception-reflected": plain.inside(lib.BENCH_EXCEPTION_BOUNCED),
        "hypercall": plain.inside(lib.BENCH_HYPERCALL),
        "hypercall-hooked": hooked.inside(lib.BENCH_HYPERCALL),
        "hypercall-queued": plain.inside(lib.BENCH_RING_HYPERCALL),
        "cpuid": plain.inside(lib.BENCH_CPUID),
        "port-read": plain.inside(lib.BENCH_PORT),
    }


def _outside_calls(setting: Setting, held: ExitStack) -> dict[str, Call]:
    from kvmhost.bench.provoked import Provoked

    guest = held.enter_context(Provoked(setting))
    return {
        "waiting": guest.waiting,
        "kick": guest.kick,
        "attention": guest.attention,
        "virtual-interrupt": guest.interrupt,
        "nmi": guest.nmi,
    }
