"""How many system calls something makes besides KVM_RUN: counted by the kernel, in a thread of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from kvmhost._bench import ffi, lib
from kvmhost.bench.errors import Unmeasurable

TRIES = 4
#: Watches are never freed: the thread that listens reads its own until it has seen the end.
_KEPT: list[Any] = []


def system_calls(work: Callable[[], object]) -> int:
    """System calls but KVM_RUN that the thread made which did this work.

    Raises Unmeasurable where the kernel cannot tell (seccomp's notifications, Linux 5.5), and whatever the
    work raised.
    """
    watch = ffi.new("struct floor_watch *")
    _KEPT.append(watch)
    told: list[int] = []
    raised: list[BaseException] = []

    def run() -> None:
        result = lib.floor_watch_begin(watch)
        if result < 0:
            raised.append(Unmeasurable(f"the kernel does not count system calls: {os.strerror(-result)}"))
            return
        before = watch.others
        try:
            work()
        except BaseException as error:
            raised.append(error)
        told.append(int(watch.others - before))

    thread = threading.Thread(target=run, name="watched")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return told[0]


def each(work: Callable[[int], object], loops: int = 50) -> int:
    """System calls but KVM_RUN for each of `loops` operations, rounded up: what a run takes anyway is not
    counted.  Raises as system_calls does.

    Each number is the least of a few tries: a thread of ours that wanted the interpreter, or an allocator
    that wanted memory, makes a call now and then that no operation asked for.
    """
    alone, many = (least(partial(work, number)) for number in (1, loops + 1))
    return -((alone - many) // loops)


def least(work: Callable[[], object]) -> int:
    """What system_calls says of a few tries, at the least."""
    return min(system_calls(work) for _ in range(TRIES))
