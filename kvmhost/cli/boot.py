"""The second half of `kvmhost run`, where Guests really run: no longer root, and native or inside the lab.

A machine lives as long as its Guests.  One that asks to be restarted gets a new machine, in which nothing is
left of the old one but what was typed and not yet read, and the counters, which go on.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvmhost.cli import results
from kvmhost.cli.advice import LastWords, advise
from kvmhost.cli.failures import DONE, GUEST_FAILED, INTERRUPTED, UsageError, say
from kvmhost.cli.seat import Seat
from kvmhost.cli.voices import Kept, Lines
from kvmhost.host.errors import KvmhostError
from kvmhost.host.outcome import Outcome, OutcomeKind
from kvmhost.host.statistics import Statistics
from kvmhost.kvm import Kvm
from kvmhost.launcher.machine import Machine
from kvmhost.switcher import load
from kvmhost.switcher.blobs import Blob

if TYPE_CHECKING:
    from kvmhost.cli.opened import Opened
    from kvmhost.host.guest import Guest
    from kvmhost.host.trace import TraceFile


#: How long a Guest's last words may take after --timeout.
LAST_WORDS_SECONDS = 2.0


@dataclass(slots=True)
class Life:
    """One Guest from its first word to its end; with --reboot, to the end of its last life."""

    name: str
    image: str
    words: Kept = field(default_factory=Kept)
    last_words: LastWords = field(default_factory=LastWords)
    outcome: Outcome | None = None
    advice: str | None = None
    boots: int = 1


@dataclass(slots=True)
class MachineRun:
    """What came of one machine, or of several behind each other: its Guests' lives, and the counters."""

    lives: list[Life]
    statistics: Statistics

    def restarts(self) -> bool:
        """Whether its one Guest wants to live again."""
        outcome = self.lives[0].outcome
        return len(self.lives) == 1 and outcome is not None and outcome.kind is OutcomeKind.RESTARTED

    def go_on_as(self, later: MachineRun) -> MachineRun:
        """The same Guest, restarted."""
        life, next_life = self.lives[0], later.lives[0]
        life.words.go_on(next_life.words)
        life.advice = next_life.advice
        life.outcome = next_life.outcome
        life.boots += 1
        return MachineRun([life], self.statistics + later.statistics)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run, on what; everything is open already."""

    arguments: argparse.Namespace
    opened: Opened
    blob: Blob
    trace: TraceFile | None


def boot(arguments: argparse.Namespace, opened: Opened, trace: TraceFile | None = None) -> int:
    """Run the Guests, one machine after the other, and print what came of them; the exit code."""
    blob = load(arguments.switcher, frame=arguments.frame, descriptors=arguments.descriptors)
    plan = Plan(arguments, opened, blob, trace)
    shares = [arguments.guests] if arguments.share else [[name] for name in arguments.guests]
    runs: list[MachineRun] = []
    with Seat(with_input=not arguments.shell) as seat:
        for names in shares:
            runs.append(run_to_the_end(plan, names, seat))
            seat.end_line()
            tell(runs[-1])
            if seat.ended_by is not None or ending(runs) == INTERRUPTED:
                break
    code = ending(runs)
    if arguments.json:
        print(results.as_json(runs, blob, code))
    elif arguments.stats:
        results.print_tables(runs)
    return 128 + (seat.ended_by or signal.SIGINT) if code == INTERRUPTED else code


def tell(run: MachineRun) -> None:
    """How each Guest ended, on stderr."""
    for life in run.lives:
        if life.outcome is not None:
            results.tell(life.name, life.outcome, life.advice)


def run_to_the_end(plan: Plan, names: list[str], seat: Seat) -> MachineRun:
    """One machine; and with --reboot another one, as often as its Guest asks for it."""
    timeout = plan.arguments.timeout
    deadline = None if timeout is None else time.monotonic() + timeout
    run = run_machine(plan, names, seat, timeout)
    while plan.arguments.reboot and run.restarts() and seat.ended_by is None:
        seat.end_line()
        say(f"{run.lives[0].name} is restarted")
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        run = run.go_on_as(run_machine(plan, names, seat, left))
    return run


def run_machine(plan: Plan, names: list[str], seat: Seat, timeout: float | None) -> MachineRun:
    """Make a machine, fill it, run it to the end, and take it down again."""
    arguments = plan.arguments
    with ExitStack() as held:
        kvm = held.enter_context(Kvm() if plan.opened.device is None else Kvm(fd=os.dup(plan.opened.device)))
        options = {"slice_seconds": arguments.slice} if arguments.slice else {}
        machine = held.enter_context(
            Machine(memory=arguments.memory, cpus=arguments.cpus, switcher=plan.blob, kvm=kvm, **options)
        )
        held.callback(seat.leave)
        lives = fill(machine, plan, names, seat)
        if arguments.stats or plan.trace is not None:
            machine.watch(plan.trace)
        held_back = listen(lives, arguments.json, seat)
        seat.machine = machine
        seat.outlet.begin()
        if timeout is not None:
            # A reader who does not read must not keep a Guest whose time is over.
            machine.clock.after(timeout + LAST_WORDS_SECONDS, seat.outlet.give_up)
        outcomes = machine.run(timeout=timeout)
        for voice in held_back:
            voice.finish()
        for guest, outcome in outcomes.items():
            life = lives[guest]
            life.outcome = outcome
            life.advice = advise(
                outcome,
                bytes(life.last_words),
                plan.opened.images[life.image],
                arguments.memory,
                plan.opened.initrd,
            )
        return MachineRun(list(lives.values()), machine.statistics())


def fill(machine: Machine, plan: Plan, names: list[str], seat: Seat) -> dict[Guest, Life]:
    """Load the Guests of one machine; the first one gets what is typed."""
    lives: dict[Guest, Life] = {}
    for name in names:
        for guest in load_guests(machine, plan, name, seat, first=not lives):
            lives[guest] = Life(guest.name, name)
            if plan.arguments.shell:
                from kvmhost.cli.shell import open_shell_for

                open_shell_for(guest, machine)
    return lives


def load_guests(machine: Machine, plan: Plan, name: str, seat: Seat, *, first: bool) -> list[Guest]:
    """The Guests of one image; too many for the machine is a matter of usage, not of this host."""
    arguments = plan.arguments
    try:
        return machine.load_all(
            plan.opened.images[name],
            arguments.append,
            initrd=plan.opened.initrd,
            abi=arguments.abi,
            console=seat.new_console() if first else None,
            block=plan.opened.disks,
            net=plan.opened.cards,
            rng=arguments.rng,
        )
    except KvmhostError as error:
        if type(error) is not KvmhostError:
            raise
        raise UsageError(error.message, cause=error.cause, next_step=error.next_step) from error


def listen(lives: Mapping[Guest, Life], as_json: bool, seat: Seat) -> list[Lines]:
    """Let every Guest be heard; the voices that may hold something back are returned."""
    lines = []
    for guest, life in lives.items():
        guest.console.append(life.last_words)
        if as_json:
            guest.console.append(life.words)
        elif len(lives) == 1:
            guest.console.append(seat.outlet)
        else:
            lines.append(Lines(seat.outlet))
            guest.console.append(lines[-1])
    return lines


def ending(runs: list[MachineRun]) -> int:
    """The exit code of all runs together: the first thing that went wrong."""
    outcomes = [life.outcome for run in runs for life in run.lives if life.outcome is not None]
    if any(outcome.kind is OutcomeKind.INTERRUPTED for outcome in outcomes):
        return INTERRUPTED
    return DONE if all(outcome.succeeded for outcome in outcomes) else GUEST_FAILED
