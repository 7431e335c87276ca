"""After the failure of a random trip: the smallest state that fails as well.

A batch of random states says that something is wrong, and hides what under twenty numbers.  The failing ones
are shrunk, one trip after the other, and what is left is said in words: everything that is not named is
zero, or a selector that any state has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from .case import Case
from .expand import expand, of_this_run
from .families.trips import RANDOM, State
from .row import Row
from .switcher_image import SwitcherImage

Plays = Callable[[Case], bool]


def smallest(
    row: Row, seed: int, layer: str, switcher: SwitcherImage, failed: Mapping[str, bool], fails: Plays
) -> str:
    """The smallest state with which a row of random states fails on a layer, in words; "" if none did.

    failed says of each case by its name whether it failed; fails plays one more.
    """
    from .families import states

    kind, make = RANDOM[row.family]
    drawn = of_this_run(row, seed)

    def state_fails(state: State) -> bool:
        one = replace(drawn, family="", cases=(make(drawn, "the smallest state", state),))
        return all(map(fails, expand(one, {layer: switcher})))

    numbered = {int(name.split()[-1]): failure for name, failure in failed.items()}
    found = states.smallest(kind, drawn.parameters["seed"], numbered, state_fails)
    return words(found) if found is not None else ""


def words(state: State) -> str:
    """What is not zero in a state.

    >>> words({"eip": "G_CODE", "eax": 0, "ebx": 300, "gs": "UDS", "fs": "0", "above": [0, 5]})
    'eip = G_CODE, ebx = 0x12c, gs = UDS, above[1] = 0x5'
    """
    parts: list[tuple[str, object]] = []
    for name, value in state.items():
        if isinstance(value, list):
            parts += [(f"{name}[{number}]", each) for number, each in enumerate(value)]
        else:
            parts.append((name, value))
    return ", ".join(
        f"{name} = {value if isinstance(value, str) else f'{value:#x}'}"
        for name, value in parts
        if value not in (0, "0")
    )
