"""A VM of bare ioctls and the loops in C around it, as subjects take them.  See native/bench/floor.h."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from kvmhost._bench import ffi, lib
from kvmhost._native import lib as product
from kvmhost.bench.benchmark import Sample
from kvmhost.bench.errors import Unmeasurable

if TYPE_CHECKING:
    from kvmhost.bench.benchmark import Setting

DATA = Path(__file__).parent.parent / "data" / "bench"
#: What ends KVM_RUN in each program, if it is not an OUT.
REASONS = {
    "mmio": int(product.KVM_EXIT_MMIO),
    "mmio_write": int(product.KVM_EXIT_MMIO),
    "hlt": int(product.KVM_EXIT_HLT),
}


@cache
def programs() -> dict[str, bytes]:
    """The programs of native/bench/programs.S by name."""
    told: dict[str, str] = json.loads((DATA / "programs.json").read_text())
    return {name: bytes.fromhex(text) for name, text in told.items()}


def check(result: int, what: str) -> None:
    """Raises Unmeasurable for a -errno of the floor's."""
    if result < 0:
        raise Unmeasurable(f"{what} failed: {os.strerror(-result)}", next_step="see `kvmhost doctor`")


def timed(call: Callable[[Any], int], loops: int, **counts: int) -> Sample:
    """A sample of one of the floor's loops, by the wall clock.

    Raises Unmeasurable if KVM refused, or if an exit was another than the one that is measured.
    """
    time = ffi.new("struct floor_time *")
    check(call(time), "running the vCPU")
    if time.other_exits:
        raise Unmeasurable(f"{time.other_exits} of {loops} exits were other ones than the one measured")
    return Sample(float(time.wall_ns), loops, counts)


def nothing(loops: int) -> Sample:
    """The loop alone."""
    return timed(lambda time: int(lib.floor_nothing(loops, time)), loops)


class FloorVm:
    """A VM with one of the programs in it.  Raises Unmeasurable where KVM does not make it."""

    def __init__(self, program: str, setting: Setting) -> None:
        text = programs()[program]
        self._vm = ffi.new("struct floor_vm *")
        device = -1 if setting.device is None else setting.device
        check(lib.floor_create(self._vm, device, text, len(text)), "making a VM")
        self._reason = REASONS.get(program, int(product.KVM_EXIT_IO))
        self._shared = ffi.new("uint32_t[]", lib.FLOOR_FRAME_WORDS)

    def run(self, loops: int) -> Sample:
        """Exits, and nothing else."""
        vm = self._vm
        return timed(
            lambda time: int(lib.floor_run(vm.vcpu, vm.run, loops, self._reason, time)), loops, exits=loops
        )

    def window(self, loops: int) -> Sample:
        """Interrupt windows."""
        vm = self._vm
        return timed(lambda time: int(lib.floor_run_window(vm.vcpu, vm.run, loops, time)), loops, exits=loops)

    def shared(self, loops: int) -> Sample:
        """Exits, and a frame in shared memory read and written."""
        vm = self._vm
        return timed(
            lambda time: int(lib.floor_run_shared(vm.vcpu, vm.run, loops, self._reason, self._shared, time)),
            loops,
            exits=loops,
            ioctls=0,
        )

    def registers(self, loops: int) -> Sample:
        """Exits, and the registers by ioctls."""
        vm = self._vm
        return timed(
            lambda time: int(lib.floor_run_registers(vm.vcpu, vm.run, loops, self._reason, time)),
            loops,
            exits=loops,
            ioctls=2 * loops,
        )

    def many(self, inside: int) -> Callable[[int], Sample]:
        """Operations inside the VM, so many between two exits."""

        def run(loops: int) -> Sample:
            exits = -(-loops // inside)
            return Sample(self.run(exits).total, exits * inside)

        return run

    def close(self) -> None:
        """Free it."""
        lib.floor_destroy(self._vm)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
