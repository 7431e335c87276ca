"""Where a command that needs KVM runs: on this machine, or in the lab.

Nothing goes to the lab without a line that says so and why.  Inside it the same command runs again, word for
word; the lab tells it where it is, so it stays there.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from kvmhost.cli.failures import say

DEVICE = "/dev/kvm"
#: Memory of a lab in which nothing runs but kvmhost.
LAB_MIB = 1024
#: Set by the lab room for everything that runs in a lab, and a word of the lab's kernel's command line.
IN_LAB = "KVMHOST_IN_LAB"
LAB_MARK = "kvmhost.lab=1"
KERNEL_COMMAND_LINE = Path("/proc/cmdline")


class HostCannot(Exception):
    """This machine cannot run Guests natively, and the lab was ruled out.

    >>> HostCannot("no KVM", cause="no /dev/kvm", next_step="load kvm_amd").cause
    'no /dev/kvm'
    """

    def __init__(self, message: str, *, cause: str, next_step: str) -> None:
        super().__init__(message)
        self.message = message
        self.cause = cause
        self.next_step = next_step


def add_option(parser: argparse.ArgumentParser) -> None:
    """--backend, for every command that needs KVM."""
    parser.add_argument(
        "--backend",
        choices=("auto", "native", "lab"),
        default="auto",
        help="this machine's KVM, or the one inside QEMU; auto (default) is native if that works",
    )


def inside_lab() -> bool:
    """Whether this process is the one that the lab was started for.

    The variable alone is not believed: in somebody's own environment it would keep kvmhost root.  One that
    does not say the truth is removed, so that nobody else believes it either.
    """
    if IN_LAB not in os.environ:
        return False
    try:
        inside = LAB_MARK in KERNEL_COMMAND_LINE.read_text().split()
    except OSError:
        inside = False
    if not inside:
        del os.environ[IN_LAB]
    return inside


def goes_to_lab(wanted: str, device: int | None) -> bool:
    """Decide, and say so on stderr if it is the lab; HostCannot if `native` is demanded and cannot be had.

    `device` is the open /dev/kvm, None if it could not be opened.
    """
    if inside_lab():
        return False
    if wanted == "lab":
        say("running in the lab, as --backend lab asks: times mean nothing there")
        return True
    from kvmhost.doctor import native_verdict

    verdict = native_verdict(DEVICE, fd=device)
    if verdict.ok:
        return False
    if wanted == "native":
        raise HostCannot(
            "this machine cannot run Guests natively",
            cause=verdict.reason,
            next_step=verdict.next_step or "see `kvmhost doctor`, or leave --backend native out for the lab",
        )
    say(f"running in the lab, because native cannot work: {verdict.reason}")
    return True


def run_in_lab(
    words: Sequence[str],
    guest_mib: int,
    channels: Sequence[int] = (),
    network: Mapping[str, str] | None = None,
) -> int:
    """Run `kvmhost WORDS` in a lab with room for so many MiB of Guests, and return its exit code.

    `channels`: what the kvmhost inside is served through (see lab.run).  `network`: the lab has one, and
    these variables tell the kvmhost inside what it is; None for no network.
    """
    from kvmhost.lab import run

    return run(
        [sys.executable, "-P", "-m", "kvmhost", *words],
        env={**os.environ, **(network or {})},
        memory=f"{LAB_MIB + guest_mib}M",
        network=network is not None,
        channels=channels,
        own_keys=True,
    )
