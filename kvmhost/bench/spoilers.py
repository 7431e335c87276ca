"""What about this machine would spoil a figure: looked for before measuring, and once more afterwards.

Nothing is mended here, and nothing hides it: each finding has a name that goes into the result, says what was
seen, and what cures it.  --strict refuses to measure on a machine that has one.  In the lab none of it
matters, because its times mean nothing anyway.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from kvmhost.bench.errors import BenchError, SelectionError, Spoiled
from kvmhost.bench.provenance import turbo
from kvmhost.bench.results import Spoiler
from kvmhost.bench.sysfs import CLOCKSOURCE, CPUS, UNKNOWN, Sys

#: A CPU that is busy for more than that part of the time does something else besides.
BUSY = 0.05
#: All others together: they share caches, memory and the power there is.
BUSY_OTHERS = 0.25
#: Time that a hypervisor took away from us, as a part of all.
STOLEN = 0.005
#: A CPU that is slower than that part of what it could be does not run at its full speed.
SLOW = 0.9
#: Sources of time that are read without leaving user space, from the time-stamp counter.
GOOD_CLOCKS = ("tsc", "kvm-clock", "hyperv_clocksource_tsc_page")
#: A clock with larger steps measures nothing of ours.
COARSEST_SECONDS = 1e-4


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a machine in a moment.

    affinity: CPUs that the measuring thread may use.  busy: how much each CPU had to do, 0 to 1.  stolen:
    time taken by a hypervisor beneath, 0 to 1.  mhz: how fast each CPU is, and can be.  battery: that is
    where the power comes from.
    """

    affinity: tuple[int, ...] = (0,)
    busy: Mapping[int, float] = field(default_factory=dict)
    stolen: float = 0.0
    mhz: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    battery: bool = False


@dataclass(frozen=True, slots=True)
class Counters:
    """What has been counted since the machine was started: by CPU, how often it was slowed down for its heat;
    and the seconds stolen by a hypervisor, and all seconds."""

    throttled: Mapping[int, int]
    stolen: float
    elapsed: float


def look(seconds: float = 0.2) -> Look:
    """Look at this machine for so long, with nothing of ours running."""
    import psutil

    before = psutil.cpu_times(percpu=False)
    shares = psutil.cpu_percent(interval=seconds, percpu=True)
    after = psutil.cpu_times(percpu=False)
    online = cpus_online() or list(range(len(shares)))
    speeds = frequencies()
    return Look(
        affinity=tuple(sorted(os.sched_getaffinity(0))),
        busy={cpu: share / 100 for cpu, share in zip(online, shares, strict=False)},
        stolen=stolen(sum(before), getattr(before, "steal", 0.0), sum(after), getattr(after, "steal", 0.0)),
        mhz=dict(zip(online, speeds, strict=False)),
        battery=on_battery(),
    )


def cpus_online() -> list[int]:
    """The numbers of the CPUs there are, in the order in which psutil tells of them."""
    from kvmhost.bench.sysfs import cpu_list

    return cpu_list(Sys().read(CPUS / "online"))


def frequencies() -> list[tuple[float, float]]:
    """How fast each CPU is and can be, in MHz; nothing where nobody knows."""
    import psutil

    try:
        return [(one.current, one.max) for one in psutil.cpu_freq(percpu=True) or []]
    except (OSError, NotImplementedError, RuntimeError, ValueError):
        return []


def on_battery() -> bool:
    """Whether the power comes from one."""
    import psutil

    try:
        found = psutil.sensors_battery()
    except (OSError, NotImplementedError, RuntimeError, ValueError, AttributeError):
        return False
    return found is not None and found.power_plugged is False


def stolen(all_before: float, stolen_before: float, all_after: float, stolen_after: float) -> float:
    """The part of the time between that was taken away.

    >>> stolen(100.0, 1.0, 110.0, 2.0)
    0.1
    """
    passed = all_after - all_before
    return max(0.0, stolen_after - stolen_before) / passed if passed > 0 else 0.0


