"""Every suite and benchmark by name.  Light: a suite's module imports only the contract until it is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib import import_module
from itertools import groupby

from kvmhost.bench.benchmark import Benchmark, Suite
from kvmhost.bench.errors import SelectionError

#: In the order of the report, from the smallest thing to the largest.
SUITES = ("switch", "exit", "trap", "paging", "machine", "boot")


@cache
def suites() -> tuple[Suite, ...]:
    """All of them."""
    found: list[Suite] = [import_module(f"kvmhost.bench.suites.{name}").SUITE for name in SUITES]
    return tuple(found)


def select(words: Sequence[str]) -> tuple[Benchmark, ...]:
    """What suites, names and patterns ask for, each once, in the catalogue's order; nothing asks for all.

    What a chosen benchmark subtracts or is compared with comes along.  Raises SelectionError.
    """
    every = {benchmark.name: benchmark for suite in suites() for benchmark in suite.benchmarks}
    wanted: set[str] = set()
    for word in words or SUITES:
        found = [name for name in every if name.partition("/")[0] == word or fnmatchcase(name, word)]
        if not found:
            raise SelectionError(
                f"no suite and no benchmark is called {word}",
                next_step=f"the suites are {', '.join(SUITES)}; --list tells every name",
            )
        wanted.update(found)
    ahead = list(wanted)
    while ahead:
        benchmark = every[ahead.pop()]
        for other in (*benchmark.minus, *filter(None, (benchmark.reference,))):
            if other not in wanted:
                wanted.add(other)
                ahead.append(other)
    return tuple(benchmark for name, benchmark in every.items() if name in wanted)


def groups(names: Iterable[str]) -> Iterator[tuple[Suite, tuple[Benchmark, ...]]]:
    """The chosen benchmarks, those of one group together."""
    wanted = set(names)
    for suite in suites():
        chosen = [benchmark for benchmark in suite.benchmarks if benchmark.name in wanted]
        chosen.sort(key=lambda benchmark: benchmark.group)
        for _, members in groupby(chosen, key=lambda benchmark: benchmark.group):
            yield suite, tuple(members)
