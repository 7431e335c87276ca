"""A Guest that does anything at all may die; nothing of the Host's shows and nothing else is raised."""

import random
from typing import Any

import pytest
from host.paging_model import BLOCK, RAM, SWITCHER, Mmu, make

from kvmhost.host.errors import GuestBroke
from kvmhost.host.memory import VmMemory
from kvmhost.host.page_pool import LEAST_PAGES

LIVES, STEPS = 40, 80
BORDERS = [0, 0x1000, 0x3000, 0x3FFF, 0x4000, 0x4800, 0x1FF000, 0x200000, 0x203000, 0xC0000000]
BORDERS += [0xC0001000, 0xFFBFF000, SWITCHER, SWITCHER + 0x1000, 0xFFFFF000, 0xFFFFFFFF]
OUTSIDE = b"\x01\x00\x00\x00\x00\x00\x00\x80" * 512


def garbage(source: random.Random, ram: int) -> bytes:
    """Pages of entries that mostly lead to each other, some just beyond RAM, some with bits not allowed."""
    width = source.choice([4, 8])
    pages = min(ram >> 12, 4)
    flags = [0x67] * 9 + [0x63, 0x27, 0x25, 0x3, 0x1, 0x0, 0x66, 0x87, 0x167]

    def entry(choices: list[int]) -> bytes:
        frame = source.randrange(max(pages, 1))
        if source.random() < 0.05:
            frame = source.choice([ram >> 12, (ram >> 12) + 1, 0xFFFFF])
        return (frame << 12 | source.choice(choices)).to_bytes(width, "little")

    def page(choices: list[int]) -> bytes:
        return b"".join(entry(choices) for _ in range(4096 // width))

    # Page 1 is a top level, of which PAE allows only P.
    return (page(flags) + page([1] if width == 8 else flags) + page(flags) + page(flags))[:ram]


class Life:
    """One Guest and the source of its whims."""

    def __init__(self, memory: VmMemory, seed: int, ram: int) -> None:
        self.source = random.Random(seed)
        self.memory, self.ram = memory, ram
        memory.write(RAM, garbage(self.source, ram))
        memory.write(RAM + ram, OUTSIDE)
        kernel = min(self.word(), SWITCHER - 1)
        self.tables = make(memory, ram=ram, kernel=kernel, pool_pages=LEAST_PAGES)
        self.before = memory.read(0, BLOCK)
        self.fixed = 0

    def word(self) -> int:
        return self.source.choice([*BORDERS, self.source.getrandbits(32), self.source.getrandbits(32)])

    def top(self) -> int:
        return self.source.choice(
            [0x1000, 0x1000, 0x1000, 0x1020, 0x1FE0, 0x2000, self.word(), self.ram - 16]
        )

    def step(self) -> None:
        tables: Any = self.tables
        whim = self.source.randrange(20)
        if whim < 10:
            self.fixed += tables.demand_page(self.word(), self.source.choice([0, 1, 2, 3, 4, 6, 7, 16]))
        elif whim < 12:
            tables.new_pgtable(self.top() & 0xFFFFFFFF)
        elif whim < 15:
            tables.set_pte(self.top(), self.word(), self.word(), self.source.choice([0, 0, self.word()]))
        elif whim == 15:
            tables.set_pgd(self.top(), self.source.choice([0, 1, 3, 4, 767, 1023, 1024, self.word()]))
        elif whim == 16:
            tables.set_pmd(self.top(), self.source.choice([0, 511, 512, self.word()]))
        elif whim == 17:
            self.source.choice([tables.flush_user, tables.flush_all])()
        elif whim == 18:
            state = tables.state
            state.esp1, state.stack_pages, state.ss1 = self.word(), self.source.randrange(4), 0x69
            tables.pin_stack()
        else:
            found = tables.translate(self.word(), self.source.random() < 0.5)
            assert found is None or found < self.ram

    def check(self) -> None:
        assert self.tables.audit() == []
        for leaf in Mmu(self.memory).leaves(self.tables.root):
            inside = leaf.physical >= RAM and leaf.physical + leaf.size <= RAM + self.ram
            assert inside or leaf.linear >= SWITCHER, f"{leaf} is not the Guest's"


@pytest.mark.parametrize("ram", [0, 0x1000, 0x4000, 0x4800, 0x203000])
def test_no_guest_reaches_the_host(ram: int) -> None:
    fixed = deaths = 0
    for seed in range(LIVES):
        with VmMemory() as memory:
            life = Life(memory, seed, ram)
            for _ in range(STEPS):
                try:
                    life.step()
                except GuestBroke as death:
                    assert death.reason, f"seed {seed}"
                    life.tables.state.stack_pages = 0
                    deaths += 1
                life.check()
            fixed += life.fixed
            assert memory.read(0, BLOCK) == life.before, "the Host area is as it was"
            assert memory.read(RAM + ram, 4096) == OUTSIDE, "and so is what follows RAM"
    assert deaths > LIVES, "garbage that breaks no rule tests nothing"
    assert fixed > LIVES or ram < 0x4000, "garbage that leads nowhere tests nothing"
