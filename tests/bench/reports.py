"""Reports to write, to read and to compare."""

from __future__ import annotations

from collections.abc import Sequence

from kvmhost.bench.benchmark import Unit
from kvmhost.bench.results import Provenance, Report, Result, Series, Spoiler

NATIVE = Provenance(
    backend="svm",
    cpu="AMD EPYC 7B13",
    microcode="0xa0011d5",
    kernel="6.12.1-amd64",
    kvmhost="0.1.0",
    tsc_hz=2_450_000_000,
    made="2026-11-22T21:28:00+00:00",
    hashes={"hardened": "ab" * 32, "shim": "cd" * 32},
    facts={"mitigation meltdown": "Not affected", "kvm_amd npt": "Y", "load": "0.12"},
)
LAB = Provenance("lab", "QEMU TCG CPU", "0x1000065", "6.1.0", "0.1.0", 10**9, "2026-11-22T21:28:00+00:00")
COUNTING = Provenance(
    "lab", "QEMU TCG CPU", "0x1000065", "6.1.0", "0.1.0", 10**9, "2026-11-22T21:28:00+00:00", icount=True
)


def result(
    name: str, unit: Unit, *runs: Sequence[float], ratios: float | None = None, **counts: float
) -> Result:
    """One benchmark with these values in each run, and counts that never vary."""
    return Result(
        name,
        unit,
        tuple(
            Series(
                name,
                unit,
                64,
                (max(values) * 2,),
                tuple(values),
                0.25,
                {kind: (count,) * len(values) for kind, count in counts.items()},
                ratios=() if ratios is None else (ratios,) * len(values),
            )
            for values in runs
        ),
    )


def report(provenance: Provenance = NATIVE, *results: Result, spoilers: tuple[Spoiler, ...] = ()) -> Report:
    """A whole one; without results it has one of each kind."""
    return Report(provenance, results or some(), spoilers, ("switch", "exit"), 12.5)


def some() -> tuple[Result, ...]:
    """One of each unit, one that reads nothing, and one that was not measured."""
    return (
        result("switch/empty", Unit.CYCLES, (0.0, -0.5, 0.25, 0.0), (0.5, 0.0, -0.25, 0.0)),
        result(
            "switch/round-trip",
            Unit.CYCLES,
            (812.0, 815.5, 811.0, 2000.0),
            (815.0, 814.0, 816.0, 815.0),
            ratios=1.5,
            instructions=66.0,
            exits=0.0,
        ),
        Result("switch/sysenter", Unit.CYCLES, (), "the CPU has no SYSENTER in this mode"),
        result("exit/shim-loop", Unit.NANOSECONDS, (612.25, 615.0, 611.0), (613.0, 612.0), exits=1.0),
        result("machine/memory", Unit.BYTES, (4096.0 * 3, 4096.0 * 3)),
        result("boot/traps", Unit.COUNT, (7012.0, 7013.0)),
    )
