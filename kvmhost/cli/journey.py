"""`kvmhost journey`: read the project from beginning to end.

The commentary is printed stop by stop, each with the code it speaks of; on a terminal, through a pager.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from kvmhost.cli.failures import DONE, UsageError

if TYPE_CHECKING:
    from kvmhost.cli.commentary import Stop


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The words of this command."""
    parser = commands.add_parser(
        "journey",
        help="read how it all works, in order, with the code beside it",
        description="Print the project's commentary in reading order, each piece with its code.",
    )
    parser.add_argument(
        "stops", nargs="*", metavar="STOP", help="a part (S) or a place (S70); all of them if none"
    )
    parser.add_argument("--list", action="store_true", help="only the first sentence of each place")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    """Find, order, print."""
    from kvmhost.cli.commentary import in_reading_order, installed_sources

    stops = in_reading_order(installed_sources())
    chosen = [stop for stop in stops if not arguments.stops or is_wanted(stop.tag, arguments.stops)]
    for word in arguments.stops:
        if not any(is_wanted(stop.tag, [word]) for stop in stops):
            raise UsageError(
                f"no place on the Journey is called {word}",
                next_step="`kvmhost journey --list` names them all",
            )
    lines = list(contents(chosen) if arguments.list else pages(chosen))
    show("\n".join(lines) + "\n")
    return DONE


def is_wanted(tag: str, words: list[str]) -> bool:
    """Whether one of the words names this tag or its part."""
    return any(word.upper() in (tag, tag[0]) for word in words)


def contents(stops: Iterable[Stop]) -> Iterator[str]:
    """One line a stop."""
    for stop in stops:
        yield f"{stop.tag:<5} {stop.headline}"


def pages(stops: Iterable[Stop]) -> Iterator[str]:
    """Everything: a title for each part, then prose and code of each of its stops."""
    from kvmhost.cli.commentary import PARTS

    part = ""
    for stop in stops:
        if stop.part != part:
            part = stop.part
            yield from ("", f"{part}.  {PARTS[part]}", "=" * 72)
        yield from ("", f"[{stop.tag}]  {stop.path}, line {stop.line}", "")
        yield from stop.prose
        yield ""
        for number, line in enumerate(stop.code, stop.code_line):
            yield f"{number:>6} | {line}".rstrip()


def show(text: str) -> None:
    """Through a pager on a terminal, as it is otherwise."""
    if sys.stdout.isatty():
        import pydoc

        pydoc.pager(text)
    else:
        sys.stdout.write(text)
