"""One trap, and everybody who could call KVM_RUN for it.

The Guest makes a hypercall that finds nothing to do, for ever.  Nobody answers it: each KVM_RUN lets it
return and make the next one.  So the way in and out is the product's, and what is around KVM_RUN is the
caller's.
"""

from __future__ import annotations

import time
from ctypes import CDLL, c_int, c_ulong
from fcntl import ioctl
from typing import TYPE_CHECKING

from kvmhost._bench import ffi, lib
from kvmhost._native import ffi as product_ffi
from kvmhost._native import lib as product
from kvmhost.bench import watched
from kvmhost.bench.benchmark import Sample
from kvmhost.bench.errors import Unmeasurable
from kvmhost.bench.floor import timed
from kvmhost.bench.timed_guest import TimedGuest

if TYPE_CHECKING:
    from kvmhost.bench.benchmark import Setting

#: More hypercalls than anybody will sit through.
FOR_EVER = 0xFFFFFFFF


def python_loop(loops: int) -> Sample:
    """A loop in Python with nothing in it."""
    before = time.perf_counter_ns()
    for _ in range(loops):
        pass
    return Sample(time.perf_counter_ns() - before, loops)


class Spinning(TimedGuest):
    """A Guest in the middle of its hypercalls, and its vCPU for whoever wants to run it."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        try:
            assert self.machine is not None
            self.begin(int(lib.BENCH_HYPERCALL), FOR_EVER)
            cpu = self.machine.cpus[0]
            self._cpu, self._c = cpu, cpu.c
            self._fd, self._run_page = cpu.vcpu.fd, ffi.cast("void *", address(cpu.vcpu.run_page))
            self._request = int(lib.floor_run_request())
            self._enter = ffi.cast("floor_enter", address(product_ffi.addressof(product, "kvmhost_enter")))
            self._struct = ffi.cast("void *", address(self._c))
            self._shim_calls: int | None = None
            self._ioctl = CDLL(None, use_errno=True).ioctl
            self._ioctl.argtypes = (c_int, c_ulong, c_ulong)
        except BaseException:
            self.close()
            raise

    def c_loop(self, loops: int) -> Sample:
        """KVM_RUN from C, and a look at the exit reason."""
        reason = int(product.KVM_EXIT_IO)
        return timed(
            lambda took: int(lib.floor_run(self._fd, self._run_page, loops, reason, took)),
            loops,
            exits=loops,
            ioctls=0,
        )

    def shim_loop(self, loops: int) -> Sample:
        """kvmhost_enter from C."""
        if self._shim_calls is None:
            self._shim_calls = watched.each(self._shim_time)
        before = self._c.runs
        sample = self._shim_time(loops)
        return Sample(
            sample.total, loops, {"exits": self._c.runs - before, "ioctls": self._shim_calls * loops}
        )

    def _shim_time(self, loops: int) -> Sample:
        return timed(
            lambda took: int(
                lib.floor_enter_loop(self._enter, self._struct, loops, int(product.LEFT_TRAP), took)
            ),
            loops,
        )

    def cffi(self, loops: int) -> Sample:
        """KVM_RUN from Python by a function of C."""
        fd, page, reason, took = (
            self._fd,
            self._run_page,
            int(product.KVM_EXIT_IO),
            ffi.new("struct floor_time *"),
        )
        run = lib.floor_run
        before = time.perf_counter_ns()
        for _ in range(loops):
            run(fd, page, 1, reason, took)
        return self._checked(time.perf_counter_ns() - before, loops)

    def ctypes(self, loops: int) -> Sample:
        """KVM_RUN from Python by ctypes."""
        fd, request, call = self._fd, self._request, self._ioctl
        before = time.perf_counter_ns()
        for _ in range(loops):
            call(fd, request, 0)
        return self._checked(time.perf_counter_ns() - before, loops)

    def fcntl(self, loops: int) -> Sample:
        """KVM_RUN from Python by the standard library."""
        fd, request, call = self._fd, self._request, ioctl
        before = time.perf_counter_ns()
        for _ in range(loops):
            call(fd, request, 0)
        return self._checked(time.perf_counter_ns() - before, loops)

    def cffi_shim(self, loops: int) -> Sample:
        """kvmhost_enter from Python, as the product calls it."""
        enter, c = product.kvmhost_enter, self._c
        before = time.perf_counter_ns()
        for _ in range(loops):
            enter(c)
        return self._checked(time.perf_counter_ns() - before, loops)

    def _checked(self, nanoseconds: int, loops: int) -> Sample:
        """The Guest is still where it should be.  Raises Unmeasurable."""
        if lib.floor_exit_reason(self._run_page) != product.KVM_EXIT_IO:
            raise Unmeasurable("the Guest left its loop of hypercalls")
        return Sample(nanoseconds, loops, {"exits": loops, "ioctls": 0})


def address(pointer: object) -> int:
    """Where something of the product's module lies, as a number that the other module takes."""
    return int(product_ffi.cast("uintptr_t", pointer))
