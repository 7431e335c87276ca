"""`kvmhost --version`: the program, what it would run on, and which blobs it carries.

The blobs are what runs at ring 0; their hashes tell apart two installations that say the same number.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kvmhost.cli.backend import inside_lab

HASH_DIGITS = 12


class ShowVersion(argparse.Action):
    """Print and end, as argparse's own version action does, but find out what to print only then."""

    def __init__(self, option_strings: Sequence[str], dest: str, **rest: Any) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, help=rest.get("help"))

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print("\n".join(lines()))
        parser.exit()


def lines() -> Iterator[str]:
    """What --version prints."""
    from importlib.metadata import version

    yield f"kvmhost {version('kvmhost')}"
    yield f"{'backend':<10} {backend()}"
    for name, digest in blobs():
        yield f"{name:<10} sha256 {digest[:HASH_DIGITS]}"


def backend() -> str:
    """vmx or svm where Guests run natively, lab in one and where one would be used, none without either."""
    from kvmhost import lab
    from kvmhost.doctor import native_verdict

    if inside_lab():
        return "lab"
    verdict = native_verdict()
    if verdict.ok:
        return verdict.backend
    return f"{'lab' if lab.check().ready else 'none'} ({verdict.reason})"


def blobs() -> Iterator[tuple[str, str]]:
    """Name and sha256, in hexadecimal, of each piece of ring-0 text in this installation."""
    for path in sorted((Path(__file__).parent.parent / "data" / "switcher").glob("*.bin")):
        yield path.stem, hashlib.sha256(path.read_bytes()).hexdigest()
