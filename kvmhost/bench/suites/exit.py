"""What it costs to leave a VM and come back, and what every layer above the bare system call adds.

Two things are timed here.  The kinds of exits are taken from a VM that is nothing but ioctls (native/bench),
so that they are the kernel's own price.  The layers are all held over the same trap: the product's Host,
Switcher and Guest, which makes one hypercall after the other; only who calls KVM_RUN differs, from a loop in
C up to a handler in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from kvmhost.bench.benchmark import Benchmark, Sample, Setting, Subject, Suite, Unit

KINDS, LAYERS = "exits", "layers"
_FLOOR = (
    "timed in C around a loop of KVM_RUN, by the monotonic clock; the same loop around a call of an empty "
    "function, with the two readings of the clock, is subtracted"
)
#: CPUIDs between two exits of the program that times them.
CPUIDS = 1000


def _kind(name: str, says: str, **more: tuple[str, ...] | str | bool) -> Benchmark:
    return Benchmark(
        f"exit/{name}",
        says,
        Unit.NANOSECONDS,
        KINDS,
        minus=("exit/nothing",),
        reference="exit/port",
        **more,  # type: ignore[arg-type]
    )


def _layer(name: str, says: str, minus: str) -> Benchmark:
    return Benchmark(
        f"exit/{name}",
        says,
        Unit.NANOSECONDS,
        LAYERS,
        minus=(minus,),
        reference="exit/c-loop",
        needs=("paging32",),
    )


_TRAP = (
    "One hypercall of a Guest at ring 1 that finds nothing to do, again and again: out of the Guest by the "
    "hardened Switcher, out of the VM by the Host's OUT, and back in"
)

BENCHMARKS = (
    Benchmark(
        "exit/nothing",
        "A loop in C around a call of an empty function, and the readings of the clock around it.",
        Unit.NANOSECONDS,
        KINDS,
        overhead=True,
    ),
    _kind("port", f"OUT to a port that is nobody's: from KVM_RUN to KVM_RUN's return, {_FLOOR}."),
    _kind("mmio-read", f"MOV from memory that is not there; KVM decodes the instruction.  {_FLOOR}."),
    _kind("mmio-write", f"MOV to memory that is not there.  {_FLOOR}."),
    _kind("hlt", f"HLT in a VM without interrupt controllers in the kernel.  {_FLOOR}."),
    _kind(
        "interrupt-window",
        "KVM_RUN with request_interrupt_window, in a Guest that could take an interrupt at any instruction: "
        f"KVM returns as soon as it has seen that.  {_FLOOR}.",
    ),
    Benchmark(
        "exit/cpuid-loop",
        f"{CPUIDS} rounds of the loop around CPUID, without CPUID, and one exit by OUT; for one round of it.",
        Unit.NANOSECONDS,
        KINDS,
        overhead=True,
    ),
    Benchmark(
        "exit/cpuid",
        "CPUID, which leaves the Guest but not the kernel: KVM answers it.  "
        f"{CPUIDS} of them stand between two exits; the same loop without CPUID is subtracted.",
        Unit.NANOSECONDS,
        KINDS,
        minus=("exit/cpuid-loop",),
        reference="exit/port",
    ),
    _kind(
        "shared-memory",
        "An OUT, and 18 words of memory that the VM shares with us read and written, as many as a Guest has "
        f"registers: how kvmhost looks at a trap.  {_FLOOR}.",
    ),
    _kind(
        "register-ioctls",
        "An OUT, and KVM_GET_REGS and KVM_SET_REGS, as a Host that shares no memory has to look at a trap.  "
        f"{_FLOOR}.",
    ),
    Benchmark(
        "exit/loop-in-c",
        "A loop in C around a call of an empty function, and the readings of the clock.",
        Unit.NANOSECONDS,
        LAYERS,
        overhead=True,
    ),
    Benchmark(
        "exit/loop-in-python",
        "A for loop in Python over a range with nothing in it, and the two readings of the clock.",
        Unit.NANOSECONDS,
        LAYERS,
        overhead=True,
    ),
    Benchmark(
        "exit/no-traps",
        "A run of the machine in which the Guest wakes, finds that nothing is to be done, and halts again.",
        Unit.NANOSECONDS,
        LAYERS,
        overhead=True,
        needs=("paging32",),
    ),
    Benchmark(
        "exit/no-traps-hooked",
        "The same with a handler of the user's on hypercalls.",
        Unit.NANOSECONDS,
        LAYERS,
        overhead=True,
        needs=("paging32",),
    ),
    _layer(
        "c-loop",
        f"{_TRAP}; a bare loop in C calls KVM_RUN and looks at the exit reason.  "
        "The empty loop is subtracted.",
        "exit/loop-in-c",
    ),
    _layer(
        "shim-loop",
        f"{_TRAP}; a loop in C calls kvmhost_enter, the shim's whole work for a trap.  The empty loop is "
        "subtracted.",
        "exit/loop-in-c",
    ),
    _layer("cffi", f"{_TRAP}; a loop in Python calls KVM_RUN by a cffi function.", "exit/loop-in-python"),
    _layer("ctypes", f"{_TRAP}; a loop in Python calls ioctl(2) by ctypes.", "exit/loop-in-python"),
    _layer("fcntl", f"{_TRAP}; a loop in Python calls fcntl.ioctl.", "exit/loop-in-python"),
    _layer(
        "cffi-shim",
        f"{_TRAP}; a loop in Python calls kvmhost_enter by cffi, as the product does.",
        "exit/loop-in-python",
    ),
    _layer(
        "python-handler",
        f"{_TRAP}; the product's run loop as it is, which asks Python what the hypercall means and does it.  "
        "A run of the machine without a hypercall is subtracted.",
        "exit/no-traps",
    ),
    _layer(
        "python-hook",
        f"{_TRAP}; the same with a handler of the user's that lets the Host go on.  A run without a "
        "hypercall is subtracted.",
        "exit/no-traps-hooked",
    ),
)


@contextmanager
def subjects(benchmarks: tuple[Benchmark, ...], setting: Setting) -> Iterator[Mapping[str, Subject | str]]:
    """The subjects of one of the two groups."""
    with ExitStack() as held:
        if benchmarks[0].group == KINDS:
            yield {benchmark.name: _floor(benchmark.name, setting, held) for benchmark in benchmarks}
        else:
            layers = _Layers(setting, held)
            yield {benchmark.name: layers.subject(benchmark.name) for benchmark in benchmarks}


SUITE = Suite("exit", "Leaving the VM", BENCHMARKS, subjects)


# ---- kinds of exits: a VM of bare ioctls --------------------------------------------------


def _floor(name: str, setting: Setting, held: ExitStack) -> Subject:
    from kvmhost.bench.floor import FloorVm, nothing
    from kvmhost.bench.subject import Called

    def made(program: str) -> FloorVm:
        return held.enter_context(FloorVm(program, setting))

    match name.removeprefix("exit/"):
        case "nothing":
            return Called(nothing)
        case "port":
            return Called(made("port").run)
        case "mmio-read":
            return Called(made("mmio").run)
        case "mmio-write":
            return Called(made("mmio_write").run)
        case "hlt":
            return Called(made("hlt").run)
        case "interrupt-window":
            return Called(made("window").window)
        case "cpuid-loop":
            return Called(made("no_cpuid").many(CPUIDS))
        case "cpuid":
            return Called(made("cpuid").many(CPUIDS))
        case "shared-memory":
            return Called(made("port").shared)
        case _:
            return Called(made("port").registers)


# ---- layers over one trap: the product ----------------------------------------------------


class _Layers:
    """Two machines: in one the Guest spins for whoever calls KVM_RUN, the other obeys commands."""

    def __init__(self, setting: Setting, held: ExitStack) -> None:
        from kvmhost.bench.layers import Spinning
        from kvmhost.bench.timed_guest import TimedGuest

        self._spinning = held.enter_context(Spinning(setting))
        self._plain = held.enter_context(TimedGuest(setting))
        self._hooked = held.enter_context(TimedGuest(setting))
        self._hooked.hook()

    def subject(self, name: str) -> Subject:
        """The one of that name."""
        from kvmhost.bench import floor, layers
        from kvmhost.bench.subject import Called

        spinning = self._spinning
        calls: dict[str, Callable[[int], Sample]] = {
            "loop-in-c": floor.nothing,
            "loop-in-python": layers.python_loop,
            "c-loop": spinning.c_loop,
            "shim-loop": spinning.shim_loop,
            "cffi": spinning.cffi,
            "ctypes": spinning.ctypes,
            "fcntl": spinning.fcntl,
            "cffi-shim": spinning.cffi_shim,
            "no-traps": self._plain.outside_nothing,
            "no-traps-hooked": self._hooked.outside_nothing,
            "python-handler": self._plain.outside_hypercalls,
            "python-hook": self._hooked.outside_hypercalls,
        }
        return Called(calls[name.removeprefix("exit/")])
