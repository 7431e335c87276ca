"""Starting real labs, each a process of its own as a user has it, and looking at them from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CODE = """
import json, sys
from kvmhost import lab
try:
    code = lab.run(sys.argv[2:], **json.loads(sys.argv[1]))
except lab.LabError as error:
    print(type(error).__name__, error, file=sys.stderr)
    code = 3
sys.exit(code)
"""

#: Much longer than a lab ever takes: only a hang reaches it.
PATIENCE = 120


def lab_line(*argv: str, **options: object) -> list[str]:
    """The line that runs a command in a lab."""
    return [sys.executable, "-P", "-c", CODE, json.dumps(options), *argv]


@contextmanager
def started(line: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process for as long as the block runs, with our ends of its output and no input."""
    with subprocess.Popen(
        line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def children(pid: int) -> list[int]:
    """The processes that a process has started and that are there now."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    """True unless the process has gone or is a zombie that nobody has asked about yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int) -> None:
    """Returns when a process that is not our child has ended; a hang is the test run's to notice."""
    subprocess.run(["tail", f"--pid={pid}", "-f", "/dev/null"], check=True, timeout=PATIENCE)
