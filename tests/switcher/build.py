"""Assemble a Switcher for a test, with the same compiler and constants as the build."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

NATIVE = Path(__file__).parents[2] / "native"
SOURCES = NATIVE / "switcher"
COMPILER = (
    *("gcc", "-m32", "-march=i686", "-ffreestanding", "-fno-pic", "-fno-pie"),
    *("-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-Wa,--fatal-warnings"),
)


@cache
def constants() -> Path:
    """A folder with the assembler's constants, made as the build makes them."""
    folder = Path(mkdtemp(prefix="kvmhost-constants-"))
    atexit.register(shutil.rmtree, folder)
    listing = folder / "asm_offsets.s"
    _run(*COMPILER, "-O1", f"-I{NATIVE / 'abi'}", "-S", SOURCES / "asm_offsets.c", "-o", listing)
    _run(sys.executable, NATIVE / "tools" / "asm_offsets.py", listing, folder / "asm_offsets.h")
    return folder


def assemble(source: Path, target: Path, *options: str) -> Path:
    """Assemble one file to an object."""
    _run(*COMPILER, *options, f"-I{constants()}", f"-I{SOURCES}", "-c", source, "-o", target)
    return target


def _run(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True)


def variant(name: str, folder: Path, *changes: tuple[str, str]) -> Path:
    """Assemble a shipped Switcher's source with some words changed; each must occur exactly once.

    What is changed may lie in the source itself or in the stubs that it includes.
    """
    text = (SOURCES / f"{name}.S").read_text()
    include = '#include "stubs.S"'
    text = text.replace(include, (SOURCES / "stubs.S").read_text())
    for old, new in changes:
        if text.count(old) != 1:
            raise AssertionError(f"{old!r} occurs {text.count(old)} times in {name}.S")
        text = text.replace(old, new)
    source = folder / "changed.S"
    source.write_text(text)
    return assemble(source, folder / "changed.o")
