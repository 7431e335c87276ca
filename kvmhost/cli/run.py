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
    from kvmhost.cli.opened import Opened

EPILOG = """\
Several Guests run one after the other, each in a virtual machine of its own; --share puts them into one.
Under sudo kvmhost opens what it must and then becomes the user who called sudo.
On --net user a Guest has DHCP, or takes 10.0.2.15/24 with the name server 10.0.2.3; the gateway 10.0.2.2 is
this machine. Both answer a ping; one of any other machine gets through if the sysctl
net.ipv4.ping_group_range covers the user's group."""


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
    parser.add_argument(
        "--block",
        action="append",
        default=[],
        metavar="FILE[,ro]",
        help="a disk for the Guest: a raw image or a block device; may be repeated",
    )
    parser.add_argument(
        "--net",
        action="append",
        default=[],
        metavar="tap=NAME|user[,mac=..]",
        help="a network card for the Guest: on a TAP, or with no need of root; may be repeated",
    )
    parser.add_argument("--rng", action="store_true", help="a source of random numbers for each Guest")
    parser.add_argument("--reboot", action="store_true", help="boot a Guest again that asks for it")
    parser.add_argument("--abi", metavar="RELEASE", help="the Linux release whose ABI the Guests speak")
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
    output.add_argument(
        "--trace", metavar="FILE", help="every trap and device event, as JSON that Perfetto opens"
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
    from kvmhost.cli import trace
    from kvmhost.cli.disks import served
    from kvmhost.cli.opened import check_still_openable, check_trace, network_for_lab, open_all

    with ExitStack() as held:
        opened = open_all(arguments, held)
        if not backend.inside_lab():
            stop_being_root(arguments.user)
            check_trace(arguments.trace, opened)
            judge(arguments, opened, memory)
        if backend.goes_to_lab(arguments.backend, opened.device):
            check_still_openable(opened)
            network = network_for_lab(opened.cards)
            with served(opened.disks) as disks, trace.served(arguments.trace) as traces:
                guest_mib = len(arguments.guests) * memory >> 20
                return backend.run_in_lab(arguments.words, guest_mib, [*disks, *traces], network)
        from kvmhost.cli.boot import boot

        with trace.traced(arguments.trace, len(opened.disks)) as traced:
            return boot(arguments, opened, traced)


def check(arguments: argparse.Namespace) -> int:
    """What can be wrong with the words alone, before anything is opened; bytes of memory of a Guest.

    Raises UsageError and MemorySizeError.
    """
    if not arguments.guests:
        raise UsageError("which Guest?", next_step="`kvmhost run --list` tells those that come with kvmhost")
    from kvmhost._native import lib
    from kvmhost.launcher.memory import parse_memory

    memory = parse_memory(arguments.memory)
    if arguments.abi is not None:
        from kvmhost.launcher.generation import parse_abi

        parse_abi(arguments.abi)
    if arguments.cpus > lib.MAX_CPUS:
        raise UsageError(
            f"{arguments.cpus} virtual CPUs are too many", next_step=f"say --cpus with 1 to {lib.MAX_CPUS}"
        )
    for option, given in (
        ("--block", arguments.block),
        ("--net", arguments.net),
        ("--reboot", arguments.reboot),
    ):
        if given and len(arguments.guests) > 1:
            raise UsageError(
                f"{option} is for one Guest, and {len(arguments.guests)} are named",
                next_step="run each Guest with a command of its own",
            )
    if arguments.shell and arguments.json:
        raise UsageError("a shell and a JSON object both want stdout", next_step="choose --shell or --json")
    if (arguments.frame or arguments.descriptors) and arguments.switcher in ("seed", "hardened"):
        raise UsageError(
            f"--frame and --descriptors are known for {arguments.switcher}",
            next_step="leave them out, or name a Switcher object with --switcher FILE",
        )
    return memory


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


def judge(arguments: argparse.Namespace, opened: Opened, memory: int) -> None:
    """Read images and Switcher, so that a bad one is refused now and not when a lab has booted.

    What is taken but looks wrong is remarked on. Raises ImageError and SwitcherError.
    """
    from kvmhost.launcher.boot import lay_out
    from kvmhost.launcher.generation import parse_abi
    from kvmhost.launcher.images import parse
    from kvmhost.launcher.remarks import remarks
    from kvmhost.switcher import load

    abi = None if arguments.abi is None else parse_abi(arguments.abi)
    initrd = None if opened.initrd is None else opened.initrd.read()
    for name, file in opened.images.items():
        image = parse(file.read(), name, abi)
        lay_out(image, memory, arguments.append, initrd)
        for remark in remarks(image, memory, arguments.append, initrd):
            say(remark)
    load(arguments.switcher, frame=arguments.frame, descriptors=arguments.descriptors)


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
