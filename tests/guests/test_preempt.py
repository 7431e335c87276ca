"""A Guest that never gives the CPU up: interrupted, and taken from one CPU to the other, all the same."""

import pytest
from guests.running import listen, run_until

from kvmhost import Machine, OutcomeKind

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("switcher", ["seed", "hardened"])
def test_a_thousand_moves_between_two_cpus(switcher: str) -> None:
    with Machine(memory="4M", switcher=switcher, cpus=2, slice_seconds=0.001) as machine:
        guest = machine.load("preempt", "ticks=4000000000")
        words = listen(guest)
        run_until(machine, [guest], lambda: guest.moves >= 1000)
        assert guest.outcome is None, words
        assert guest.moves >= 1000
        assert guest.cpus_seen == {0, 1}


def test_it_says_on_which_cpus_it_was() -> None:
    with Machine(memory="4M", cpus=2, slice_seconds=0.001) as machine:
        guest = machine.load("preempt", "ticks=60 period=2000000")
        words = listen(guest)
        outcome = machine.run(timeout=300)[guest]
        text = b"".join(words).decode()
        assert outcome.kind is OutcomeKind.POWERED_OFF, text
        assert "60 clock interrupts while spinning." in text
        assert "3 more while asleep." in text
        assert "CPUs seen: mask 0x3, " in text
