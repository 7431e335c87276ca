"""Random states, drawn by hypothesis: many at once for a batch, and the smallest one that fails afterwards.

An engine plays a thousand trips in the time of one start, so nothing is tried while states are drawn: a run
draws all of them first.  Only when some have failed are they drawn again, from the same seed, now with what
became of each: hypothesis meets the first failure and shrinks it, one trip after the other.

A state is made of bytes that are one draw.  Of many small draws hypothesis would make most states by changing
a few numbers of an earlier one, and most numbers small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from .trips import ABOVE, ALWAYS, DATA, FREE_FLAGS, GPRS, HOST_DATA, NT_DF, RINGS, State

#: A failure is shrunk by so many trips of its own at most: each is a start of the engine.
SHRINKING = 250
WORD = 4
# SDM vol. 1, "x87 FPU Control Word", "x87 FPU Status Register" and "MXCSR Control and Status Register": every
# exception is masked, so its flag may be set; what the CPU computes from both, ES and B, stays 0.
FCW, PRECISIONS = 0x7F, (0x300, 0x200, 0)
FSW_FREE = 0x7F7F
MXCSR, MXCSR_FREE = 0x1F80, 0xE03F
REGISTERS, ST_BYTES, XMM_BYTES = 8, 10, 16


class Bytes:
    """Bytes taken one after the other; all zero they make the simplest state."""

    def __init__(self, data: bytes) -> None:
        self._left: Iterator[int] = iter(data)

    def word(self) -> int:
        """A dword."""
        return self.number(WORD)

    def number(self, size: int) -> int:
        """So many bytes as one number, highest byte first: what is smaller for hypothesis is smaller."""
        return int.from_bytes(bytes(next(self._left) for _ in range(size)), "big")

    def one_of(self, values: Sequence[Any]) -> Any:
        return values[next(self._left) % len(values)]


def guest(data: bytes) -> State:
    """A Guest's frame: every register, EFLAGS, segments and stack pointer."""
    some = Bytes(data)
    code, cs, ss, selectors, _ = RINGS[some.one_of(tuple(RINGS))]
    state: dict[str, Any] = {name: some.word() for name in GPRS}
    state |= {name: some.one_of(selectors) for name in DATA}
    flags = some.word() & FREE_FLAGS | ALWAYS
    return state | {"eip": code, "cs": cs, "ss": ss, "esp": some.word(), "eflags": flags}


def host(data: bytes) -> State:
    """What the Host keeps over a trip: EBP, its data segments, EFLAGS, and dwords above its frame."""
    some = Bytes(data)
    state: dict[str, Any] = {"ebp": some.word()}
    state |= {name: some.one_of(HOST_DATA if name == "ds" else ("0", *HOST_DATA)) for name in DATA}
    state["eflags"] = some.word() & FREE_FLAGS & ~NT_DF | 2
    return state | {"above": [some.word() for _ in range(ABOVE)]}


def fpu(data: bytes) -> State:
    """What FXRSTOR may load without an exception to come: control, status and tags, ST0 to 7, XMM0 to 7."""
    some = Bytes(data)
    return {
        "fcw": FCW | some.one_of(PRECISIONS) | (some.number(1) & 0xC) << 8,
        "fsw": some.number(2) & FSW_FREE,
        "ftw": some.number(1),
        "mxcsr": MXCSR | some.number(2) & MXCSR_FREE,
        "st": [some.number(ST_BYTES) for _ in range(REGISTERS)],
        "xmm": [some.number(XMM_BYTES) for _ in range(REGISTERS)],
    }


#: By name: how many bytes a state takes, and what is made of them.
KINDS: Mapping[str, tuple[int, Callable[[bytes], State]]] = {
    "guests": (1 + len(DATA) + WORD * (len(GPRS) + 2), guest),
    "hosts": (len(DATA) + WORD * (2 + ABOVE), host),
    "fpus": (7 + REGISTERS * (ST_BYTES + XMM_BYTES), fpu),
}


@cache
def drawn(kind: str, start: str, count: int) -> tuple[State, ...]:
    """So many states; the same for the same start and count, with the same hypothesis."""
    return tuple(map(KINDS[kind][1], _bytes(kind, start, count)))


@cache
def _bytes(kind: str, start: str, count: int) -> tuple[bytes, ...]:
    found: list[bytes] = []
    _each(kind, start, count, (Phase.generate,), found.append)
    return tuple(found)


def smallest(
    kind: str, start: str, failed: Mapping[int, bool], fails: Callable[[State], bool]
) -> State | None:
    """The smallest state that fails, from the first of those drawn that did.

    failed says of each drawn state, by its number, whether it failed; fails plays one that was not drawn.
    None if none of them did.
    """
    known = {data: failed[number] for number, data in enumerate(_bytes(kind, start, len(failed)))}
    worst: list[bytes] = []
    most = len(known) + SHRINKING
    make = KINDS[kind][1]

    def meet(data: bytes) -> None:
        if data not in known:
            known[data] = len(known) < most and fails(make(data))
        if known[data]:
            worst[:] = [data]
            raise _Failed

    try:
        _each(kind, start, len(failed), (Phase.generate, Phase.shrink), meet)
    except (_Failed, Flaky):
        return make(worst[0])
    return None


class _Failed(Exception):
    """This state fails."""


def _each(
    kind: str, start: str, count: int, phases: tuple[Phase, ...], meet: Callable[[bytes], None]
) -> None:
    """Let hypothesis draw, and meet every draw."""
    size = KINDS[kind][0]

    @seed(start)
    @settings(
        max_examples=count,
        phases=phases,
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.binary(min_size=size, max_size=size))
    def each(data: bytes) -> None:
        meet(data)

    each()
