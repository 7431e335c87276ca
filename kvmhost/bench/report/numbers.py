"""How numbers are told: in a size that people read, with as many digits as mean something."""

from __future__ import annotations

from kvmhost.bench.statistics import Interval

#: From the largest on: how much of the base it is, and its name.
SIZES = {
    "ns": ((1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns")),
    "bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "KB"), (1.0, "bytes")),
}


def amount(value: float, unit: str) -> str:
    """A figure with its unit.

    >>> amount(615.25, "ns"), amount(2.5e6, "ns"), amount(66.0, "instructions"), amount(39.25e6, "bytes")
    ('615 ns', '2.50 ms', '66 instructions', '39.2 MB')
    """
    factor, name = size(value, unit)
    return f"{digits(value / factor)} {name}".rstrip()


def size(value: float, unit: str) -> tuple[float, str]:
    """In what a figure is told: how much of its unit that is, and the name."""
    return next(((much, name) for much, name in SIZES.get(unit, ()) if abs(value) >= much), (1.0, unit))


def digits(value: float) -> str:
    """Three digits that mean something, or all before the point; whole numbers as such.

    >>> digits(815.5), digits(81.53), digits(0.125), digits(2000.0), digits(-0.0)
    ('816', '81.5', '0.125', '2000', '0')
    """
    if value == round(value) and abs(value) < 1e15:
        return f"{value:.0f}".replace("-0", "0") if value == 0 else f"{value:.0f}"
    return f"{value:.{max(0, 2 - exponent(value))}f}"


def exponent(value: float) -> int:
    """Of ten: 0 for 1 to 9.99, and never so small that digits would have no end.

    >>> exponent(815.0), exponent(0.02), exponent(1e-30)
    (2, -2, -6)
    """
    return max(-6, int(f"{abs(value):e}".partition("e")[2]))


def together(found: Interval, factor: float = 1.0) -> tuple[str, str]:
    """A figure and its interval's ends, all to the same digit: one that shows how far apart they are.

    >>> together(Interval(1602.0, 1600.0, 1602.5), 1000)
    ('1.602', '1.600 to 1.603')
    >>> together(Interval(66.0, 66.0, 66.0))
    ('66', '66 to 66')
    """
    ends = [end / factor for end in (found.middle, found.low, found.high)]
    if all(end == round(end) for end in ends):
        middle, low, high = map(digits, ends)
    else:
        usual = max(0, 2 - exponent(ends[0] or found.spread / factor))
        apart = found.spread / factor
        places = max(usual, min(usual + 2, -exponent(apart))) if apart else usual
        middle, low, high = (f"{end:.{places}f}" for end in ends)
    return middle, f"{low} to {high}"


def told(found: Interval, unit: str) -> str:
    """A figure with its interval and its unit.

    >>> told(Interval(2.5e6, 2.25e6, 3e6), "ns")
    '2.50 ms (2.25 to 3.00)'
    """
    factor, name = size(found.middle, unit)
    middle, ends = together(found, factor)
    return f"{middle} {name} ({ends})"
