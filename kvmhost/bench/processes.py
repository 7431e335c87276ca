"""Measured on processes of their own: what a Guest costs beside its memory, and `kvmhost run` itself."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kvmhost.bench.benchmark import Sample
from kvmhost.bench.errors import Unmeasurable

if TYPE_CHECKING:
    from kvmhost.bench.benchmark import Setting

DEVICE: Final = Path("/dev/kvm")
#: A process that says nothing for so long, in seconds, is ended.
PATIENCE: Final = 120.0
#: How much of what a process complained of is told.
LAST_WORDS: Final = 300
PYTHON: Final = (sys.executable, "-P", "-m")
#: Nothing but KVM of this machine (or of the lab that we are in) is what is to be timed.
RUN: Final = (*PYTHON, "kvmhost", "run", "--backend", "native", "hello")
MEASURED: Final = "kvmhost.bench.beside"


def beside_guest(setting: Setting) -> Sample:
    """Bytes of memory that a process with one Guest has, beside the Guest's own.  Raises Unmeasurable."""
    inherited = () if setting.device is None else (setting.device,)
    words = [*PYTHON, MEASURED, *(str(fd) for fd in inherited)]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            pass_fds=inherited,
        )
    except subprocess.TimeoutExpired as error:
        raise Unmeasurable(f"a process with one Guest did not answer within {PATIENCE:g} s") from error
    if done.returncode != 0 or not done.stdout.strip().isdecimal():
        raise Unmeasurable(f"a process with one Guest failed: {last_words(done.stderr)}")
    return Sample(float(done.stdout), 1)


def no_command() -> str:
    """Why `kvmhost run` cannot use KVM by itself; nothing if it can.

    The descriptor of /dev/kvm that we may have been given is of no use to a command.
    """
    if os.access(DEVICE, os.R_OK | os.W_OK):
        return ""
    return f"`kvmhost run` opens {DEVICE} itself, and this user may not"


def first_output(words: tuple[str, ...] = RUN, seconds: float = PATIENCE, to_end: float = PATIENCE) -> int:
    """Nanoseconds from starting a command until the first byte of its output; it must end well.

    seconds: how long is waited for that byte; to_end: and for the end, after it.  Raises Unmeasurable.  The
    process has ended in any case.
    """
    begun = time.perf_counter_ns()
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        try:
            assert process.stdout is not None
            readable, _, _ = select.select([process.stdout], [], [], seconds)
            if not readable:
                raise Unmeasurable(f"`{words[-2]} {words[-1]}` said nothing for {seconds:g} s")
            first = os.read(process.stdout.fileno(), 1)
            took = time.perf_counter_ns() - begun
            _, complaints = process.communicate(timeout=to_end)
        except subprocess.TimeoutExpired as error:
            raise Unmeasurable(f"`{words[-2]} {words[-1]}` did not end within {to_end:g} s") from error
        finally:
            process.kill()
    if not first or process.returncode != 0:
        text = last_words(complaints.decode("utf-8", "replace"))
        raise Unmeasurable(f"`{words[-2]} {words[-1]}` ended with {process.returncode}: {text}")
    return took


def run_command(loops: int) -> Sample:
    """`kvmhost run` of the shipped Guest, until its first word."""
    return Sample(float(sum(first_output() for _ in range(loops))), loops)


def last_words(text: str) -> str:
    """The end of what a process complained of, on one line.

    >>> last_words("much\\n\\nkvmhost: no KVM\\n")
    'much kvmhost: no KVM'
    """
    return " ".join(text.split())[-LAST_WORDS:] or "it said nothing"
