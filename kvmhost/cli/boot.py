"""The second half of `kvmhost run`, where Guests really run: no longer root, and native or inside the lab."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvmhost.cli import results, voices
from kvmhost.cli.failures import DONE, GUEST_FAILED, INTERRUPTED, UsageError
from kvmhost.host.errors import KvmhostError
from kvmhost.host.outcome import Outcome, OutcomeKind
from kvmhost.host.statistics import Statistics
from kvmhost.kvm import Kvm
from kvmhost.launcher.machine import Machine
from kvmhost.switcher import load
from kvmhost.switcher.blobs import Blob

if TYPE_CHECKING:
    from kvmhost.host.guest import Guest
    from kvmhost.launcher.images import OpenImage


@dataclass(slots=True)
class Life:
    """One Guest from its first word to its end."""

    name: str
    words: bytearray = field(default_factory=bytearray)
    outcome: Outcome | None = None


@dataclass(slots=True)
class MachineRun:
    """What came of one machine: its Guests' lives, and the counters."""

    lives: list[Life]
    statistics: Statistics


def boot(arguments: argparse.Namespace, files: Mapping[str, OpenImage], device: int | None) -> int:
    """Run the Guests, one machine after the other, and print what came of them; the exit code."""
    blob = load(arguments.switcher, frame=arguments.frame, descriptors=arguments.descriptors)
    shares = [arguments.guests] if arguments.share else [[name] for name in arguments.guests]
    runs = []
    for names in shares:
        runs.append(run_machine(arguments, blob, [files[name] for name in names], files, device))
        if ending(runs) == INTERRUPTED:
            break
    if arguments.json:
        print(results.as_json(runs, blob, ending(runs)))
    elif arguments.stats:
        for run in runs:
            print(results.table(run.statistics), file=sys.stderr, flush=True)
    return ending(runs)


def run_machine(
    arguments: argparse.Namespace,
    blob: Blob,
    images: list[OpenImage],
    files: Mapping[str, OpenImage],
    device: int | None,
) -> MachineRun:
    """Make a machine, fill it, run it to the end, and take it down again."""
    with ExitStack() as held:
        kvm = held.enter_context(Kvm() if device is None else Kvm(fd=os.dup(device)))
        options = {"slice_seconds": arguments.slice} if arguments.slice else {}
        machine = held.enter_context(
            Machine(memory=arguments.memory, cpus=arguments.cpus, switcher=blob, kvm=kvm, **options)
        )
        lives: dict[Guest, Life] = {}
        for image in images:
            for guest in load_guests(machine, image, arguments.append, files.get(arguments.initrd)):
                lives[guest] = Life(guest.name)
                if arguments.shell:
                    from kvmhost.cli.shell import open_shell_for

                    open_shell_for(guest, machine)
        held_back = listen(lives, arguments.json)
        outcomes = machine.run(timeout=arguments.timeout)
        for voice in held_back:
            voice.finish()
        for guest, outcome in outcomes.items():
            lives[guest].outcome = outcome
            results.tell(guest.name, outcome)
        return MachineRun(list(lives.values()), machine.statistics())


def listen(lives: Mapping[Guest, Life], as_json: bool) -> list[voices.Lines]:
    """Let every Guest be heard; the voices that may hold something back are returned."""
    lines = []
    for guest, life in lives.items():
        if as_json:
            guest.console.append(life.words.extend)
        elif len(lives) == 1:
            guest.console.append(voices.speak)
        else:
            lines.append(voices.Lines(voices.speak))
            guest.console.append(lines[-1])
    return lines


def load_guests(
    machine: Machine, image: OpenImage, command_line: str, initrd: OpenImage | None
) -> list[Guest]:
    """The Guests of one image; too many for the machine is a matter of usage, not of this host."""
    try:
        return machine.load_all(image, command_line, initrd=initrd)
    except KvmhostError as error:
        if type(error) is not KvmhostError:
            raise
        raise UsageError(error.message, cause=error.cause, next_step=error.next_step) from error


def ending(runs: list[MachineRun]) -> int:
    """The exit code of all runs together: the first thing that went wrong."""
    outcomes = [life.outcome for run in runs for life in run.lives if life.outcome is not None]
    if any(outcome.kind is OutcomeKind.INTERRUPTED for outcome in outcomes):
        return INTERRUPTED
    return DONE if all(outcome.succeeded for outcome in outcomes) else GUEST_FAILED
