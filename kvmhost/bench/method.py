"""How a group of benchmarks is sampled: everything between a set of subjects and their raw series.

A group is set up anew for each run, because much of what moves a figure is decided once, by where things
happen to lie in memory.  In a run, each subject is asked first how many operations a sample needs to be long
beside the clock's steps; then all are sampled in turn until none gets faster any more; then come the rounds
that count.  Every second round goes backwards (A B C, C B A), so that a machine that slows down slowly does
so to all of them.  What a benchmark subtracts is sampled in the same round, with as many operations as the
benchmark itself has, and taken off that round's value.

Nothing here knows what is measured.  A run that was finished is handed out at once: whoever is interrupted
keeps it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from math import hypot, isfinite
from operator import itemgetter
from statistics import median

from kvmhost.bench.benchmark import Benchmark, Sample, Subject, Unit
from kvmhost.bench.errors import Unmeasurable, WorkerBroke
from kvmhost.bench.results import Series
from kvmhost.bench.statistics import deviation

Clock = Callable[[], int]
Subjects = Callable[[], AbstractContextManager[Mapping[str, Subject | str]]]

#: A step of the counter disappears in a sample that is so many times as long.
STEPS = 1000
#: Cycles between two values of a time-stamp counter: on some CPUs it goes on by dozens at once.
CYCLE_STEP = 64
#: Whatever the clock's steps, no sample is made longer than that on purpose.
LONGEST_NS = 20_000_000
MOST_LOOPS = 1 << 20
#: What takes that long for one operation (to boot, say) warms itself up.
SLOW_NS = 250_000_000
#: Halves of a warm-up that differ by less are equal, whatever their noise.
EQUAL = 0.01


@dataclass(frozen=True, slots=True)
class Mode:
    """How much is done.

    runs: settings up of a group.  rounds: values a run, and `least` of them where time runs out.
    sample_ns: a sample lasts at least that long by the host's clock.  window: samples in each half of what
    is looked at for a warm-up; most: rounds of warm-up, at the most.  group_seconds: when a run of a group
    has taken so long, it does with `least` rounds.
    """

    name: str
    runs: int
    rounds: int
    least: int
    sample_ns: int
    window: int
    most: int
    group_seconds: float


QUICK = Mode("quick", 1, 9, 1, 100_000, 2, 8, 3.0)
NORMAL = Mode("normal", 3, 15, 3, 500_000, 4, 30, 10.0)
THOROUGH = Mode("thorough", 5, 30, 5, 1_000_000, 5, 60, 30.0)
MODES = {mode.name: mode for mode in (QUICK, NORMAL, THOROUGH)}
#: Where instructions are counted and not time: one operation a sample, and three to see that they agree.
EXACT = Mode("exact", 1, 3, 1, 0, 1, 8, 60.0)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a group is: `phase` in words, and of all its work the part that is `done`, 0 to 1.

    >>> Progress("switch", 2, 3, "measuring", 0.5).done
    0.5
    """

    group: str
    run: int
    runs: int
    phase: str
    done: float


Listener = Callable[[Progress], None]
#: A benchmark and how many operations: what is sampled once a round.
Step = tuple[str, int]


@dataclass(frozen=True, slots=True)
class GroupRun:
    """What one run of a group gave.  unmeasured: why a benchmark has no series."""

    number: int
    series: tuple[Series, ...]
    unmeasured: Mapping[str, str]


def silent(progress: Progress) -> None:
    """Tell nobody."""


def clock_step(clock: Clock = time.perf_counter_ns, tries: int = 50) -> int:
    """The smallest step of a clock that is seen in a few tries, in its unit; at least 1.

    >>> clock_step(iter(range(0, 1000, 40)).__next__, tries=5)
    40
    """
    smallest = 0
    for _ in range(tries):
        before = after = clock()
        for _ in range(1_000_000):  # a clock that stands still must not hold us for ever
            if after != before:
                break
            after = clock()
        if after > before:
            smallest = min(smallest or after - before, after - before)
    return max(1, smallest)


def measure(
    benchmarks: Sequence[Benchmark],
    subjects: Subjects,
    mode: Mode,
    *,
    icount: bool = False,
    progress: Listener = silent,
    clock: Clock = time.perf_counter_ns,
) -> Iterator[GroupRun]:
    """Measure the benchmarks of one group; each run is yielded when it is finished.

    subjects: sets the group up, once a run.  icount: the machine counts instructions, and EXACT is the mode
    whatever was asked for.  clock: nanoseconds.  Raises WorkerBroke where benchmarks or subjects contradict
    themselves; what a setting up or a sample raises passes through, but for Unmeasurable.
    """
    mode = EXACT if icount else mode
    step = clock_step(clock)
    for number in range(mode.runs):

        def tell(phase: str, done: float, number: int = number) -> None:
            whole = (number + done) / mode.runs
            progress(Progress(benchmarks[0].group, number + 1, mode.runs, phase, whole))

        tell("setting up", 0.0)
        with subjects() as found:
            run = Run(benchmarks, found, mode, clock, step, icount)
            series = run.series(tell)
        yield GroupRun(number, series, run.unmeasured)


