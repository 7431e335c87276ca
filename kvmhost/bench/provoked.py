"""A Guest that spins while somebody outside does things to it, and how long until they show.

The machine runs in a thread of its own; the provoking and the waiting are one function of C (see floor.h), so
that Python is in the way only where it belongs to what is measured.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from kvmhost._bench import ffi, lib
from kvmhost._native import ffi as product_ffi
from kvmhost._native import lib as product
from kvmhost.bench.benchmark import Sample
from kvmhost.bench.errors import Unmeasurable
from kvmhost.bench.layers import address
from kvmhost.bench.timed_guest import PATIENCE, TimedGuest
from kvmhost.host import Trap

if TYPE_CHECKING:
    from kvmhost.bench.benchmark import Setting


class Provoked(TimedGuest):
    """The Guest, spinning."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._thread: threading.Thread | None = None
        assert self.machine is not None
        self._cpu = self.machine.cpus[0]
        self._vm_fd = self.machine.vm.fd
        self._at = int(ffi.cast("uintptr_t", self.command))
        post = address(product_ffi.addressof(product, "kvmhost_post"))
        self._post = ffi.cast("floor_post", post)
        self._struct = ffi.cast("void *", address(self._cpu.c))
        try:
            self.command.stop = 0
            self.command.routine, self.command.loops = lib.BENCH_SPIN, 1
            self.command.number += 1
            self.guest.post(lib.BENCH_IRQ)
            self._thread = threading.Thread(target=self._spin, name="the Guest that spins")
            self._thread.start()
        except BaseException:
            self.close()
            raise

    def _spin(self) -> None:
        assert self.machine is not None
        self.machine.run(timeout=PATIENCE, until=lambda: self.command.done == self.command.number)

    def waiting(self, loops: int) -> Sample:
        """Until the Guest has shown twice that it runs."""
        return self._provoke(loops, kind=lib.FLOOR_NOTHING, shows=self._word("running"))

    def kick(self, loops: int) -> Sample:
        """A kick for nothing."""
        stale = ffi.cast("uint32_t *", address(product_ffi.addressof(self._cpu.c, "stale")))
        return self._provoke(loops, kind=lib.FLOOR_EVENTFD, fd=self._cpu.kick_fd, shows=stale)

    def attention(self, loops: int) -> Sample:
        """A post that Python takes."""
        shows = ffi.cast("uint32_t *", address(product_ffi.addressof(self._cpu.mailbox, "attention")))
        return self._provoke(loops, kind=lib.FLOOR_POST, why=product.ATTENTION_EVENT, shows=shows, to_zero=1)

    def interrupt(self, loops: int) -> Sample:
        """A virtual interrupt."""
        pending = ffi.cast("uint32_t *", address(product_ffi.addressof(self.guest.state, "irqs_pending")))
        return self._provoke(
            loops,
            kind=lib.FLOOR_POST,
            why=product.ATTENTION_EVENT,
            pending=pending,
            bits=1 << lib.BENCH_OTHER_IRQ,
            shows=self._word("interrupts"),
        )

    def nmi(self, loops: int) -> Sample:
        """A non-maskable interrupt."""
        traps = product_ffi.addressof(self._cpu.c, "traps")
        shows = ffi.cast("uint32_t *", address(traps) + 8 * int(Trap.NMI))
        return self._provoke(loops, kind=lib.FLOOR_NMI, fd=self._vm_fd, shows=shows)

    def _word(self, name: str) -> Any:
        return ffi.cast("uint32_t *", self._at + ffi.offsetof("struct bench_command", name))

    def _provoke(self, loops: int, **what: Any) -> Sample:
        provocation = ffi.new(
            "struct floor_provocation *",
            {"post": self._post, "cpu": self._struct, "running": self._word("running"), **what},
        )
        took = ffi.new("struct floor_time *")
        result = lib.floor_provoke(provocation, loops, took)
        if result < 0:
            raise Unmeasurable(f"it did not show: {os.strerror(-result)}")
        return Sample(float(took.wall_ns), loops)

    def close(self) -> None:
        """End the spinning, then as ever."""
        if self._thread is not None:
            self.command.stop = 1
            self._thread.join()
            self._thread = None
        super().close()
