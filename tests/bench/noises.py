"""Made-up measurements: what machines do to a figure, each kind of noise by a name and with its own truth.

Everything comes from a Random that the test has seeded, so that no figure ever flickers.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from random import Random

FIGURE = 1000.0


def normal(source: Random, _: float) -> float:
    return source.gauss(0.0, 0.02)


def skewed(source: Random, _: float) -> float:
    return source.expovariate(1.0) * 0.03 - 0.03 * log(2)


def bimodal(source: Random, _: float) -> float:
    return source.choice((-0.01, 0.01)) + source.gauss(0.0, 0.005)


def drift(source: Random, along: float) -> float:
    return 0.03 * (along - 0.5) + source.gauss(0.0, 0.01)


def with_outliers(source: Random, _: float) -> float:
    tail = source.choice((-0.4, 3.0)) if source.random() < 0.1 else 0.0
    return source.gauss(0.0, 0.01) + tail * source.random()


def quantised(source: Random, _: float) -> float:
    return 0.01 * round(source.gauss(0.0, 0.01) / 0.01)


def constant(source: Random, _: float) -> float:
    return 0.0


SHAPES: dict[str, Callable[[Random, float], float]] = {
    shape.__name__: shape for shape in (normal, skewed, bimodal, drift, with_outliers, quantised, constant)
}


def series(
    source: Random, shape: str, runs: int, values: int, apart: float = 0.0, factor: float = 1.0
) -> tuple[tuple[float, ...], ...]:
    """Runs of values around FIGURE x factor; runs lie apart by so large a part of it (one deviation)."""
    made = []
    for _ in range(runs):
        centre = FIGURE * factor * (1 + source.gauss(0.0, apart))
        made.append(tuple(centre * (1 + SHAPES[shape](source, number / values)) for number in range(values)))
    return tuple(made)
