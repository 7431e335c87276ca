"""QEMU's own CPU, TCG, as an engine: an oracle for logic that any machine with QEMU has.

QEMU is started in memory that is a file of ours, with the monitor and the whole batch in it already, and our
ROM for a BIOS.  So results are read from that file while it runs, a triple fault costs a reset of some
milliseconds (the monitor goes on with the next case by itself), and only a hang or a report needs a new
start.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from kvmhost._native import lib

from ..case import Case, Observation
from ..errors import MachineryBroke, RunnerAbsent
from ..results import Environment
from . import base, batch, probe, tcg_trace
from .batch import Batch
from .monitor import Monitor
from .process import Engine, MemoryFile, Patience

QEMU, PACKAGE = "qemu-system-x86_64", "qemu-system-x86"
# Where a product's Switcher reports a fault of its own: QEMU ends there.
PORT_REPORT = int(lib.PORT_SWITCHER_FAULT)
_LOOK_MS = 20
_MEGABYTE = 1 << 20


class TcgRunner:
    """Plays cases on `qemu-system-x86_64 -accel tcg`.  patience is when a case counts as hung."""

    name = "tcg"

    def __init__(self, qemu: str = QEMU, patience: Patience | None = None) -> None:
        self.qemu = qemu
        self.engine_seconds = 0.0
        self.starts = 0
        self._patience = patience or Patience()
        self._environment = Environment("tcg", "TCG", "")
        self._features: frozenset[str] = frozenset()

    @property
    def environment(self) -> Environment:
        return self._environment

    def __enter__(self) -> Self:
        path = shutil.which(self.qemu)
        if path is None:
            raise RunnerAbsent(
                f"runner tcg: {self.qemu} is not installed",
                cause="the tcg runner is QEMU's own CPU",
                next_step=f"sudo apt-get install {PACKAGE}",
            )
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=False)
        version = (said.stdout or said.stderr).partition("\n")[0]
        found = probe.probe(self)
        self._features = found.features
        self._environment = Environment(
            "tcg", "TCG", version, cpu=found.cpu, masked=probe.masked("TCG"), facts=found.facts
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing runs between two calls of run()."""

    def unmet(self, case: Case) -> str:
        return base.unmet(case, self._features)

    def run(self, cases: Sequence[Case], heard: base.Heard) -> None:
        for laid in batch.batches(cases):
            size = (laid.end // _MEGABYTE + 2) * _MEGABYTE
            with MemoryFile("memory", size) as memory, MemoryFile("rom") as rom, MemoryFile("said") as said:
                _lay(laid, memory, rom)
                _Play(self, laid, memory, heard).play(self._words(size, memory, rom), said)

    def trace(self, case: Case) -> tuple[int, ...]:
        """The linear address of each instruction that a case runs inside the arena, in order."""
        (laid,) = batch.batches([case])
        size = (laid.end // _MEGABYTE + 2) * _MEGABYTE
        with (
            MemoryFile("memory", size) as memory,
            MemoryFile("rom") as rom,
            MemoryFile("said") as said,
            MemoryFile("log") as log,
        ):
            _lay(laid, memory, rom)
            words = [*self._words(size, memory, rom), *tcg_trace.words(self._environment.engine, log.path)]
            _Play(self, laid, memory, lambda case, observation: None).play(words, said)
            return tcg_trace.addresses(os.pread(log.fd, os.fstat(log.fd).st_size, 0))

    def _words(self, size: int, memory: MemoryFile, rom: MemoryFile) -> list[str]:
        backend = f"memory-backend-file,id=memory,size={size},mem-path={memory.path},share=on"
        return [
            *(self.qemu, "-accel", "tcg", "-M", "pc,memory-backend=memory", "-cpu", "max", "-nodefaults"),
            *("-m", f"{size // _MEGABYTE}M", "-object", backend, "-bios", rom.path, "-display", "none"),
            *("-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
            *("-device", f"isa-debug-exit,iobase={PORT_REPORT:#x},iosize=1"),
        ]


class _Play:
    """One batch, from its first start to its last case."""

    def __init__(self, runner: TcgRunner, laid: Batch, memory: MemoryFile, heard: base.Heard) -> None:
        self.runner, self.laid, self.memory, self.heard = runner, laid, memory, heard
        self.told = 0

    def play(self, words: Sequence[str], said: MemoryFile) -> None:
        while self.memory.word(batch.STATE) != batch.DONE:
            before = self.told
            hung = self._once(words, said)
            state = self.memory.word(batch.STATE)
            if state == batch.DONE:
                break
            if hung:
                self._put(batch.REASON, batch.TIMEOUT)
            elif state == batch.RUNNING and not os.fstat(said.fd).st_size:
                self._put(batch.REASON, batch.REPORT)
            elif self.told == before and state == batch.IDLE:
                raise MachineryBroke(
                    "QEMU ended before it played a case",
                    cause=_reason(said) or "it said nothing",
                    next_step=f"{self.runner.qemu} --version must work; otherwise report this",
                )
            else:
                self._died(said)
        self._tell()

    def _once(self, words: Sequence[str], said: MemoryFile) -> bool:
        """Let QEMU run until it ends or makes no progress; whether it hung."""
        os.ftruncate(said.fd, 0)
        hung = False
        with Monitor() as monitor:
            all_words = [*words, *monitor.words()]
            with Engine(all_words, console=said.fd, inherited=(monitor.fd,)) as engine:
                monitor.started()
                self.runner.starts += 1
                poll = select.poll()
                poll.register(engine.pidfd, select.POLLIN)
                while not poll.poll(_LOOK_MS):
                    self._tell()
                    place = (self.told, self.memory.word(batch.STATE))
                    if self.runner._patience.over(place, engine, monitor.asleep):
                        hung = True
                        break
        self.runner.engine_seconds += engine.seconds
        self._tell()
        return hung

    def _died(self, said: MemoryFile) -> None:
        """QEMU itself could not bear the current case: that is all there is to say about it."""
        detail = f"QEMU ended: {_reason(said) or 'without a word'}"
        self.heard(self.laid.cases[self.told], Observation("broken", detail=detail))
        self.told += 1
        self._put(batch.CURRENT, self.told)
        self._put(batch.STATE, batch.IDLE)

    def _tell(self) -> None:
        current = self.memory.word(batch.CURRENT)
        while self.told < current:
            index = self.told
            self.told += 1
            self.heard(self.laid.cases[index], self.laid.observe(index, self.memory.read))

    def _put(self, address: int, value: int) -> None:
        self.memory.write(address, value.to_bytes(4, "little"))


def _lay(laid: Batch, memory: MemoryFile, rom: MemoryFile) -> None:
    """Put everything where QEMU will find it."""
    rom.write(0, batch.monitor().rom)
    for address, data in laid.memory():
        memory.write(address, data)
    memory.write(batch.HEADER, laid.header())


def _reason(said: MemoryFile) -> str:
    """The first line that QEMU wrote: after it come its registers."""
    lines = os.pread(said.fd, 4096, 0).decode(errors="replace").split("\n")
    return next((line.strip() for line in lines if line.strip()), "")[:300]
