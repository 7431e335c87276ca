"""Programs that order a batch of their own, on this side of the worker (KVM-017).

What they measure is not in the results of the cases but in how the batch was played.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from ...case import Case, Observation
from ...scene import Scene
from ...stage import ADDRESS, Stage
from ...switchers import under_test
from .. import batch


class Played(Protocol):
    """How a batch was played."""

    runs: int

    def observation(self, index: int) -> Observation: ...


Play = Callable[[batch.Batch], Played]


# out 0x80, al: nobody is there, so nothing but the exit comes of it.
OUT = b"\xe6\x80"
PROGRAM_BYTES = 16


def round_trips(count: int, port: bool = False) -> list[Case]:
    """So many times into the Guest and home again, by the product's hardened Switcher.

    port: the Host writes to a port each time, which leaves the VM.
    """
    stage = Stage.of("pair", "legacy", under_test()["L3-hardened"])
    scene = Scene(stage)
    if port:
        program = scene.read(ADDRESS["HOST_CODE"], PROGRAM_BYTES)
        scene.write(ADDRESS["HOST_CODE"], OUT + program)
    scene.write(ADDRESS["G_CODE"], b"\xcd\x1f")
    return [
        Case("KVM-017", f"trip {n}", "L3-hardened", "P", stage.template, stage.cpu("trip"), scene.patches())
        for n in range(count)
    ]


def kvm_017(play: Play, parameters: Mapping[str, object]) -> Observation:
    """How often a batch of undisturbed trips leaves the VM, and how many of them came home."""
    trips = round_trips(int(str(parameters["trips"])), bool(parameters.get("port")))
    (laid,) = batch.batches(trips)
    answer = play(laid)
    home = sum(answer.observation(index).outcome == "trap" for index in range(len(trips)))
    return Observation("values", values={"exits": answer.runs, "home": home})


HERE: Mapping[str | None, Callable[[Play, Mapping[str, object]], Observation]] = {"kvm-017": kvm_017}