def loops_for(sample: Callable[[int], Sample], step: float, mode: Mode, clock: Clock) -> tuple[int, bool]:
    """How many operations make a sample long enough, and whether a single one is slow.

    Long enough: STEPS steps of the clock that measures, and mode.sample_ns by the host's.
    """
    loops = 1
    while True:
        got, took = timed(sample, loops, clock)
        if took >= LONGEST_NS:  # the first time of anything is long, and a machine may have been busy
            got, took = min(((got, took), timed(sample, loops, clock)), key=itemgetter(1))
        short = max(STEPS * step / max(got.total, step / 2), mode.sample_ns / max(took, 1))
        if short <= 1 or took >= LONGEST_NS or loops >= MOST_LOOPS:
            return loops, loops == 1 and took >= SLOW_NS
        loops *= 1 << max(1, min(4, int(short).bit_length() - 1))


def timed(sample: Callable[[int], Sample], loops: int, clock: Clock) -> tuple[Sample, int]:
    """A sample, and how many ns it took by the host's clock."""
    begun = clock()
    got = sample(loops)
    return got, clock() - begun


def settled(values: Sequence[float], window: int) -> bool:
    """Whether a warm-up is over: the medians of the last two windows are as good as equal.

    Equal: within EQUAL of the figure, or closer together than the values in the windows are.

    >>> settled([90.0, 50.0, 10.0, 10.0], 2), settled([90.0, 10.0, 10.0, 10.0, 10.0], 2)
    (False, True)
    """
    if len(values) < 2 * window:
        return False
    before, after = values[-2 * window : -window], values[-window:]
    noise = hypot(deviation(before), deviation(after))
    return abs(median(after) - median(before)) <= max(EQUAL * abs(median(after)), noise)