def find(seen: Look, cpu: int | None = None, machine: Sys | None = None) -> tuple[Spoiler, ...]:
    """All that would spoil figures measured on `cpu`, or on any that we may use."""
    system = machine or Sys()
    ours = (cpu,) if cpu is not None else seen.affinity
    return (
        *affinity(seen, cpu),
        *frequency(seen, ours, system),
        *load(seen, ours, system),
        *clock(system),
        *power(seen),
    )


def affinity(seen: Look, cpu: int | None) -> Iterator[Spoiler]:
    """Whether the measuring thread may wander."""
    if cpu is None and len(seen.affinity) > 1:
        yield Spoiler(
            "affinity",
            f"the measuring thread may wander among {len(seen.affinity)} CPUs",
            f"bind it to one: --cpu {seen.affinity[-1]}",
        )


def frequency(seen: Look, ours: Sequence[int], machine: Sys) -> Iterator[Spoiler]:
    """Whether a CPU changes its speed, or has less of it than it could."""
    governors = {cpu: machine.of_cpu(cpu, "cpufreq/scaling_governor") for cpu in ours}
    changing = {cpu: name for cpu, name in governors.items() if name not in ("performance", UNKNOWN)}
    if changing:
        cpu, name = next(iter(changing.items()))
        yield Spoiler(
            "governor",
            f"the governor of CPU {cpu} is {name}: its speed follows its load",
            "set it to performance: cpupower frequency-set -g performance",
        )
    for cpu in ours:
        now, most = seen.mhz.get(cpu, (0.0, 0.0))
        if 0 < now < SLOW * most:
            yield Spoiler(
                "frequency",
                f"CPU {cpu} runs at {now:.0f} MHz of {most:.0f}",
                "set the governor to performance, or see what limits it (cpupower frequency-info)",
            )
            break
    if turbo(machine) == "on":
        yield Spoiler(
            "turbo",
            "CPUs may go faster for a while: how fast depends on heat and on their neighbours",
            "switch it off: echo 1 >/sys/devices/system/cpu/intel_pstate/no_turbo, or 0 >.../cpufreq/boost",
        )


def load(seen: Look, ours: Sequence[int], machine: Sys) -> Iterator[Spoiler]:
    """Whether something else uses the CPUs, or what they share."""
    busy = [cpu for cpu in ours if seen.busy.get(cpu, 0.0) > BUSY]
    if busy:
        yield Spoiler(
            "load",
            f"CPU {busy[0]} is busy with something else, {seen.busy[busy[0]]:.0%} of the time",
            "end what runs there, or take another CPU with --cpu",
        )
    siblings = {other for cpu in ours for other in machine.siblings(cpu)} - set(ours)
    sharing = [cpu for cpu in sorted(siblings) if seen.busy.get(cpu, 0.0) > BUSY]
    if sharing:
        yield Spoiler(
            "sibling",
            f"CPU {sharing[0]}, which shares our core, is busy {seen.busy[sharing[0]]:.0%} of the time",
            f"end what runs there, or switch it off: echo 0 >/sys/devices/system/cpu/cpu{sharing[0]}/online",
        )
    others = sum(share for cpu, share in seen.busy.items() if cpu not in ours)
    if others > BUSY_OTHERS:
        yield Spoiler(
            "neighbours",
            f"other CPUs are busy, as much as {others:.1f} of them: caches, memory and power are shared",
            "end what runs there",
        )
    if seen.stolen > STOLEN:
        yield steal(seen.stolen)


def steal(part: float) -> Spoiler:
    """A hypervisor beneath us gave its CPU to others."""
    return Spoiler(
        "steal",
        f"a hypervisor beneath took {part:.1%} of the time away",
        "measure on a machine of your own, or while its neighbours sleep",
    )


