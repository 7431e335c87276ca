"""Lives of a machine from nothing to nothing: the bare program's, the product's, and many Guests in one."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time_ns
from typing import TYPE_CHECKING

from kvmhost._bench import ffi, lib
from kvmhost._native import lib as product
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
    if setting.icount:
        create, first, destroy = _bare_in_steps(device, text)
    else:
        told = ffi.new("uint64_t[3]")
        check(lib.floor_life(device, text, len(text), told, told + 1, told + 2), "the bare program's VM")
        create, first, destroy = told
    return {
        "machine/bare-create": Sample(float(create), 1),
        "machine/bare-first-instruction": Sample(float(first), 1, {"exits": 1}),
        "machine/bare-destroy": Sample(float(destroy), 1),
    }


def _bare_in_steps(device: int, text: bytes) -> tuple[int, int, int]:
    """The same life by the process's own time, which is no clock of floor_life's."""
    vm, took, now = ffi.new("struct floor_vm *"), ffi.new("struct floor_time *"), process_time_ns
    begun = now()
    check(lib.floor_create(vm, device, text, len(text)), "the bare program's VM")
    try:
        made = now()
        ran = lib.floor_run(vm.vcpu, vm.run, 1, product.KVM_EXIT_IO, took)
        first = now()
    finally:
        before = now()
        lib.floor_destroy(vm)
        ended = now()
    check(ran, "running the bare program")
    return made - begun, first - begun, ended - before


def whole(setting: Setting, image: OpenImage) -> Outcome:
    """One life of the product's Machine with a Guest in it, up to the Guest's first hypercall."""
    guests.clean()
    heard: list[int] = []
    clock = guests.clock(setting)
    with guests.reasons():
        begun = clock()
        with guests.machine(setting, MEMORY) as machine:
            guest = machine.load(image)
            made = clock()

            @guest.on(Trap.HYPERCALL)
            def first(trap: GuestTrap) -> None:
                heard.append(clock())
                machine.stop()

            outcome = guests.run(machine, guests.patience(setting))
            if not heard and outcome is None:
                guests.interrupted()
            exits = machine.cpus[0].c.runs
            before = clock()
        ended = clock()
    if not heard:
        raise Unmeasurable(f"the Guest made no hypercall: {outcome.reason if outcome else ''}")
    return {
        "machine/create": Sample(made - begun, 1),
        "machine/first-instruction": Sample(heard[0] - begun, 1, {"exits": exits}),
        "machine/destroy": Sample(ended - before, 1),
    }


def many(setting: Setting, image: OpenImage, count: int) -> Callable[[int], Sample]:
    """Machines of `count` Guests each, for one Guest of them."""

    clock = guests.clock(setting)

    def once() -> tuple[int, int]:
        guests.clean()
        with guests.reasons():
            begun = clock()
            with guests.machine(setting, MEMORY_OF_MANY) as machine:
                for _ in range(count):
                    machine.load(image)
                guests.run_until_ready(machine, guests.patience(setting))
                return clock() - begun, machine.cpus[0].c.runs

    def sample(loops: int) -> Sample:
        times, exits = zip(*(once() for _ in range(loops)), strict=True)
        return Sample(float(sum(times)), loops * count, {"exits": sum(exits)})

    return sample
