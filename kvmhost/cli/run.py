"""`kvmhost run`: boot Guests and show what they say.

The order is what matters.  While kvmhost may still be root it opens /dev/kvm and every image that was named,
and reads none of them; then it becomes the person who typed the command; only then is it decided where to
run, and an image looked at.  stdout carries the Guests' own words and nothing else; what kvmhost has to say
goes to stderr.
"""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from kvmhost.cli import backend
from kvmhost.cli.failures import DONE, UsageError, say

if TYPE_CHECKING:
    from kvmhost.launcher.images import OpenImage

EPILOG = """\
Several Guests run one after the other, each in a virtual machine of its own; --share puts them into one.
Under sudo kvmhost opens what it must and then becomes the user who called sudo."""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The words of this command."""
    parser = commands.add_parser("run", help="boot Guests", description="Boot Guests.", epilog=EPILOG)
    parser.add_argument(
        "guests", nargs="*", metavar="GUEST", help="a file, or the name of a Guest of kvmhost's own"
    )
    parser.add_argument("--list", action="store_true", help="tell which Guests come with kvmhost, and end")
    parser.add_argument(
        "--memory", default="64M", metavar="SIZE", help="memory of each Guest, such as 64M (default)"
    )
    parser.add_argument(
        "--cpus", type=positive, default=1, metavar="N", help="virtual CPUs of a machine (default 1)"
    )
    parser.add_argument("--append", default="", metavar="TEXT", help="the command line a Guest finds")
    parser.add_argument("--initrd", metavar="FILE", help="an initial RAM disk for each Guest")
    parser.add_argument(
        "--share", action="store_true", help="all Guests in one virtual machine, sharing its CPUs"
    )
    parser.add_argument(
        "--slice", type=milliseconds, metavar="MS", help="time slice of Guests that share a CPU"
    )
    parser.add_argument("--timeout", type=seconds, metavar="SECONDS", help="end a machine that runs longer")
    switcher = parser.add_argument_group("the Switcher")
    switcher.add_argument(
        "--switcher", default="hardened", metavar="NAME", help="hardened (default), seed, or a FILE"
    )
    switcher.add_argument("--frame", choices=("2.6.23", "2.6.24"), help="order of the registers, for a FILE")
    switcher.add_argument(
        "--descriptors", type=int, choices=(6, 8), help="bytes of a table descriptor, for a FILE"
    )
    output = parser.add_argument_group("what is shown")
    output.add_argument("--stats", action="store_true", help="a table of world switches and traps at the end")
    output.add_argument(
        "--json", action="store_true", help="one JSON object on stdout, the Guests' words in it"
    )
    output.add_argument("--shell", action="store_true", help="a Python shell at a trap that nobody handles")
    parser.add_argument("--user", metavar="NAME", help="who to become when started as root")
    backend.add_option(parser)
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    """Open, stop being root, decide where, run."""
    if arguments.list:
        return list_guests()
    memory = check(arguments)
    with ExitStack() as held:
        files = open_images(arguments, held)
        device = open_device(held)
        if not backend.inside_lab():
            stop_being_root(arguments.user)
            judge(arguments, files, memory)
        if backend.goes_to_lab(arguments.backend, device):
            check_still_openable(files)
            return backend.run_in_lab(arguments.words, len(arguments.guests) * memory >> 20)
        from kvmhost.cli.boot import boot

        return boot(arguments, files, device)


def check(arguments: argparse.Namespace) -> int:
    """What can be wrong with the words alone, before anything is opened; bytes of memory of a Guest.

    Raises UsageError and MemorySizeError.
    """
    if not arguments.guests:
        raise UsageError("which Guest?", next_step="`kvmhost run --list` tells those that come with kvmhost")
    from kvmhost._native import lib
    from kvmhost.launcher.memory import parse_memory

    memory = parse_memory(arguments.memory)
    if arguments.cpus > lib.MAX_CPUS:
        raise UsageError(
            f"{arguments.cpus} virtual CPUs are too many", next_step=f"say --cpus with 1 to {lib.MAX_CPUS}"
        )
    if arguments.shell and arguments.json:
        raise UsageError("a shell and a JSON object both want stdout", next_step="choose --shell or --json")
    if (arguments.frame or arguments.descriptors) and arguments.switcher in ("seed", "hardened"):
        raise UsageError(
            f"--frame and --descriptors are known for {arguments.switcher}",
            next_step="leave them out, or name a Switcher object with --switcher FILE",
        )
    return memory


def open_images(arguments: argparse.Namespace, held: ExitStack) -> dict[str, OpenImage]:
    """Every file that was named, by that name, opened and not read; a name that cannot be is a UsageError."""
    from kvmhost.launcher.errors import ImageError
    from kvmhost.launcher.images import open_image

    files = {}
    for name in [*arguments.guests, *([arguments.initrd] if arguments.initrd else [])]:
        if name not in files:
            try:
                files[name] = held.enter_context(open_image(name))
            except ImageError as error:
                raise UsageError(error.message, cause=error.cause, next_step=error.next_step) from error
    return files


def open_device(held: ExitStack) -> int | None:
    """/dev/kvm, while we may; None if it cannot be had, for then the doctor will say why."""
    try:
        device = os.open(backend.DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    held.callback(os.close, device)
    return device


def stop_being_root(user: str | None) -> None:
    """Become whom we should be, and check that this user can still see the program that runs."""
    from kvmhost.launcher.privileges import settle

    standing = settle(user)
    if standing.remark:
        say(standing.remark)
    for needed in (os.__file__, __file__):
        if not os.access(needed, os.R_OK):
            name = standing.account.name if standing.account else "this user"
            raise backend.HostCannot(
                f"{name} cannot read kvmhost itself",
                cause=f"{Path(needed).parent} is closed to {name}",
                next_step="install kvmhost where that user can read it, or name another with --user",
            )


def judge(arguments: argparse.Namespace, files: dict[str, OpenImage], memory: int) -> None:
    """Read images and Switcher, so that a bad one is refused now and not when a lab has booted.

    Raises ImageError and SwitcherError.
    """
    from kvmhost.launcher.boot import lay_out
    from kvmhost.launcher.images import parse
    from kvmhost.switcher import load

    initrd = files[arguments.initrd].read() if arguments.initrd else None
    for name in dict.fromkeys(arguments.guests):
        lay_out(parse(files[name].read(), name), memory, arguments.append, initrd)
    load(arguments.switcher, frame=arguments.frame, descriptors=arguments.descriptors)


def check_still_openable(files: dict[str, OpenImage]) -> None:
    """The lab opens the images again, as the user that this process is by now; UsageError if it could not."""
    from kvmhost.launcher.errors import ImageError
    from kvmhost.launcher.images import open_image

    for name in files:
        try:
            open_image(name).close()
        except ImageError as error:
            raise UsageError(
                f"the lab cannot open {name}",
                cause=f"only root can, and the lab does not run as root: {error.cause}",
                next_step="make the file readable for the user who runs kvmhost",
            ) from error


def list_guests() -> int:
    """What comes with kvmhost, each with the paragraph that opens its source.

    A Guest that was built several times, for several generations, is one entry with its names behind it.
    """
    import textwrap

    from kvmhost.launcher.images import shipped_guests

    families: dict[str, list[str]] = {}
    for guest in shipped_guests():
        families.setdefault(guest.about, []).append(guest.name)
    for about, names in families.items():
        family = names[0] if len(names) == 1 else names[0].split("-")[0] + "-*"
        print(textwrap.fill(about, 100, initial_indent=f"{family:<14}", subsequent_indent=" " * 14))
        if len(names) > 1:
            print(textwrap.indent(textwrap.fill(", ".join(names), 86, break_on_hyphens=False), " " * 14))
    return DONE


def positive(text: str) -> int:
    """A whole number above zero, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def seconds(text: str) -> float:
    """A time above zero, in seconds, for argparse."""
    number = float(text)
    if not 0 < number < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not a time in seconds")
    return number


def milliseconds(text: str) -> float:
    """A time given in milliseconds, as seconds, for argparse."""
    return seconds(text) / 1000
