"""`kvmhost inspect`: what an image is, and whether kvmhost can run it, without running it.

The exit code is the answer for scripts: 0 if it can be run, 1 if not.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kvmhost.cli.failures import DONE, GUEST_FAILED, UsageError, report

if TYPE_CHECKING:
    from kvmhost.launcher.inspect import Inspection

EPILOG = """\
IMAGE is a vmlinux or a bzImage, a Guest of your own, or the name of one that comes with kvmhost. The exit
code is 0 if kvmhost can run it and 1 if not."""
NOT_KNOWN = "not known"
WIDTH = 17


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The words of this command."""
    parser = commands.add_parser(
        "inspect",
        help="tell what an image is, and whether it can run",
        description="Tell what an image is, and whether kvmhost can run it.",
        epilog=EPILOG,
    )
    parser.add_argument("image", metavar="IMAGE", help="a kernel or another Guest")
    parser.add_argument(
        "--abi", metavar="RELEASE", help="take it for a Guest of this release, whatever it says"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    """Open, read, print."""
    from kvmhost.launcher import images
    from kvmhost.launcher.errors import ImageError
    from kvmhost.launcher.generation import parse_abi
    from kvmhost.launcher.inspect import inspect

    abi = None if arguments.abi is None else parse_abi(arguments.abi)
    try:
        file = images.open_image(arguments.image)
    except ImageError as error:
        raise UsageError(error.message, cause=error.cause, next_step=error.next_step) from error
    with file:
        try:
            found = inspect(images.parse(file.read(), arguments.image, abi))
        except ImageError as error:
            return tell_no_image(arguments, error)
    if arguments.json:
        print(as_json(found))
    else:
        print("\n".join(lines(found)))
        if not found.runs:
            report(ImageError(found.problem, found.next_step, found.cause))
    return DONE if found.runs else GUEST_FAILED


def tell_no_image(arguments: argparse.Namespace, error: Exception) -> int:
    """What cannot be read as an image at all."""
    if arguments.json:
        import json

        parts = {part: str(getattr(error, part, "")) for part in ("cause", "next_step")}
        problem = str(getattr(error, "message", error))
        print(json.dumps({"name": arguments.image, "runs": False, "problem": problem, **parts}, indent=2))
    else:
        report(error)
    return GUEST_FAILED


def as_json(found: Inspection) -> str:
    """Every field, by its name."""
    import dataclasses
    import json

    return json.dumps(dataclasses.asdict(found), indent=2)


def lines(found: Inspection) -> Iterator[str]:
    """One line a fact, and at the end what follows."""
    import textwrap

    from kvmhost.cli.results import plain

    for title, text in facts(found):
        yield textwrap.fill(
            plain(text), 110, initial_indent=f"{title:<{WIDTH}}", subsequent_indent=" " * WIDTH
        )
    if found.runs:
        yield f"kvmhost can run it: kvmhost run {plain(found.name)}" + how_to_run(found)


def facts(found: Inspection) -> Iterator[tuple[str, str]]:
    """Titles and texts, for any image first, then what only a kernel has."""
    yield "format", found.format
    if found.about:
        yield "what it shows", found.about
    if found.release is not None:
        yield "kernel", f"Linux {found.release}"
    if found.banner:
        yield "built", found.banner
    yield "ABI", f"{found.abi}, that of {found.releases}; said by {found.abi_from}"
    yield "devices by", found.bus
    if found.release is not None:
        yield from facts_of_a_kernel(found)
    elif found.tables is not None:
        yield "page tables", f"{found.tables} levels"
    yield "loaded at", f"{found.start:#x} to {found.end:#x}, begins at {found.entry:#x}"
    if found.needs > found.end:
        yield "runs up to", f"{found.needs:#x}"
    yield (
        "memory",
        f"{-(-found.needs >> 20)} MiB for itself"
        + (f", and it uses at most {found.most >> 20} MiB" if found.most else ""),
    )
    if found.copies > 1:
        yield "copies", f"{found.copies} of it are run together"


def facts_of_a_kernel(found: Inspection) -> Iterator[tuple[str, str]]:
    """What Linux is asked about."""
    guest = {True: f"yes: {found.init}" if found.init else "yes", False: "no", None: NOT_KNOWN}[found.guest]
    yield "built as a Guest", guest
    if found.guest is False:
        yield "what it lacks", ", ".join(f"CONFIG_{option}=y" for option in found.missing)
    levels = {None: NOT_KNOWN, 2: "2 levels", 3: "3 levels (PAE)"}
    yield "page tables", levels[found.tables]
    yield "PAGE_OFFSET", NOT_KNOWN if found.page_offset is None else f"{found.page_offset:#x}"
    yield "highmem", yes_or_no(found.highmem)
    if found.drivers is not None:
        yield "drivers", ", ".join(found.drivers) or "none"
    if found.missing_drivers:
        yield "drivers missing", ", ".join(f"CONFIG_{option}" for option in found.missing_drivers)
    yield "initrd", {True: "can unpack one", False: "no CONFIG_BLK_DEV_INITRD", None: NOT_KNOWN}[found.initrd]
    if found.carries_init:
        yield "first program", "built in"
    yield "configuration", "carried along" if found.configuration else "not carried along: seen in its texts"


def how_to_run(found: Inspection) -> str:
    """The rest of a command line that is likely to do."""
    return " --initrd FILE" if found.release is not None and not found.carries_init else ""


def yes_or_no(answer: bool | None) -> str:
    """For people."""
    return {True: "yes", False: "no", None: NOT_KNOWN}[answer]
