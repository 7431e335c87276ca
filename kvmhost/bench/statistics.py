"""How sure one can be of a median, and of the ratio of two.

The interval of a median is a bootstrap on two levels: whole runs are drawn again, and values inside each.
Two corrections make it honest where runs are few.  How far runs lie apart is estimated without the part that
the noise inside a run explains; and what is left of it is stretched as Student's t stretches an estimate from
so few, because drawing three runs again and again shows less than three new runs would.

Two results of one build must not differ "significantly" more often than in a few of a hundred benchmarks, so
a difference has to pass three tests (`significant`): its interval, widened for many benchmarks at once,
leaves out a ratio of 1; it is not smaller than what anybody should believe; and it is more than one step of
the clock.  Everything is drawn with a fixed seed: the same values always give the same interval.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from math import isfinite, sqrt
from operator import itemgetter
from statistics import NormalDist, fmean, median, variance

Runs = tuple[tuple[float, ...], ...]

#: How often values are drawn again.
DRAWS = 400
#: The part of all draws below an interval of 95 %, and above it: 2.5 % and not 1.5 % if the values were many,
#: but the quantiles of a few values drawn again lie too far inside.
BEYOND = 0.015
#: What makes an interval of 95 % one of 99 % (two quantiles of the normal distribution): a hundred
#: benchmarks are looked at at once.
MANY = NormalDist().inv_cdf(0.995) / NormalDist().inv_cdf(0.975)
#: Of a median, from its neighbours' distance to the deviation of a normal distribution.
MAD_TO_SIGMA = 1 / NormalDist().inv_cdf(0.75)
#: So many deviations from the median is an outlier (B. Iglewicz and D. Hoaglin, 1993).
OUTLIER_FENCE = 3.5
#: Student's t, 97.5 %, by degrees of freedom; beyond them 1.96 + 2.5 / freedom is as good.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True, slots=True)
class Noise:
    """What is assumed of a kind of figure before anything is seen of it.

    unseen: how far runs lie apart, as a part of the figure (one deviation), where one run cannot tell.
    hidden: the same where several runs can: luck may put them closer together than they are.
    least: differences below that are not believed, as a part of the figure.

    >>> TIMES.least
    0.02
    """

    unseen: float
    hidden: float
    least: float


TIMES = Noise(unseen=0.011, hidden=0.004, least=0.02)
#: Instructions counted by a machine without a clock: nothing but the path taken moves them.
INSTRUCTIONS = Noise(unseen=0.001, hidden=0.0005, least=0.005)
#: The same where Python and the host's kernel are on the path: what they keep, and where, moves it a little.
LONG_PATHS = Noise(unseen=0.005, hidden=0.002, least=0.03)


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure, and between what it lies with a confidence of 95 %.

    >>> Interval(2.0, 1.5, 2.25).spread
    0.5
    """

    middle: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """How far the farther end is from the middle."""
        return max(self.high - self.middle, self.middle - self.low)

    def holds(self, value: float) -> bool:
        """Whether a value lies inside, or at an end.

        >>> Interval(2.0, 1.5, 2.25).holds(1.5)
        True
        """
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a figure: `ratio` of the new median to the old one, with its interval.

    difference: new less old, in the figure's unit, with its interval.  ratio: None where the old figure may
    as well be 0.  significant: believed to be there; `loss` and `gain` say which way.

    >>> change(((10.0, 10.0, 10.0),), ((11.0, 11.0, 11.0),), exact=True).loss
    True
    """

    difference: Interval
    ratio: Interval | None
    significant: bool

    @property
    def loss(self) -> bool:
        """It costs more than before."""
        return self.significant and self.difference.middle > 0

    @property
    def gain(self) -> bool:
        """It costs less than before."""
        return self.significant and self.difference.middle < 0


def deviation(values: Sequence[float]) -> float:
    """The median distance from the median, as a deviation of a normal distribution would be.

    >>> round(deviation([1.0, 2.0, 3.0, 4.0, 500.0]), 3)
    1.483
    """
    middle = median(values)
    return MAD_TO_SIGMA * median(abs(value - middle) for value in values)


def outliers(values: Sequence[float]) -> tuple[float, ...]:
    """Those that lie beyond the fence, in order; where most values are one and the same, all others.

    They are counted and shown.  No figure leaves them out: a median does not need that.

    >>> outliers([10.0, 11.0, 12.0, 11.0, 40.0])
    (40.0,)
    """
    if len(values) < 3:
        return ()
    middle, fence = median(values), OUTLIER_FENCE * deviation(values)
    return tuple(value for value in values if abs(value - middle) > fence)


def interval(runs: Sequence[Sequence[float]]) -> Interval:
    """The median of all values with its bootstrap interval.  Of nothing: ValueError.

    One run tells nothing of how far runs lie apart: then it is the interval of this run's median alone.

    >>> interval([[5.0, 5.0, 5.0]])
    Interval(middle=5.0, low=5.0, high=5.0)
    """
    kept = filled(runs)
    return around(median(value for run in kept for value in run), medians(kept, len(kept) - 1, 0.0))


def change(
    before: Sequence[Sequence[float]],
    after: Sequence[Sequence[float]],
    *,
    exact: bool = False,
    noise: Noise = TIMES,
) -> Change:
    """Compare two results; each has its runs' values.  Of nothing: ValueError.

    exact: they are counts; where none of them varies, any difference is one.
    """
    old, new = filled(before), filled(after)
    if exact and constant(old) and constant(new):
        return exactly(old[0][0], new[0][0])
    freedom = len(old) + len(new) - 2
    assumed = noise.hidden if freedom else noise.unseen
    olds = medians(old, freedom, assumed)
    news = medians(new, freedom, assumed, seed=1)
    was, now = (median(value for run in runs for value in run) for runs in (old, new))
    difference = around(now - was, [b - a for a, b in zip(olds, news, strict=True)])
    if not was > 0 or min(olds) <= 0:
        ratio, believed = None, leaves_out(difference, 0.0)
    else:
        ratio = around(now / was, [b / a for a, b in zip(olds, news, strict=True)])
        believed = leaves_out(ratio, 1.0) and abs(ratio.middle - 1) >= noise.least
    return Change(difference, ratio, believed and abs(now - was) > max(grain(old), grain(new)))


def exactly(was: float, now: float) -> Change:
    """What two exact numbers make."""
    apart = now - was
    ratio = Interval(now / was, now / was, now / was) if was > 0 else None
    return Change(Interval(apart, apart, apart), ratio, was != now)


def leaves_out(found: Interval, value: float) -> bool:
    """Whether an interval, widened for many benchmarks at once, does not reach a value."""
    low = found.middle - MANY * (found.middle - found.low)
    high = found.middle + MANY * (found.high - found.middle)
    return not low <= value <= high


def constant(runs: Runs) -> bool:
    """Whether all values are the same."""
    return len({value for run in runs for value in run}) == 1


def grain(runs: Runs) -> float:
    """The smallest step between values: a coarse counter moves by it for no reason.  0: it never moved."""
    seen = sorted({value for run in runs for value in run})
    return min((after - before for before, after in pairwise(seen)), default=0.0)


def filled(runs: Sequence[Sequence[float]]) -> Runs:
    """The runs that have values.  Raises ValueError if none has, or if one is no number."""
    kept = tuple(tuple(run) for run in runs if run)
    if not kept:
        raise ValueError("there are no values")
    if not all(isfinite(value) for run in kept for value in run):
        raise ValueError("a value is not a finite number")
    return kept


def around(middle: float, drawn: Sequence[float]) -> Interval:
    """The quantiles of what was drawn, around the figure itself."""
    ordered = sorted(drawn)
    beyond = round(BEYOND * len(ordered))
    return Interval(middle, min(middle, ordered[beyond]), max(middle, ordered[-1 - beyond]))


@lru_cache(maxsize=512)
def medians(runs: Runs, freedom: int, assumed: float, seed: int = 0) -> tuple[float, ...]:
    """The medians of all draws: runs drawn again, and in each its values.

    freedom: from so many degrees of freedom the distance between runs is known; with 0, and for what luck
    may have hidden, each run is `assumed` to be off by so large a part of its figure.
    """
    if constant(runs) and not assumed:
        return (runs[0][0],) * DRAWS
    middle = median(value for run in runs for value in run)
    moved = zip(runs, shifts(runs, freedom), strict=True)
    flat = [value + shift for run, shift in moved for value in run]
    off = assumed * abs(middle) / sqrt(len(runs))
    return tuple(
        middle_of(sorted(draw(flat))) + off * nudge
        for draw, nudge in draws(tuple(len(run) for run in runs), seed)
    )


@lru_cache(maxsize=64)
def draws(
    lengths: tuple[int, ...], seed: int
) -> tuple[tuple[Callable[[list[float]], Sequence[float]], float], ...]:
    """For runs of these lengths: what picks each draw's values out of all of them, one run behind the other;
    and a number from the standard normal distribution.

    The same for all benchmarks, which makes a report of a hundred a matter of a second.
    """
    source = random.Random(seed)
    places = [range(end - length, end) for length, end in zip(lengths, accumulate(lengths), strict=True)]
    made = []
    for _ in range(DRAWS):
        chosen = source.choices(places, k=len(places))
        picked = [place for run in chosen for place in source.choices(run, k=len(run))]
        # With one place itemgetter would give the value and no sequence: twice the same is as good.
        made.append((itemgetter(*(picked if len(picked) > 1 else picked * 2)), source.gauss(0.0, 1.0)))
    return tuple(made)


def middle_of(ordered: Sequence[float]) -> float:
    """The median of values in order.

    >>> middle_of([1.0, 2.0, 4.0, 9.0])
    3.0
    """
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def shifts(runs: Runs, freedom: int) -> list[float]:
    """By how much each run's values are moved, so that runs drawn again vary as new ones would."""
    count = len(runs)
    if count == 1 or freedom < 1:
        return [0.0] * count
    centres = [median(run) for run in runs]
    middle = fmean(centres)
    apart = variance(centres)
    within = fmean(uncertainty(run) ** 2 for run in runs)
    if not apart:
        return [0.0] * count
    own = sqrt(max(0.0, 1 - within / apart))
    stretch = own * sqrt(count / (count - 1)) * student(freedom) / NormalDist().inv_cdf(0.975)
    return [(stretch - 1) * (centre - middle) for centre in centres]


def uncertainty(values: Sequence[float]) -> float:
    """One deviation of the median of these, from the values around the middle one (order statistics)."""
    ordered, half = sorted(values), sqrt(len(values)) / 2
    last = len(ordered) - 1
    low, high = max(0, round(last / 2 - half)), min(last, round(last / 2 + half))
    return (ordered[high] - ordered[low]) / 2


def student(freedom: int) -> float:
    """Student's t, 97.5 %.

    >>> student(1), round(student(30), 2)
    (12.706, 2.04)
    """
    return STUDENT[freedom - 1] if freedom <= len(STUDENT) else 1.96 + 2.5 / freedom
