"""How fast this CPU's time-stamp counter counts.

TCG hands the host's counter through to the lab, whose kernel measures its frequency
against a timer chip while it starts.  On a busy host that measurement can be wrong by
whole factors, and then the lab's seconds are: a timeout of a minute ends after ten.
Here the counter is read directly, many times, so it can be measured well.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from collections.abc import Callable

# rdtsc; shl $32, %rdx; or %rdx, %rax; ret
_READ_TSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")
_INTERVAL_NS = 20_000_000
_SAMPLES = 50


def _reader() -> tuple[Callable[[], int], mmap.mmap] | None:
    """A function that reads the counter, and the page it lives on; None where that is forbidden."""
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return None
    page.write(_READ_TSC)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return ctypes.CFUNCTYPE(ctypes.c_uint64)(address), page


def _sample(read: Callable[[], int]) -> tuple[int, int]:
    """(nanoseconds, ticks) of one moment: the reading, of many, that was interrupted least."""
    best: tuple[int, int, int] | None = None
    for _ in range(_SAMPLES):
        before = time.monotonic_ns()
        ticks = read()
        after = time.monotonic_ns()
        if best is None or after - before < best[0]:
            best = (after - before, (before + after) // 2, ticks)
    assert best is not None
    return best[1], best[2]


def tsc_khz() -> int | None:
    """The counter's frequency in kHz, measured over some 20 ms; None if it cannot be read.

    >>> khz = tsc_khz()
    >>> khz is None or 100_000 < khz < 100_000_000
    True
    """
    found = _reader()
    if found is None:
        return None
    read, _page = found
    start_ns, start = _sample(read)
    while time.monotonic_ns() - start_ns < _INTERVAL_NS:
        pass
    end_ns, end = _sample(read)
    return (end - start) * 1_000_000 // (end_ns - start_ns)