def clock(machine: Sys) -> Iterator[Spoiler]:
    """Whether time and cycles can be believed."""
    source = machine.read(CLOCKSOURCE)
    if source not in (*GOOD_CLOCKS, UNKNOWN):
        yield Spoiler(
            "clocksource",
            f"the kernel reads time from {source}, which is slow and coarse",
            "see why not from the TSC: dmesg | grep -i tsc",
        )
    flags = machine.flags()
    lacking = [flag for flag in ("constant_tsc", "nonstop_tsc") if flag not in flags] if flags else []
    if lacking:
        yield Spoiler(
            "tsc",
            f"the time-stamp counter changes its speed or stops ({', '.join(lacking)} missing)",
            "believe no cycles here; ratios and counts are good",
        )


def power(seen: Look) -> Iterator[Spoiler]:
    """Whether there is less of it than usual."""
    if seen.battery:
        yield Spoiler("battery", "the machine runs on its battery", "plug it in")


def counters(machine: Sys | None = None) -> Counters:
    """The counters of this moment; two of them tell what happened between."""
    import psutil

    system = machine or Sys()
    times = psutil.cpu_times(percpu=False)
    throttled = {}
    for name in system.names(CPUS):
        if name.startswith("cpu") and name[3:].isdecimal():
            folder = CPUS / name / "thermal_throttle"
            counts = [system.number(folder / f"{what}_throttle_count") for what in ("core", "package")]
            throttled[int(name[3:])] = sum(count for count in counts if count is not None)
    return Counters(throttled, getattr(times, "steal", 0.0), sum(times))


def meanwhile(before: Counters, after: Counters) -> tuple[Spoiler, ...]:
    """What happened between two moments that spoils what was measured there."""
    found = []
    hot = [cpu for cpu, count in after.throttled.items() if count > before.throttled.get(cpu, count)]
    if hot:
        found.append(
            Spoiler(
                "throttling",
                f"CPU {hot[0]} was slowed down for its heat while it was measured",
                "cool the machine, or switch turbo off",
            )
        )
    taken = stolen(before.elapsed, before.stolen, after.elapsed, after.stolen)
    return (*found, *([steal(taken)] if taken > STOLEN else []))


def refuse(found: Sequence[Spoiler]) -> None:
    """--strict: go no further if something would spoil the figures.  Raises Spoiled."""
    if found:
        raise Spoiled(
            "this machine would spoil the figures: " + ", ".join(one.name for one in found),
            cause="; ".join(one.seen for one in found),
            next_step="; ".join(f"{one.name}: {one.next_step}" for one in found) + "; or leave --strict out",
        )


def need_clocks(machine: Sys | None = None) -> None:
    """Make sure that there are clocks to measure with at all.  Raises BenchError."""
    flags = (machine or Sys()).flags()
    if flags and "tsc" not in flags:
        raise BenchError(
            "this CPU has no time-stamp counter",
            cause="/proc/cpuinfo does not have the flag tsc",
            next_step="measure on another machine, or in the lab with --backend lab",
        )
    for name, number in (
        ("CLOCK_MONOTONIC", time.CLOCK_MONOTONIC),
        ("CLOCK_THREAD_CPUTIME_ID", time.CLOCK_THREAD_CPUTIME_ID),
    ):
        try:
            step = time.clock_getres(number)
        except OSError as error:
            raise BenchError(
                f"this kernel has no {name}",
                cause=error.strerror or str(error),
                next_step="measure on a kernel with POSIX timers (CONFIG_POSIX_TIMERS)",
            ) from None
        if step > COARSEST_SECONDS:
            raise BenchError(
                f"{name} is too coarse to measure with: its steps are {step * 1e3:.1f} ms",
                cause="the kernel has no high-resolution timers",
                next_step="boot without highres=off and nohpet, or measure on another machine",
            )


def bind(cpu: int) -> None:
    """Bind this process to one CPU.  Raises SelectionError."""
    try:
        os.sched_setaffinity(0, {cpu})
    except (OSError, ValueError, OverflowError) as error:
        allowed = sorted(os.sched_getaffinity(0))
        raise SelectionError(
            f"CPU {cpu} cannot be measured on",
            cause=getattr(error, "strerror", None) or str(error),
            next_step=f"we may use {', '.join(map(str, allowed))}",
        ) from None
