"""Lives of a machine from nothing to nothing: the bare program's, the product's, and many Guests in one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from kvmhost._bench import ffi, lib
from kvmhost.bench import guests
from kvmhost.bench.benchmark import Sample
from kvmhost.bench.doing import Outcome
from kvmhost.bench.errors import Unmeasurable
from kvmhost.bench.floor import check, programs
from kvmhost.host import Trap

if TYPE_CHECKING:
    from kvmhost.bench.benchmark import Setting
    from kvmhost.host.guest_trap import GuestTrap
    from kvmhost.launcher.images import OpenImage

#: What the Guests here have; `hello` and the timed one need less.
MEMORY = "16M"
#: Of many, each has so much: 64 of them must fit below 4 GiB with what the Host needs for each.
MEMORY_OF_MANY = "8M"


def bare(setting: Setting) -> Outcome:
    """One life of the bare program: see floor_life in native/bench/floor.h."""
    text = programs()["port"]
    device = -1 if setting.device is None else setting.device
    create, first, destroy = (ffi.new("uint64_t *") for _ in range(3))
    check(lib.floor_life(device, text, len(text), create, first, destroy), "the bare program's VM")
    return {
        "machine/bare-create": Sample(float(create[0]), 1),
        "machine/bare-first-instruction": Sample(float(first[0]), 1, {"exits": 1}),
        "machine/bare-destroy": Sample(float(destroy[0]), 1),
    }


def whole(setting: Setting, image: OpenImage) -> Outcome:
    """One life of the product's Machine with a Guest in it, up to the Guest's first hypercall."""
    guests.clean()
    heard: list[int] = []
    with guests.reasons():
        begun = time.perf_counter_ns()
        with guests.machine(setting, MEMORY) as machine:
            guest = machine.load(image)
            made = time.perf_counter_ns()

            @guest.on(Trap.HYPERCALL)
            def first(trap: GuestTrap) -> None:
                heard.append(time.perf_counter_ns())
                machine.stop()

            outcome = guests.run(machine, guests.patience(setting))
            if not heard and outcome is None:
                guests.interrupted()
            exits = machine.cpus[0].c.runs
            before = time.perf_counter_ns()
        ended = time.perf_counter_ns()
    if not heard:
        raise Unmeasurable(f"the Guest made no hypercall: {outcome.reason if outcome else ''}")
    return {
        "machine/create": Sample(made - begun, 1),
        "machine/first-instruction": Sample(heard[0] - begun, 1, {"exits": exits}),
        "machine/destroy": Sample(ended - before, 1),
    }


def many(setting: Setting, image: OpenImage, count: int) -> Callable[[int], Sample]:
    """Machines of `count` Guests each, for one Guest of them."""

    def once() -> tuple[int, int]:
        guests.clean()
        with guests.reasons():
            begun = time.perf_counter_ns()
            with guests.machine(setting, MEMORY_OF_MANY) as machine:
                for _ in range(count):
                    machine.load(image)
                guests.run_until_ready(machine, guests.patience(setting))
                return time.perf_counter_ns() - begun, machine.cpus[0].c.runs

    def sample(loops: int) -> Sample:
        times, exits = zip(*(once() for _ in range(loops)), strict=True)
        return Sample(float(sum(times)), loops * count, {"exits": sum(exits)})

    return sample
