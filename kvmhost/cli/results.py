"""What `kvmhost run` shows when Guests have ended: how, and at what cost.

A number says nothing without the machine it was counted on, so the table ends with a line that names it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kvmhost.cli.failures import say
from kvmhost.host.outcome import OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvmhost.cli.boot import MachineRun
    from kvmhost.host.outcome import Outcome
    from kvmhost.host.statistics import Statistics
    from kvmhost.host.watch import Times
    from kvmhost.switcher.blobs import Blob

INTERRUPTS = "interrupt"


def tell(name: str, outcome: Outcome, advice: str | None = None) -> None:
    """How a Guest ended, on stderr, with advice where there is some."""
    say(f"{name} {outcome.kind.value}" + (f": {plain(outcome.reason)}" if outcome.reason else ""))
    if outcome.kind is OutcomeKind.RESTARTED:
        print("  what to do: --reboot boots it again", file=sys.stderr)
    if outcome.report:
        for line in outcome.report.split("\n"):
            print(f"  {plain(line)}", file=sys.stderr)
    if advice:
        print(f"  what to do: {plain(advice)}", file=sys.stderr)


def plain(text: str) -> str:
    """Text that may be the Guest's, on one line of ours: what a terminal would obey is spelled out.

    >>> plain("Oops" + chr(27) + "[2J")
    'Oops\\\\x1b[2J'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_tables(runs: Sequence[MachineRun]) -> None:
    """The counters of each machine, on stderr; where there are several, each under its Guests' names."""
    for run in runs:
        if len(runs) > 1:
            print(f"{' and '.join(life.name for life in run.lives)}:", file=sys.stderr)
        print(table(run.statistics), file=sys.stderr, flush=True)


def table(statistics: Statistics) -> str:
    """World switches, traps by kind and where each was handled, on what; several lines.

    Every trap is one world switch, and every world switch one KVM_RUN unless an interrupt came between.
    """
    rows = [("what", "times", "handled in"), ("world switch", f"{statistics.switches:,}", "")]
    rows += [(kind, f"{count:,}", ", ".join(places)) for kind, count, places in trap_rows(statistics)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{what:<{widths[0]}}  {times:>{widths[1]}}  {where}".rstrip() for what, times, where in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    for name, times in statistics.times.items():
        lines += ["", *time_table(name, times)]
    return "\n".join([*lines, origin(statistics)])


def time_table(name: str, times: Times) -> list[str]:
    """Where one Guest's time went: by place, then Python's by kind of trap, the longest first."""
    places = (
        ("Guest and world switch", times.inside),
        ("KVM", times.kvm),
        ("shim", times.shim),
        ("Python", times.python_ns),
    )
    whole = sum(spent for _, spent in places) or 1
    each = f"{whole / 1000 / (times.traps or 1):,.1f} us a trap"
    lines = [f"time of {name}: {whole / 1e9:.3f} s while it ran, {each}"]
    lines += [f"  {place:<40} {spent / 1e9:>9.3f} s {spent / whole:>6.1%}" for place, spent in places]
    lines.append("  Python, by kind of trap" + " " * 21 + "time      count   us each")
    kinds = sorted(times.python.items(), key=lambda item: -item[1][1])
    lines += [
        f"    {kind:<38} {spent / 1e9:>9.3f} s {count:>9,} {spent / 1000 / count:>9.1f}"
        for kind, (count, spent) in kinds
    ]
    lines.append(
        f"  (KVM: {times.runs:,} KVM_RUN at {times.exit_ns / 1000:.1f} us, the price of an empty one)"
    )
    return lines


def trap_rows(statistics: Statistics) -> Iterator[tuple[str, int, list[str]]]:
    """Kind, count and places of each kind of trap that came, most frequent first; interrupts at the end."""
    counts = {trap.name: count for trap, count in statistics.traps.items()}
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        yield name.lower().replace("_", " "), counts[name], places_of(name, statistics.handled)
    if statistics.interrupts:
        yield "interrupt to the Host", statistics.interrupts, places_of(INTERRUPTS, statistics.handled)


def places_of(name: str, handled: Mapping[tuple[str, str], int]) -> list[str]:
    """Where this kind was handled; with the count of each place if there were several."""
    places = {place: count for (kind, place), count in handled.items() if kind == name and count}
    return list(places) if len(places) == 1 else [f"{place} {count:,}" for place, count in places.items()]


def origin(statistics: Statistics) -> str:
    """The line that says what the numbers were counted on."""
    return (
        f"{statistics.switcher} Switcher on {statistics.backend} "
        f"({statistics.cpu}, Linux {statistics.kernel}), counted in one run"
    )


def as_json(runs: Sequence[MachineRun], blob: Blob, exit_code: int) -> str:
    """Everything as one JSON object."""
    import json

    return json.dumps(
        {
            "exit_code": exit_code,
            "switcher": {"name": blob.name, "sha256": blob.sha256},
            "machines": [machine_as_dict(run) for run in runs],
        },
        indent=2,
    )


def machine_as_dict(run: MachineRun) -> dict[str, Any]:
    """One machine of the JSON object."""
    statistics = run.statistics
    return {
        "backend": statistics.backend,
        "cpu": statistics.cpu,
        "kernel": statistics.kernel,
        "guests": [
            {
                "name": life.name,
                "outcome": life.outcome.kind.name.lower() if life.outcome else None,
                "reason": life.outcome.reason if life.outcome else None,
                "report": life.outcome.report if life.outcome else None,
                "advice": life.advice,
                "boots": life.boots,
                "words": life.words.text,
                "words_lost": life.words.lost,
            }
            for life in run.lives
        ],
        "switches": statistics.switches,
        "kvm_runs": statistics.runs,
        "interrupts": statistics.interrupts,
        "traps": {trap.name.lower(): count for trap, count in statistics.traps.items()},
        "handled": [
            {"kind": kind.lower(), "place": place, "count": count}
            for (kind, place), count in statistics.handled.items()
        ],
        "guest_changes": statistics.guest_changes,
        "moves": statistics.moves,
        "kicks": statistics.kicks,
        "signals": statistics.signals,
        "nmis": statistics.nmis,
        "times": {
            name: {
                "inside_ns": times.inside,
                "kvm_ns": times.kvm,
                "shim_ns": times.shim,
                "exit_ns": times.exit_ns,
                "python": [
                    {"kind": kind, "count": count, "ns": spent}
                    for kind, (count, spent) in times.python.items()
                ],
            }
            for name, times in statistics.times.items()
        },
    }
