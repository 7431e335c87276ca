"""What a machine costs: to make, to come to a Guest's first instruction, to take down, and to have.

The measure is a program in C that makes the shortest way to a vCPU by bare ioctls (native/bench/floor.c).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from kvmhost.bench.benchmark import Benchmark, Setting, Subject, Suite, Unit

LIFE, MEMORY, MANY, COMMAND = "life", "memory", "many", "command"
#: Why a command is not run where instructions are counted.
COUNTED = "it is for seconds, and here it would be a billion instructions of Python's start (try --lab-times)"
#: How many Guests at once.
NUMBERS = (1, 4, 16, 64)
_BARE = "The bare C program: one VM by ioctls, 1 MiB of memory, no interrupt controllers, flat ring 0."
_OURS = (
    "A program in Python that has imported kvmhost: a Machine with one vCPU, and one Guest of 16 MiB from an "
    "image whose pages are in memory."
)
_CLEAN = "Python's garbage of earlier lives is collected before the clock runs."


def _life(name: str, says: str) -> Benchmark:
    return Benchmark(
        f"machine/{name}",
        f"{says}  By the monotonic clock, or where instructions are counted, those of this process; "
        "nothing is subtracted.",
        Unit.NANOSECONDS,
        LIFE,
        reference="machine/bare-first-instruction",
        needs=() if name.startswith("bare") else ("paging32",),
    )


BENCHMARKS = (
    _life("bare-create", f"{_BARE}  From before /dev/kvm is opened until the vCPU has its registers."),
    _life(
        "bare-first-instruction",
        f"{_BARE}  From before /dev/kvm is opened until KVM_RUN has returned from the first instruction, an "
        "OUT.",
    ),
    _life("bare-destroy", f"{_BARE}  Unmapping and closing all of it, when it has run."),
    _life(
        "create",
        f"{_OURS}  From before /dev/kvm is opened until the Guest is loaded and its registers are set.  "
        f"{_CLEAN}",
    ),
    _life(
        "first-instruction",
        f"{_OURS}  From before /dev/kvm is opened until a handler hears of the first hypercall, which is the "
        "Guest's 11th instruction; the page faults that bring in its first pages are part of it, as is the "
        f"way of the trap up to Python.  {_CLEAN}",
    ),
    _life(
        "destroy",
        f"{_OURS}  From the end of its run until everything is closed and unmapped, and its threads have "
        "ended.",
    ),
    Benchmark(
        "machine/memory-beside-guest",
        "A new process, Python included, that has made a Machine and run one Guest of 16 MiB until it "
        "halts: all that it has in memory (Rss of /proc/self/smaps_rollup, in which pages shared with other "
        "processes count whole) when the Guest's own memory has been given back to the kernel.  The Host, "
        "the Guest's shadow tables and all libraries count; what KVM has in the kernel does not.",
        Unit.BYTES,
        MEMORY,
        needs=("paging32",),
    ),
    *(
        Benchmark(
            f"machine/guests-{number}",
            f"One Machine with one vCPU and {number} Guests of 8 MiB in one process: from before /dev/kvm is "
            "opened until each has started, made its tables and halts; divided by the number of Guests.  "
            "By the monotonic clock, or where instructions are counted, those of this process.  "
            f"{_CLEAN}  Nothing is subtracted.",
            Unit.NANOSECONDS,
            MANY,
            reference="machine/guests-1",
            needs=("paging32",),
        )
        for number in NUMBERS
    ),
    Benchmark(
        "machine/run-command-first-instruction",
        "`kvmhost run hello` as a process of its own, by the Python that measures: from before it is started "
        "until the first byte of the Guest's text can be read.  So the start of Python and all that the "
        "Guest does before its first word are part of it, and the first instruction was earlier.  Nothing "
        "is subtracted.",
        Unit.NANOSECONDS,
        COMMAND,
        needs=("paging32",),
    ),
)


@contextmanager
def subjects(benchmarks: tuple[Benchmark, ...], setting: Setting) -> Iterator[Mapping[str, Subject | str]]:
    """The subjects of one of the four groups."""
    with ExitStack() as held:
        make = {LIFE: _lives, MEMORY: _beside, MANY: _many, COMMAND: _command}[benchmarks[0].group]
        made = make(setting, held)
        yield {benchmark.name: made[benchmark.name] for benchmark in benchmarks}


SUITE = Suite("machine", "Machines, from nothing to nothing", BENCHMARKS, subjects)


def _lives(setting: Setting, held: ExitStack) -> dict[str, Subject | str]:
    from kvmhost.bench import lives
    from kvmhost.bench.doing import Doing
    from kvmhost.bench.guests import timed_image

    image = held.enter_context(timed_image())
    bare = Doing(lambda: lives.bare(setting), shared=setting.icount)
    ours = Doing(lambda: lives.whole(setting, image), shared=setting.icount)
    names = [benchmark.name for benchmark in BENCHMARKS if benchmark.group == LIFE]
    return {name: (bare if "/bare-" in name else ours).subject(name) for name in names}


def _beside(setting: Setting, held: ExitStack) -> dict[str, Subject | str]:
    from kvmhost.bench.processes import beside_guest
    from kvmhost.bench.subject import Called

    return {"machine/memory-beside-guest": Called(lambda loops: beside_guest(setting))}


def _many(setting: Setting, held: ExitStack) -> dict[str, Subject | str]:
    from kvmhost.bench import lives
    from kvmhost.bench.guests import timed_image
    from kvmhost.bench.subject import Called

    image = held.enter_context(timed_image())
    return {f"machine/guests-{number}": Called(lives.many(setting, image, number)) for number in NUMBERS}


def _command(setting: Setting, held: ExitStack) -> dict[str, Subject | str]:
    from kvmhost.bench.processes import no_command, run_command
    from kvmhost.bench.subject import Called

    reason = COUNTED if setting.icount else no_command()
    return {"machine/run-command-first-instruction": reason or Called(run_command)}
