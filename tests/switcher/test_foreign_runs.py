"""Switchers that are not ours run a Guest: what the loader made of an object is seen to work."""

from __future__ import annotations

from pathlib import Path

import pytest
from switcher.test_foreign import GENERATIONS, build

from kvmhost import Machine, Trap
from kvmhost.switcher import load

pytestmark = pytest.mark.lab


# Where a Guest finds its GDT: the first pair's state page and the two columns of the ABI description.
GDT_AT = {8: hex(0xFFC02000 + 2192), 6: hex(0xFFC02000 + 2184)}


def run_hello(switcher: str) -> tuple[str, str, int]:
    """What hello said, how it ended, and how many hypercalls it made."""
    said: list[bytes] = []
    with Machine(memory="8M", switcher=switcher) as machine:
        guest = machine.load("hello")
        guest.console.append(said.append)
        outcome = guest.run(timeout=60)
        return b"".join(said).decode(), outcome.kind.name, machine.statistics().traps[Trap.HYPERCALL]


@pytest.mark.parametrize(("frame", "size"), GENERATIONS)
def test_hello_under_a_foreign_switcher(frame: str, size: int, tmp_path: Path) -> None:
    path = str(build(tmp_path, frame, size))
    assert load(path).layout.frame == frame
    said, ending, hypercalls = run_hello(path)
    assert ending == "POWERED_OFF"
    assert f"My GDT is at {GDT_AT[size]}" in said
    assert (said.replace(GDT_AT[size], GDT_AT[6]), ending, hypercalls) == run_hello("hardened")
