"""Figures as people write them: three digits that count, the unit that fits, and ticks at round numbers."""

from __future__ import annotations

from math import ceil, floor, log10

from kvmhost.bench.benchmark import Unit
from kvmhost.bench.figures import CLOCKS, shows_times
from kvmhost.bench.results import Provenance

#: What each unit is printed in, smallest first: from which figure on, its word.
STEPS: dict[Unit, tuple[tuple[float, str], ...]] = {
    Unit.NANOSECONDS: ((1, "ns"), (1e3, "µs"), (1e6, "ms"), (1e9, "s")),
    Unit.BYTES: ((1, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB")),
    Unit.CYCLES: ((1, "cycles"),),
    Unit.COUNT: ((1, ""),),
}


def meaningful(unit: Unit, provenance: Provenance) -> bool:
    """Whether a figure of this unit means something by itself where it was taken."""
    return unit not in CLOCKS or shows_times(provenance, False)


def step(value: float, unit: Unit, icount: bool = False) -> tuple[float, str]:
    """What to divide a figure by, and the word for that.

    >>> step(41_200, Unit.NANOSECONDS), step(64, Unit.CYCLES, icount=True)
    ((1000.0, 'µs'), (1, 'instructions'))
    """
    if unit in CLOCKS and icount:
        return 1, "instructions"
    return [one for one in STEPS[unit] if abs(value) >= one[0] or one[0] == 1][-1]


def digits(value: float) -> str:
    """A number with three digits that count; whole from 100 on.

    >>> [digits(value) for value in (0, 1, 1.234, 61.0, 61.26, 412.4, 65536, -0.004)]
    ['0', '1', '1.23', '61', '61.3', '412', '65,536', '-0.004']
    """
    if value == 0 or abs(value) >= 99.95:
        return f"{value:,.0f}"
    places = max(0, 2 - floor(log10(abs(value))))
    text = f"{value:.{min(places, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def amount(value: float, unit: Unit, icount: bool = False) -> str:
    """A figure with its unit.

    >>> amount(41_200, Unit.NANOSECONDS), amount(412, Unit.CYCLES), amount(3, Unit.COUNT)
    ('41.2 µs', '412 cycles', '3')
    """
    by, word = step(value, unit, icount)
    return f"{digits(value / by)} {word}".rstrip()


def between(low: float, high: float, unit: Unit, icount: bool = False) -> str:
    """An interval, in the unit of its upper end.

    >>> between(41_000, 41_500, Unit.NANOSECONDS)
    '41 to 41.5 µs'
    """
    by, word = step(high, unit, icount)
    return f"{digits(low / by)} to {digits(high / by)} {word}".rstrip()


def exact(number: float) -> str:
    """A count as it is: never rounded where it is a whole number.

    >>> exact(1234567.0), exact(0.125)
    ('1,234,567', '0.125')
    """
    return f"{number:,.0f}" if number == int(number) else f"{number:,.6g}"


def times(ratio: float) -> str:
    """A ratio.

    >>> times(1.0512), times(12.345), times(0.98)
    ('1.051×', '12.3×', '0.980×')
    """
    return f"{ratio:.3f}×" if ratio < 10 else f"{digits(ratio)}×"


def count(number: int, thing: str) -> str:
    """How many of a thing.

    >>> count(1, "run"), count(1200, "value")
    ('1 run', '1,200 values')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from low to high, about so many.

    >>> ticks(0, 412), ticks(397, 431, 4)
    ([0.0, 100.0, 200.0, 300.0, 400.0], [400.0, 410.0, 420.0, 430.0])
    """
    if not high > low:
        return [low]
    rough = (high - low) / max(about, 1)
    power = 10.0 ** floor(log10(rough))
    width = next(power * one for one in (1, 2, 5, 10) if power * one >= rough * 0.999)
    first = ceil(low / width - 1e-9)
    return [round(number * width, 12) for number in range(first, floor(high / width + 1e-9) + 1)]


def even(numbers: list[float]) -> list[str]:
    """Numbers of one axis, all with as many places as the finest needs.

    >>> even([1.0, 1.25, 1.5]), even([0.0, 1000.0])
    (['1.00', '1.25', '1.50'], ['0', '1,000'])
    """
    places = next(
        (
            few
            for few in range(7)
            if all(abs(round(one, few) - one) < 1e-9 * max(1, abs(one)) for one in numbers)
        ),
        6,
    )
    return [f"{one:,.{places}f}" for one in numbers]


def anchor(name: str) -> str:
    """A benchmark's name as something an address can lead to.

    >>> anchor("switch/round-trip")
    'b-switch-round-trip'
    """
    return "b-" + "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in name)
