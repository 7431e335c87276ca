"""Intervals hold the truth as often as they say, builds do not differ from themselves, and 5 % are found."""

from __future__ import annotations

from itertools import pairwise
from math import inf, nan
from random import Random

import pytest
from bench.noises import FIGURE, SHAPES, series

from kvmhost.bench.statistics import INSTRUCTIONS, change, grain, interval, outliers

REPETITIONS = 20
BENCHMARKS = 100


@pytest.mark.parametrize("apart", [0.0, 0.01])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape not in ("quantised", "constant")])
def test_an_interval_holds_the_truth(shape: str, apart: float) -> None:
    source = Random(f"{shape} {apart}")
    held = sum(interval(series(source, shape, 3, 15, apart)).holds(FIGURE) for _ in range(200))
    assert held >= 175


def test_an_interval_of_one_run_holds_what_this_run_is_about() -> None:
    source = Random(1)
    held = sum(interval(series(source, "normal", 1, 9)).holds(FIGURE) for _ in range(300))
    assert held >= 270


def test_an_interval_is_no_wider_than_it_need_be() -> None:
    source = Random(2)
    spreads = [interval(series(source, "normal", 3, 15)).spread / FIGURE for _ in range(50)]
    assert sorted(spreads)[25] < 0.012  # 1.96 deviations of a median of 45 would be 0.0073


def test_runs_that_lie_apart_widen_it() -> None:
    near = interval(((99.0, 100.0, 101.0), (99.0, 100.0, 101.0), (99.0, 100.0, 101.0)))
    far = interval(((89.0, 90.0, 91.0), (99.0, 100.0, 101.0), (109.0, 110.0, 111.0)))
    assert near.spread <= 1 and far.spread > 15


def two_of_one_build(source: Random, runs: int, values: int, apart: float) -> int:
    """How many of BENCHMARKS differ significantly."""
    return sum(
        change(*(series(source, shape, runs, values, apart) for _ in range(2))).significant
        for shape in (list(SHAPES) * BENCHMARKS)[:BENCHMARKS]
    )


@pytest.mark.parametrize(
    ("runs", "values", "apart"),
    [(1, 9, 0.01), (2, 9, 0.01), (3, 9, 0.01), (3, 15, 0.004)],
)
def test_a_build_does_not_differ_from_itself(runs: int, values: int, apart: float) -> None:
    source = Random(f"{runs} {values} {apart}")
    differ = [two_of_one_build(source, runs, values, apart) for _ in range(REPETITIONS)]
    assert sum(differ) < 0.05 * BENCHMARKS * REPETITIONS


@pytest.mark.parametrize("shape", SHAPES)
def test_a_slowdown_by_a_twentieth_is_found(shape: str) -> None:
    source = Random(f"slow {shape}")
    pairs = [
        (series(source, shape, 3, 15, 0.003), series(source, shape, 3, 15, 0.003, 1.05)) for _ in range(100)
    ]
    assert sum(change(*pair).loss for pair in pairs) >= 90
    assert sum(change(new, old).gain for old, new in pairs) >= 90


def test_quick_runs_find_it_where_it_is_quiet() -> None:
    source = Random(5)
    quiet = [tuple(value * (1 + source.gauss(0, 0.002)) for value in [FIGURE] * 9) for _ in range(100)]
    found = sum(change((run,), (tuple(1.06 * value for value in run),)).loss for run in quiet)
    assert found == 100


def test_what_is_too_little_to_be_believed_is_none() -> None:
    old = ((100.0, 100.1, 100.2, 100.1),) * 5
    assert not change(old, tuple(tuple(1.01 * value for value in run) for run in old)).significant
    assert change(old, tuple(tuple(1.03 * value for value in run) for run in old)).loss
    assert change(old, tuple(tuple(1.01 * value for value in run) for run in old), noise=INSTRUCTIONS).loss


def test_one_step_of_a_coarse_counter_is_none() -> None:
    old = ((100.0, 100.0, 110.0, 100.0, 100.0),) * 3
    assert grain(old) == 10
    assert not change(old, ((110.0, 110.0, 100.0, 110.0, 110.0),) * 3).significant
    assert change(old, ((130.0, 130.0, 120.0, 130.0, 130.0),) * 3).loss


def test_exact_numbers_are_compared_exactly() -> None:
    assert change(((5.0, 5.0),), ((5.001, 5.001),), exact=True).loss
    assert change(((5.0, 5.0),), ((4.0,),), exact=True).gain
    assert not change(((5.0,),), ((5.0,), (5.0,)), exact=True).significant
    assert not change(((5.0, 5.0, 5.01),), ((5.0, 5.0, 5.02),), exact=True).significant
    assert change(((0.0,),), ((1.0,),), exact=True).ratio is None


def test_nothing_at_all_has_no_ratio() -> None:
    source = Random(4)
    runs = [tuple(tuple(source.gauss(0, 1) for _ in range(15)) for _ in range(3)) for _ in range(40)]
    changes = [change(old, new) for old, new in pairwise(runs)]
    assert {each.ratio for each in changes} == {None}
    assert sum(each.significant for each in changes) <= 2
    assert change(runs[0], tuple(tuple(value + 5 for value in run) for run in runs[1])).loss


def test_outliers_are_shown_and_kept() -> None:
    values = (10.0, 10.2, 9.9, 10.1, 55.0, 10.0, 2.0)
    assert outliers(values) == (55.0, 2.0)
    assert outliers((1.0, 1.0, 1.0, 1.0, 2.0)) == (2.0,)
    assert outliers((1.0, 900.0)) == ()
    assert interval((values,)).middle == 10.0 and interval(((10.0,) * 3 + (50.0,) * 4,)).middle == 50.0


@pytest.mark.parametrize("runs", [(), ((),), ((1.0, nan),), ((1.0,), (inf,))])
def test_what_is_no_number_is_no_figure(runs: tuple[tuple[float, ...], ...]) -> None:
    with pytest.raises(ValueError, match="value"):
        interval(runs)
    with pytest.raises(ValueError, match="value"):
        change(((1.0,),), runs)


def test_runs_of_any_length_and_single_values() -> None:
    assert interval(((3.0,),)).middle == 3.0
    assert interval(((1.0, 2.0, 3.0), (), (2.0,))).middle == 2.0
    assert not change(((3.0,),), ((3.0,),)).significant


def test_the_same_values_give_the_same_interval() -> None:
    runs = series(Random(3), "skewed", 3, 15, 0.01)
    assert interval(runs) == interval([list(run) for run in runs])
