"""An engine that is a program: started in memory of ours, watched, and ended for certain.

Its memory and all its files are memfds: nothing is left on a disk, whatever happens.  A hang is told by the
CPU time that the engine has burnt without a case coming to an end, so that a busy machine is not taken for
one; only an engine that sleeps is judged by the clock.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import MachineryBroke

# prctl(2): the signal that a process gets when its parent ends.
PR_SET_PDEATHSIG = 1
_TICKS = os.sysconf("SC_CLK_TCK")


class MemoryFile:
    """Bytes with a path that another process can open as long as we live."""

    def __init__(self, name: str, size: int = 0) -> None:
        self.fd = os.memfd_create(f"kvmhost-conform-{name}", os.MFD_CLOEXEC)
        self._map: mmap.mmap | None = None
        if size:
            os.ftruncate(self.fd, size)
            self._map = mmap.mmap(self.fd, size)

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def write(self, address: int, data: bytes) -> None:
        """Through the mapping if there is one, else into the file."""
        if self._map is not None:
            self._map[address : address + len(data)] = data
        else:
            os.pwrite(self.fd, data, address)

    def read(self, address: int, size: int) -> bytes:
        return (
            self._map[address : address + size] if self._map is not None else os.pread(self.fd, size, address)
        )

    def word(self, address: int) -> int:
        """A dword."""
        return int.from_bytes(self.read(address, 4), "little")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._map is not None:
            self._map.close()
        os.close(self.fd)


class Engine:
    """A running engine, in a session of its own: a Ctrl-C at the terminal is ours to handle, not its.

    console is where its standard output and error go; a pipe that nobody reads would block it.  environment
    is laid over our own; inherited are file descriptors that it is to have, by the same numbers.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        console: int,
        talk: bool = False,
        environment: Mapping[str, str] | None = None,
        inherited: Sequence[int] = (),
    ) -> None:
        set_option = ctypes.CDLL(None).prctl

        def die_with_us() -> None:
            set_option(PR_SET_PDEATHSIG, signal.SIGKILL)
            # An engine that aborts would leave its memory on the disk.
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        try:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE if talk else subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
                preexec_fn=die_with_us,
                pass_fds=inherited,
                bufsize=0,
            )
        except OSError as error:
            raise MachineryBroke(f"{words[0]} cannot be started", cause=str(error)) from error
        self.pidfd = os.pidfd_open(self.process.pid)
        self._started = time.monotonic()

    def cpu_seconds(self) -> float:
        """CPU time burnt so far; 0 once it has ended."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        os.close(self.pidfd)
        self.seconds = time.monotonic() - self._started


class Patience:
    """When to stop waiting for an engine that makes no progress.

    cpu: seconds of CPU time, of an engine that spins.  clock: seconds by the clock, of one that sleeps and
    cannot be asked whether it will wake; one that can is asked every `ask` seconds.
    """

    def __init__(self, cpu: float = 3.0, clock: float = 60.0, ask: float = 0.25) -> None:
        self.cpu, self.clock, self.ask = cpu, clock, ask
        self._place: object = None
        self._cpu_then = self._clock_then = self._asked = 0.0

    def over(self, place: object, engine: Engine, asleep: Callable[[], bool] | None = None) -> bool:
        """Whether the engine has been at one place for too long, or says that it sleeps for ever there."""
        now, burnt = time.monotonic(), engine.cpu_seconds()
        if place != self._place or burnt < self._cpu_then:
            self._place, self._cpu_then, self._clock_then, self._asked = place, burnt, now, now
        if asleep is not None and now - self._asked > self.ask:
            self._asked = now
            if asleep():
                return True
        return burnt - self._cpu_then > self.cpu or now - self._clock_then > self.clock
