"""Which of the instructions that an engine went through are the case's own."""

from __future__ import annotations

from collections.abc import Iterable

from ..stage import ADDRESS, ARENA, ARENA_SIZE, PAGE, SW

#: So many of the last instructions are told; whoever wants more has a loop to look at.
KEPT = 256


def of_the_case(addresses: Iterable[int]) -> tuple[int, ...]:
    """Those in the arena and in the Switcher, without the monitor's and the collector's second page, ours.

    >>> [hex(each) for each in of_the_case([0x100000, 0x400000, ADDRESS["COLLECT2"], SW + 4])]
    ['0x400000', '0xffc00004']
    """
    return tuple(address for address in addresses if _inside(address))


def _inside(address: int) -> bool:
    if SW <= address < SW + 2 * PAGE:
        return True
    return ARENA <= address < ARENA + ARENA_SIZE and address & -PAGE != ADDRESS["COLLECT2"]
