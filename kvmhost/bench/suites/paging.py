"""What page tables cost a Guest whose own tables are never live: the Host keeps shadows of them.

All of it is timed by the Guest with the time-stamp counter; every operation is one or more traps that Python
handles.  Each benchmark is there twice, for a Guest with two-level tables and for one with PAE.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from kvmhost.bench.benchmark import Benchmark, Sample, Setting, Subject, Suite, Unit

if TYPE_CHECKING:
    from kvmhost.bench.timed_guest import TimedGuest

FORMATS = {"": "two-level tables", "-pae": "PAE tables"}
ROOTS = (1, 2, 4, 8)
#: Pages that are touched between two flushes.
CHUNK = 256
_LOOP = "The empty loop, with the readings of the counter, is subtracted."
OPERATIONS = {
    "fault-fill": "A read of a page whose entry is in the Guest's table and not in the shadow: a page fault, "
    "a walk of the Guest's tables, one entry written, and the read again.",
    "set-pte": "An entry written by the Guest and told by a direct SET_PTE.",
    "set-pte-queued": "The same by the async ring, with its part of the hypercalls that empty it.",
    "flush": "FLUSH_TLB of everything: the shadow forgets all entries; what is used next is filled in again, "
    "the pages of the loop itself included.",
}


def _benchmarks() -> Iterator[Benchmark]:
    for suffix, kind in FORMATS.items():
        group, loop = f"tables{suffix}", f"paging/loop{suffix}"

        def make(
            name: str, says: str, group: str = group, loop: str = loop, suffix: str = suffix
        ) -> Benchmark:
            return Benchmark(
                f"paging/{name}{suffix}",
                says,
                Unit.CYCLES,
                group,
                minus=(loop,),
                reference=f"paging/fault-fill{suffix}",
                needs=("paging32",),
            )

        yield Benchmark(
            loop,
            "A loop at ring 1 with nothing in it, between two serialised readings of the counter.",
            Unit.CYCLES,
            group,
            overhead=True,
            needs=("paging32",),
        )
        for name, says in OPERATIONS.items():
            yield make(name, f"{says}  A Guest with {kind}.  {_LOOP}")
        for count in ROOTS:
            what = "the same root again" if count == 1 else f"{count} roots in turn"
            kept = "" if count <= 4 else "; the Host keeps four, so each has to be built anew"
            yield make(
                f"switch-{count}-roots",
                f"NEW_PGTABLE with {what}, and a read of one page behind it{kept}.  A Guest with {kind}.  "
                f"{_LOOP}",
            )


BENCHMARKS = tuple(_benchmarks())


@contextmanager
def subjects(benchmarks: tuple[Benchmark, ...], setting: Setting) -> Iterator[Mapping[str, Subject | str]]:
    """The subjects of one format of tables."""
    from kvmhost.bench.timed_guest import TimedGuest

    pae = benchmarks[0].group.endswith("-pae")
    with ExitStack() as held:
        guest = held.enter_context(TimedGuest(setting, command_line="pae" if pae else ""))
        yield {benchmark.name: _subject(benchmark.name, guest) for benchmark in benchmarks}


SUITE = Suite("paging", "Page tables", BENCHMARKS, subjects)


def _subject(name: str, guest: TimedGuest) -> Subject:
    from kvmhost._bench import lib
    from kvmhost.bench.subject import Called

    what = name.removeprefix("paging/").removesuffix("-pae")
    if what == "fault-fill":
        return Called(lambda loops: _touch(guest, loops))
    if what.startswith("switch-"):
        return Called(guest.inside(lib.BENCH_SWITCH, (int(what.split("-")[1]),)))
    routines = {
        "loop": lib.BENCH_NOTHING,
        "set-pte": lib.BENCH_SET_PTE,
        "set-pte-queued": lib.BENCH_SET_PTE_RING,
        "flush": lib.BENCH_FLUSH,
    }
    return Called(guest.inside(routines[what]))


def _touch(guest: TimedGuest, loops: int) -> Sample:
    """A flush, which is not timed, stands before each chunk of pages."""
    from kvmhost._bench import lib
    from kvmhost.bench.timed_guest import LEAST

    number = left = max(loops, LEAST)
    cycles = 0
    while left:
        now = min(left, CHUNK)
        cycles += guest.do(lib.BENCH_TOUCH, now)
        left -= now
    return Sample(cycles, number)
