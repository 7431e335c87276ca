"""Two Guests and their registers: ten thousand switches, and a thousand moves between CPUs.

Each copy compares every register with what it put there and reads where other CPUs' pairs would be; any
difference ends it with the word FAILED. What it counted is read from its memory, by the addresses in
guests/pair.h.
"""

import struct
from dataclasses import dataclass

import pytest
from guests.running import listen, run_until

from kvmhost import Machine
from kvmhost.host.guest import Guest

pytestmark = pytest.mark.lab

REPORT_AT, MAGIC = 0x100000, 0x52494150
FOREVER = "ticks=4000000000 period=500000 dwell=5000"
PAIR_0, PAIR_1 = 0xFFC01000, 0xFFC03000


@dataclass(frozen=True)
class Report:
    magic: int
    copy: int
    rounds: int
    compared: int
    ticks: int
    moves: int
    cpus_seen: int
    probes: int
    retries: int
    roots: int
    first_pair: int
    second_pair: int


def report(guest: Guest) -> Report:
    return Report(*struct.unpack("<12I", guest.ram.read(REPORT_AT, 48)))


def words_of(guests: list[Guest]) -> dict[str, list[bytes]]:
    return {guest.name: listen(guest) for guest in guests}


@pytest.mark.parametrize("switcher", ["seed", "hardened"])
def test_two_guests_on_one_cpu_never_see_each_other(switcher: str) -> None:
    with Machine(memory="4M", switcher=switcher) as machine:
        guests = machine.load_all("pair", FOREVER)
        words = words_of(guests)
        run_until(machine, guests, lambda: machine.cpus[0].c.switches >= 10_000)
        assert [guest.outcome for guest in guests] == [None, None], words
        statistics = machine.statistics()
        assert statistics.switches >= 10_000
        assert statistics.guest_changes >= 200
        for copy, guest in enumerate(guests):
            seen = report(guest)
            assert (seen.magic, seen.copy) == (MAGIC, copy)
            assert seen.rounds > 100
            assert seen.compared > 60 * seen.rounds - 60
            assert (seen.cpus_seen, seen.first_pair) == (1, PAIR_0)
            # Fifteen other CPUs, two pages each, under every page table it used.
            assert seen.probes >= 30 * seen.roots > 30


@pytest.mark.parametrize("switcher", ["seed", "hardened"])
def test_two_guests_move_between_two_cpus(switcher: str) -> None:
    """A third Guest, which only spins, keeps them from settling on a CPU each."""
    with Machine(memory="4M", switcher=switcher, cpus=2, slice_seconds=0.001) as machine:
        guests = machine.load_all("pair", FOREVER)
        words = words_of(guests)
        spinner = machine.load("preempt", "ticks=4000000000 period=1000000")
        run_until(
            machine,
            [*guests, spinner],
            lambda: all(guest.moves >= 1000 and report(guest).moves >= 100 for guest in guests),
        )
        assert [guest.outcome for guest in machine.guests] == [None, None, None], words
        for guest in guests:
            seen = report(guest)
            assert guest.moves >= 1000
            assert seen.cpus_seen == 3
            assert {seen.first_pair, seen.second_pair} == {PAIR_0, PAIR_1}
            assert seen.probes >= 15 * seen.roots
