"""A word with a running QEMU: does its CPU sleep for ever?

A HLT with interrupts masked burns no CPU time, so a hang of that kind is not told from a busy machine by
waiting.  QEMU is asked instead, over a socket that it was born with: its human monitor prints the registers,
HLT among them.  Whatever it answers that is not understood means that nothing is known.
"""

from __future__ import annotations

import json
import re
import socket
from contextlib import suppress
from types import TracebackType
from typing import Self

#: An answer that has not come in so many seconds does not count any more.
PATIENCE_SECONDS = 5.0
IF = 0x200
_HALTED = re.compile(r"\bEFL=([0-9a-f]{8}).*\bHLT=1\b|\bRFL=([0-9a-f]{8}).*\bHLT=1\b", re.S)


class Monitor:
    """Our end of the socket, and QEMU's; as a context manager for one start of an engine."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.settimeout(PATIENCE_SECONDS)
        self._file = self._ours.makefile("rwb")
        self._greeted = False
        self._silent = False

    @property
    def fd(self) -> int:
        """What the engine must inherit."""
        return self._theirs.fileno()

    def words(self) -> list[str]:
        """What to add to QEMU's command line."""
        return ["-chardev", f"socket,id=monitor,fd={self.fd}", "-mon", "chardev=monitor,mode=control"]

    def started(self) -> None:
        """The engine has its end now; with ours alone its death is an end of the file."""
        self._theirs.close()

    def asleep(self) -> bool:
        """Whether the CPU is halted with interrupts masked."""
        if self._silent:
            return False
        try:
            found = halted(self._registers())
        except (OSError, ValueError):
            self._silent = True
            return False
        return found

    def _registers(self) -> str:
        if not self._greeted:
            self._file.readline()
            self._ask("qmp_capabilities")
            self._greeted = True
        return str(self._ask("human-monitor-command", **{"command-line": "info registers"}))

    def _ask(self, command: str, **arguments: str) -> object:
        self._file.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self._file.flush()
        while line := self._file.readline():
            said = json.loads(line)
            if "event" not in said:
                return said.get("return", "")
        raise OSError("QEMU has gone")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._theirs.close()
        with suppress(OSError):
            self._file.close()
        self._ours.close()


def halted(registers: str) -> bool:
    """Whether QEMU's registers are those of a CPU that no interrupt wakes.

    >>> halted("EIP=00412001 EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=1")
    True
    >>> halted("EIP=00412001 EFL=00000202 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=1")
    False
    """
    found = _HALTED.search(registers)
    return found is not None and not int(found[1] or found[2], 16) & IF
