"""What a Guest may do next, as data for hypothesis: each step is a World method and its arguments."""

from typing import Any

from host.paging_model import (
    DATA_FRAMES,
    KERNEL_SLOTS,
    NX,
    PAGES,
    PCD,
    PWT,
    RW,
    SLOTS,
    SPACES,
    US,
    USER_SLOTS,
    A,
    D,
    G,
    P,
    World,
)
from hypothesis import strategies as st

Step = tuple[Any, ...]

# Counted from the current one, which is the one that most often has something to lose.
spaces = st.sampled_from([0, 0, 0, 0, *range(1, SPACES)])
slots = st.sampled_from(SLOTS)
addresses = st.builds(lambda slot, page: slot + page * 0x1000, slots, st.sampled_from(PAGES))
guest_slots = st.sampled_from(USER_SLOTS + KERNEL_SLOTS)
bits = st.sets(st.sampled_from([RW, US, A, D, PWT, PCD, G, 0x200, NX])).map(sum)
rich = st.sampled_from(
    [RW | US, RW | US | A, RW | US | A | D, US | A, RW, RW | A | D, RW | US | D, US | A | NX]
)
present = st.builds(lambda frame, flags: frame | flags | P, st.sampled_from(DATA_FRAMES), bits | rich)
# Swap entries and the like: anything, as long as it is not present.
absent = st.integers(0, 2**32 - 1).map(lambda value: value & ~P)
# Read, write or fetch, from ring 3 or from ring 1.
access = st.tuples(st.sampled_from([(False, False), (True, False), (False, True)]), st.booleans()).map(
    lambda drawn: (drawn[0][0], drawn[1], drawn[0][1])
)
rights = st.sampled_from([0, RW, US, RW | US])

directory = st.tuples(
    st.just("directory"), spaces, guest_slots, st.sampled_from([0, 0, 1, 2]), rights, st.booleans()
)
changes: list[st.SearchStrategy[Step]] = [
    st.tuples(st.just("page_entry"), spaces, addresses, present, st.booleans()),
    st.tuples(st.just("page_entry"), spaces, addresses, present | absent, st.just(True)),
    directory,
    directory,
    st.tuples(st.just("top"), spaces, st.integers(0, 2), st.booleans()),
    st.tuples(st.just("switch"), st.integers(1, SPACES - 1)),
    st.tuples(st.just("switch"), st.integers(1, SPACES - 1)),
    st.sampled_from([("flush_user",), ("flush_all",), ("move", 0), ("move", 1)]),
]
# A change alone shows nothing: something must have been cached before, and be used after.
steps = st.tuples(
    st.one_of(*changes),
    addresses,
    st.lists(access, min_size=1, max_size=3),
    st.lists(access, min_size=1, max_size=3),
)
scenarios = st.lists(steps, min_size=10, max_size=40)


def populate(world: World) -> None:
    """Tables everywhere with different rights, and pages that anybody may use whom the tables let in."""
    for space in range(SPACES):
        for number, slot in enumerate(SLOTS):
            flags = [RW | US, RW, US, RW | US][number % 4]
            world.directory(space, slot, 0, flags, told=False)
            for page in PAGES:
                frame = DATA_FRAMES[(space * 5 + number * 3 + page) % len(DATA_FRAMES)]
                world.page_entry(space, slot + page * 0x1000, frame | P | RW | US, told=False)


def run(world: World, scenario: list[Step]) -> None:
    """Do all the steps, and prove after each one that nothing is open that should not be."""
    populate(world)
    for (name, *arguments), address, before, after in scenario:
        if name in ("page_entry", "directory", "top", "switch"):
            arguments[0] = (world.space + arguments[0]) % SPACES
        if name == "page_entry":
            address = arguments[1]
        elif name == "directory":
            address = arguments[1] | address & 0x1FFFFF
        for access in before:
            world.touch(address, *access)
        getattr(world, name)(*arguments)
        for access in after:
            world.touch(address, *access)
        world.check()
