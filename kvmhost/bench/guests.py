"""Machines of the product that are made to be timed, and taken down again whatever happens.

A machine here is made the way a program makes one that uses kvmhost: /dev/kvm, a Machine, an image, a run.
What a machine cannot do here is a reason why there is no figure, and never the end of the other figures.
"""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from kvmhost._bench import ffi, lib
from kvmhost.bench.errors import Unmeasurable
from kvmhost.bench.floor import DATA
from kvmhost.bench.timed_guest import SLICE_SECONDS, open_kvm
from kvmhost.host.errors import KvmhostError
from kvmhost.host.outcome import Outcome, OutcomeKind
from kvmhost.kvm.errors import KvmError
from kvmhost.launcher.images import OpenImage, open_image
from kvmhost.launcher.machine import Machine

if TYPE_CHECKING:
    from kvmhost.bench.benchmark import Setting
    from kvmhost.host.guest import Guest

#: A Guest that has done nothing for so long, in seconds, will not do it any more.
PATIENCE = 120.0
#: The same where an instruction is a nanosecond, and a second takes its time.
COUNTED_PATIENCE = 20.0


def patience(setting: Setting) -> float:
    """How long a Guest is waited for, in seconds of the host's clock."""
    return COUNTED_PATIENCE if setting.icount else PATIENCE


def clock(setting: Setting) -> Callable[[], int]:
    """What a life is timed by, in nanoseconds: the wall, or this process's own CPU time.

    To make a VM the kernel may or may not wait for others, many times longer than it works.  Who waits for
    it feels that; where instructions are counted it would be a number of none.
    """
    return time.process_time_ns if setting.icount else time.perf_counter_ns


def timed_image() -> OpenImage:
    """The Guest that is timed (native/bench/timed.c), open; to be closed."""
    return open_image(DATA / "timed.elf")


def clean() -> None:
    """Take away what earlier machines left behind, so that nobody pays for it while a clock runs."""
    gc.collect()


@contextmanager
def machine(setting: Setting, memory: str) -> Iterator[Machine]:
    """A Machine with one vCPU for as long as the block runs."""
    with ExitStack() as held:
        kvm = open_kvm(setting)
        held.callback(kvm.close)
        yield held.enter_context(Machine(memory=memory, kvm=kvm, slice_seconds=SLICE_SECONDS))


@contextmanager
def reasons() -> Iterator[None]:
    """What the product refuses inside is Unmeasurable, in the product's own words."""
    try:
        yield
    except (KvmhostError, KvmError) as error:
        raise Unmeasurable(str(error)) from error


def run(machine: Machine, seconds: float, until: Callable[[], bool] | None = None) -> Outcome | None:
    """Run a machine; what became of its first Guest, None if it lives and goes on.

    Ctrl-C ends a run as if nothing had been: here it goes on to whoever waits for it.
    """
    stopped = machine.run(timeout=seconds, until=until)[machine.guests[0]]
    return stopped if machine.guests[0].outcome is not None or stopped.kind is OutcomeKind.TIMED_OUT else None


def interrupted() -> None:
    """A run came to rest, and none of us had asked: it was a signal, and its handler is back in its place."""
    signal.raise_signal(signal.SIGINT)


def ready(machine: Machine) -> Callable[[], bool]:
    """Whether all Guests, each of them the timed one, have started and wait for commands."""
    waiting = [_command(machine, guest) for guest in reversed(machine.guests)]

    def done() -> bool:
        while waiting and waiting[-1].ready == 1:
            waiting.pop()
        return not waiting

    return done


def _command(machine: Machine, guest: Guest) -> Any:
    at = machine.memory.address + guest.state.mem_base + lib.BENCH_REPORT
    return ffi.cast("struct bench_command *", at)


def run_until_ready(machine: Machine, seconds: float) -> None:
    """Run a machine of timed Guests until all of them wait for commands.  Raises Unmeasurable."""
    done = ready(machine)
    outcome = run(machine, seconds, done)
    if done():
        return
    if outcome is None:
        interrupted()
    raise Unmeasurable(f"a Guest did not start: {outcome.reason if outcome else 'it was interrupted'}")
