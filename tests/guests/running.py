"""Running a shipped Guest and catching its words. The limit in seconds is for one that hangs, no measure."""

from collections.abc import Callable
from dataclasses import dataclass

from kvmhost import Machine, Outcome
from kvmhost.host.guest import Guest
from kvmhost.host.statistics import Statistics

HANGS_AFTER = 300


@dataclass(frozen=True)
class Life:
    """What one Guest said, and how it ended."""

    name: str
    words: str
    outcome: Outcome

    @property
    def lines(self) -> list[str]:
        return self.words.splitlines()


def listen(guest: Guest) -> list[bytes]:
    """Collect what a Guest prints."""
    words: list[bytes] = []
    guest.console.append(words.append)
    return words


def run(
    name: str, command_line: str = "", switcher: str = "hardened", cpus: int = 1, memory: str = "4M"
) -> tuple[list[Life], Statistics]:
    """Load every copy of a Guest and run them all to their ends."""
    with Machine(memory=memory, cpus=cpus, switcher=switcher) as machine:
        guests = machine.load_all(name, command_line)
        words = {guest: listen(guest) for guest in guests}
        outcomes = machine.run(timeout=HANGS_AFTER)
        lives = [Life(g.name, b"".join(words[g]).decode(), outcomes[g]) for g in guests]
        return lives, machine.statistics()


def run_until(machine: Machine, guests: list[Guest], goal: Callable[[], bool]) -> None:
    """Run until the goal is reached, or one of the Guests is over and never can."""
    machine.run(timeout=HANGS_AFTER, until=lambda: goal() or any(guest.outcome for guest in guests))
