"""The Guest "generation", once for every generation of the ABI, by the command that a user types.

Each is a test of the Host itself and says "Power down" only if everything was as a kernel of its release
needs it. One process runs them all, because in the lab starting Python costs more than running Guests.
"""

import json
import subprocess
import sys
from typing import Any

import pytest
from guests.running import HANGS_AFTER

from kvmhost.launcher.images import shipped_guests

pytestmark = pytest.mark.lab

# As the Guest prints them; the early console of 4.0 and later needs a device.
CHECKS = (
    "birth, INIT, own tables, async ring, paging, directories, segments, traps, ring 3, CPU, module, "
    "interrupts, iret, sleep."
)
NAMES = [guest.name for guest in shipped_guests() if guest.name.startswith("generation-")]

Life = dict[str, Any]


def run(names: list[str], *options: str) -> dict[str, Life]:
    """`kvmhost run` with Guests one after the other, and what became of each."""
    command = [sys.executable, "-P", "-m", "kvmhost", "run", *names, "--json", *options]
    child = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANGS_AFTER)
    assert child.stdout, child.stderr
    machines = json.loads(child.stdout)["machines"]
    lives = [guest | {"traps": machine["traps"]} for machine in machines for guest in machine["guests"]]
    return {life["name"]: life for life in lives}


@pytest.fixture(scope="module")
def lives() -> dict[str, Life]:
    return run(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_of_this_generation_finds_everything_as_it_needs_it(
    name: str, lives: dict[str, Life]
) -> None:
    life = lives[name]
    assert (life["outcome"], life["reason"]) == ("powered_off", "Power down"), life
    if int(name.split("-")[1][0]) < 4:
        assert life["words"].endswith(f": {CHECKS}\n"), life["words"]


def test_only_an_interrupt_gate_brings_system_calls_to_the_host(lives: dict[str, Life]) -> None:
    assert [name for name in NAMES if "syscall" in lives[name]["traps"]] == ["generation-4.6"]
