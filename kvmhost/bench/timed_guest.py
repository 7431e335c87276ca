"""The Guest that is timed, seen from outside: a command is written to its memory, and it does it.

Between two commands it sleeps in HALT, so a run of the machine ends there by itself.  Everything on the way
is the product's own: its Host, its shim, its Switcher.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from kvmhost._bench import ffi, lib
from kvmhost._native import lib as product
from kvmhost.bench import watched
from kvmhost.bench.benchmark import Sample
from kvmhost.bench.errors import WorkerBroke
from kvmhost.bench.floor import DATA
from kvmhost.host import Trap
from kvmhost.kvm import Kvm

if TYPE_CHECKING:
    from kvmhost.bench.benchmark import Setting
    from kvmhost.host.guest_trap import GuestTrap
    from kvmhost.launcher.machine import Machine

#: A Guest is alone on its vCPU here; nobody should take it away.
SLICE_SECONDS = 3600.0
#: Operations in a sample at least, also where one is asked for: what is around them is Python, and no two
#: runs of it are quite the same.
LEAST = 32
#: The hypercall of BENCH_HYPERCALL.
REPEATED = "FLUSH_ASYNC"
#: A command that takes longer is lost, in seconds.
PATIENCE = 600.0
MEMORY = 16 << 20


def open_kvm(setting: Setting) -> Kvm:
    """/dev/kvm: the descriptor that was opened for us, or by its name."""
    return Kvm() if setting.device is None else Kvm(fd=os.dup(setting.device))


class TimedGuest:
    """A Machine with the Guest in it, waiting for commands.

    switcher: "hardened", "seed" or a file.  command_line: "pae" for tables in that
    format.  Raises what a Machine raises where none can be had.
    """

    def __init__(self, setting: Setting, switcher: str = "hardened", command_line: str = "") -> None:
        from kvmhost.launcher.machine import Machine

        self._kvm = open_kvm(setting)
        self._calls: int | None = None
        self.machine: Machine | None = None
        try:
            self.machine = Machine(
                memory=MEMORY, switcher=switcher, kvm=self._kvm, slice_seconds=SLICE_SECONDS
            )
            self.guest = self.machine.load(DATA / "timed.elf", command_line)
            at = self.machine.memory.address + self.guest.state.mem_base + lib.BENCH_REPORT
            self.command: Any = ffi.cast("struct bench_command *", at)
            self._run(lambda: self.command.ready == 1)
        except BaseException:
            self.close()
            raise

    def do(self, routine: int, loops: int, arguments: Sequence[int] = ()) -> int:
        """Have a routine (BENCH_*) done `loops` times; cycles of the counter as the Guest read it."""
        command = self.command
        command.routine, command.loops = routine, loops
        for index, argument in enumerate(arguments):
            command.arguments[index] = argument
        command.number += 1
        self.guest.post(lib.BENCH_IRQ)
        self._run(lambda: command.done == command.number)
        return int(command.cycles)

    def inside(self, routine: int, arguments: Sequence[int] = ()) -> Callable[[int], Sample]:
        """A routine by the Guest's own count of cycles, with the exits it took."""

        def sample(loops: int) -> Sample:
            assert self.machine is not None
            c = self.machine.cpus[0].c
            runs, number = c.runs, max(loops, LEAST)
            cycles = self.do(routine, number, arguments)
            return Sample(cycles, number, {"exits": c.runs - runs})

        return sample

    def begin(self, routine: int, loops: int) -> None:
        """Have a routine of hypercalls begun, and stop at the first of them; nobody answers it."""
        assert self.machine is not None
        machine, seen = self.machine, []

        @self.guest.on(Trap.HYPERCALL)
        def stop(trap: GuestTrap) -> None:
            seen.append(trap.hypercall)
            if trap.hypercall is not None and trap.hypercall.name == REPEATED:
                machine.stop()
            trap.default()

        self.command.routine, self.command.loops = routine, loops
        self.command.number += 1
        self.guest.post(lib.BENCH_IRQ)
        machine.run(timeout=PATIENCE)
        self.guest.off(Trap.HYPERCALL, stop)
        product.kvmhost_take(machine.cpus[0].c)  # stop() asked for attention, and had it
        if not seen or self.guest.outcome is not None:
            raise WorkerBroke("the Guest that is timed did not begin", cause=str(self.guest.outcome))

    def hook(self) -> None:
        """From now on a handler of ours is asked about each hypercall, and lets the Host go on."""

        @self.guest.on(Trap.HYPERCALL)
        def watch(trap: GuestTrap) -> None:
            trap.default()

    def outside_nothing(self, loops: int) -> Sample:
        """A run of the machine without an operation in it, for so many operations."""
        return self._outside(lib.BENCH_NOTHING, 0, max(loops, LEAST))

    def outside_hypercalls(self, loops: int) -> Sample:
        """Hypercalls by the clock outside, with the run of the machine around them."""
        if self._calls is None:
            self._calls = watched.each(lambda number: self.do(lib.BENCH_HYPERCALL, number))
        number = max(loops, LEAST)
        sample = self._outside(lib.BENCH_HYPERCALL, number, number)
        return Sample(sample.total, number, {**sample.counts, "ioctls": self._calls * number})

    def _outside(self, routine: int, inside: int, loops: int) -> Sample:
        assert self.machine is not None
        c = self.machine.cpus[0].c
        runs, before = c.runs, time.perf_counter_ns()
        self.do(routine, inside)
        nanoseconds = time.perf_counter_ns() - before
        return Sample(nanoseconds, loops, {"exits": c.runs - runs})

    def _run(self, done: Any) -> None:
        assert self.machine is not None
        self.machine.run(timeout=PATIENCE, until=done)
        if self.guest.outcome is not None:
            raise WorkerBroke("the Guest that is timed ended", cause=str(self.guest.outcome))
        if not done():
            raise WorkerBroke(f"the Guest that is timed did not answer within {PATIENCE:g} s")

    def close(self) -> None:
        """Free the machine and the device."""
        if self.machine is not None:
            self.machine.close()
        self._kvm.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
