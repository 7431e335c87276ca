"""From the words of a command line to an exit code.

The parser is built from the commands' own files; each adds its options and names the function that does the
work.  What that function raises ends here, as a sentence on stderr and a number (see `failures`), so that no
command needs a try of its own and nobody meets a traceback they did not ask for.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from kvmhost.cli import bench, conform, doctor, inspect, journey, lab, run, version
from kvmhost.cli.failures import BROKEN_PIPE, DONE, EXIT_CODES, INTERRUPTED, report


def main(argv: Sequence[str] | None = None) -> int:
    """Run one kvmhost command and return its exit code; `argv` None means this process's own.

    >>> main(["run"])  # argparse says on stderr that GUEST is missing
    2
    """
    occupy_standard_streams()
    try:
        code = obey(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; what is still buffered must not fail again at exit.
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:
        return report(error)


def occupy_standard_streams() -> None:
    """Put /dev/null where a standard stream was closed, or the first file we open would be taken for it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r" if number == 0 else "w"))  # noqa: SIM115


def obey(argv: Sequence[str]) -> int:
    """Parse and dispatch; argparse's own way of ending becomes an exit code like any other."""
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else DONE
    arguments.words = list(argv)  # what the lab has to repeat
    command: Callable[[argparse.Namespace], int] = arguments.command
    return command(arguments)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    whole = argparse.ArgumentParser(
        prog="kvmhost",
        description="lguest, the smallest hypervisor Linux ever had, brought back in user space on KVM.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument(
        "--version", action=version.ShowVersion, help="versions of the program and of its blobs"
    )
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for room in (run, bench, inspect, doctor, conform, lab, journey):
        room.add_to(commands)
    return whole