class Run:
    """One setting up of a group, and all that is sampled in it."""

    def __init__(
        self,
        benchmarks: Sequence[Benchmark],
        found: Mapping[str, Subject | str],
        mode: Mode,
        clock: Clock,
        step: int,
        icount: bool,
    ) -> None:
        self.benchmarks = {benchmark.name: benchmark for benchmark in benchmarks}
        self.mode, self.clock, self.step, self.icount = mode, clock, step, icount
        self.unmeasured: dict[str, str] = {}
        self.loops: dict[str, int] = {}
        self.slow: set[str] = set()
        self.stable: set[str] = set()
        self.warm: list[dict[Step, Sample]] = []
        self.rounds: list[dict[Step, Sample]] = []
        self.subjects: dict[str, Subject] = {}
        for name in self.benchmarks:
            subject = found.get(name)
            if subject is None:
                raise WorkerBroke(f"its suite made nothing that could measure {name}")
            if not isinstance(subject, str):
                self.subjects[name] = subject
        for name in self.benchmarks:
            if isinstance(reason := found[name], str):
                self.drop(name, reason)

    def series(self, tell: Callable[[str, float], None]) -> tuple[Series, ...]:
        """Measure, and tell what came of it."""
        begun = self.clock()
        for number, name in enumerate(list(self.subjects)):
            tell("finding out how long a sample must be", 0.1 * number / len(self.benchmarks))
            if name in self.subjects:
                self.calibrate(name)
        deadline = begun + int(self.mode.group_seconds * 1e9)
        self.warm_up(tell, begun + (deadline - begun) // 2)
        for number in range(self.mode.rounds):
            if number >= self.mode.least and self.clock() > deadline:
                break
            tell("measuring", 0.3 + 0.7 * number / self.mode.rounds)
            self.rounds.append(self.round(self.steps(self.subjects), number))
        made = {name: self.one(name) for name in self.benchmarks if name in self.subjects}
        return tuple(self.compared(each, made) for each in made.values())

    def calibrate(self, name: str) -> None:
        """Find the number of operations a sample."""
        unit = self.benchmarks[name].unit
        if self.icount or unit in (Unit.BYTES, Unit.COUNT):
            self.loops[name] = 1
            return
        step = CYCLE_STEP if unit is Unit.CYCLES else self.step
        try:
            self.loops[name], slow = loops_for(
                lambda loops: self.checked(name, loops), step, self.mode, self.clock
            )
        except Unmeasurable as error:
            self.drop(name, error.message)
            return
        if slow:
            self.slow.add(name)

    def checked(self, name: str, loops: int) -> Sample:
        """A sample that makes sense.  Raises Unmeasurable, or WorkerBroke."""
        sample = self.subjects[name].sample(loops)
        if sample.loops < 1 or not isfinite(sample.total):
            raise WorkerBroke(f"{name} gave {sample.total} for {sample.loops} operations")
        return sample

    def warm_up(self, tell: Callable[[str, float], None], deadline: int) -> None:
        """Sample until everything has settled once, or the time or the patience for it is over."""
        self.stable |= self.slow
        while waiting := [name for name in self.subjects if name not in self.stable]:
            number = len(self.warm)
            if number >= self.mode.most or (number and self.clock() > deadline):
                return
            tell("warming up", 0.1 + 0.2 * number / self.mode.most)
            quick = [name for name in self.subjects if name not in self.slow]
            self.warm.append(self.round(self.steps(quick), number))
            for name in waiting:
                step = (name, self.loops[name])
                if self.icount and self.took_long(name):
                    self.slow.add(name)
                    self.stable.add(name)
                history = [each[step].total / each[step].loops for each in self.warm if step in each]
                if settled(history, self.mode.window):
                    self.stable.add(name)

    def took_long(self, name: str) -> bool:
        """Whether the warm-up's last sample of it was a slow one, by the host's own clock."""
        sample = self.warm[-1].get((name, self.loops[name]))
        slow = self.benchmarks[name].unit is Unit.NANOSECONDS
        return slow and sample is not None and sample.total >= SLOW_NS

    def steps(self, names: Collection[str]) -> list[Step]:
        """What a round consists of: each benchmark, and before it what it subtracts, as often repeated."""
        wanted: dict[Step, None] = {}
        for name in self.benchmarks:
            if name in names:
                for other in (*self.subtracted(name), name):
                    wanted[other, self.loops[name]] = None
        return list(wanted)

    def subtracted(self, name: str, within: tuple[str, ...] = ()) -> list[str]:
        """All that is taken off this one, and off what is taken off.  Raises WorkerBroke for a circle."""
        if name in within:
            raise WorkerBroke(f"{name} is subtracted from itself")
        found: list[str] = []
        for other in self.benchmarks[name].minus:
            if other not in self.benchmarks:
                raise WorkerBroke(f"{name} subtracts {other}, which is not in its group")
            found += [*self.subtracted(other, (*within, name)), other]
        return found

    def round(self, steps: Sequence[Step], number: int) -> dict[Step, Sample]:
        """Sample everything once, every second time backwards."""
        samples: dict[Step, Sample] = {}
        for step in steps if number % 2 == 0 else reversed(steps):
            if step[0] in self.subjects:
                try:
                    samples[step] = self.checked(*step)
                except Unmeasurable as error:
                    self.drop(step[0], error.message)
        return samples

    def drop(self, name: str, reason: str) -> None:
        """Go on without this one, and without all that subtract it."""
        self.subjects.pop(name, None)
        self.unmeasured.setdefault(name, reason)
        for other, benchmark in self.benchmarks.items():
            if name in benchmark.minus and other not in self.unmeasured:
                self.drop(other, f"{name}, which is subtracted, has no figure: {reason}")

    def one(self, name: str) -> Series:
        """The series of one benchmark, out of all rounds."""
        loops = self.loops[name]
        kinds = {kind for each in self.rounds for kind in each[name, loops].counts}
        return Series(
            name=name,
            unit=self.benchmarks[name].unit,
            loops=loops,
            warmups=tuple(self.value(each, name, loops) for each in self.warm if (name, loops) in each),
            values=tuple(self.value(each, name, loops) for each in self.rounds),
            overhead=median(self.overhead(each, name, loops) for each in self.rounds),
            counts={
                kind: tuple(self.count(each, name, loops, kind) for each in self.rounds)
                for kind in sorted(kinds)
            },
            stable=name in self.stable,
        )

    def value(self, samples: Mapping[Step, Sample], name: str, loops: int) -> float:
        """An operation's figure in one round, without what is subtracted."""
        sample = samples[name, loops]
        return sample.total / sample.loops - self.overhead(samples, name, loops)

    def overhead(self, samples: Mapping[Step, Sample], name: str, loops: int) -> float:
        """What is subtracted from an operation's figure in one round."""
        return sum(self.value(samples, other, loops) for other in self.benchmarks[name].minus)

    def count(self, samples: Mapping[Step, Sample], name: str, loops: int, kind: str) -> float:
        """An operation's exact number in one round; of what is subtracted, where it counts the same."""
        sample = samples[name, loops]
        others = self.benchmarks[name].minus
        taken = sum(self.count(samples, other, loops, kind) for other in others)
        return sample.counts.get(kind, 0) / sample.loops - taken

    def compared(self, series: Series, made: Mapping[str, Series]) -> Series:
        """With its ratios to the reference, where there is one that is more than nothing in every round."""
        reference = made.get(self.benchmarks[series.name].reference)
        if reference is None or reference.name == series.name or reference.unit is not series.unit:
            return series
        if not all(value > 0 for value in reference.values):
            return series
        pairs = zip(series.values, reference.values, strict=True)
        return replace(series, ratios=tuple(value / other for value, other in pairs))
