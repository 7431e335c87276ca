"""Bochs as an engine: it checks every limit and type that TCG lets pass.

Debian's Bochs has its debugger built in, and that is how we hold it: it is started with our ROM and the whole
batch as a RAM image, and told to continue; it comes back to its prompt at the end of the batch (the monitor
executes the instruction that the debugger takes for a break), at a triple fault (the CPU has been reset: told
to continue, the monitor goes on with the next case), and where a Switcher reports a fault of its own (a
breakpoint).  Results are dumped from its memory by the debugger, all at once.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
from collections import deque
from collections.abc import Sequence
from itertools import takewhile
from types import TracebackType
from typing import Self

from ..case import Case, Observation, Outcome
from ..errors import MachineryBroke, RunnerAbsent
from ..results import Environment
from ..stage import ADDRESS, PAGE
from . import base, batch, probe
from .batch import Batch
from .process import Engine, MemoryFile, Patience
from .trail import KEPT, of_the_case

BOCHS, PACKAGES = "bochs-bin", "bochs bochs-term"
CPU_MODEL = "corei7_icelake_u"
_MEGABYTE = 1 << 20
_PROMPT = re.compile(rb"<bochs:\d+> ?\Z")
_LOOK_MS = 100
# What `trace on` writes of each instruction: its time, its physical address, CS and EIP.
_STEP = re.compile(rb"^\(0\)\.\[\d+\] \[0x[0-9a-f]+\] [0-9a-f]+:([0-9a-f]+) ", re.M)
MOST_STEPS, STEPS_AT_ONCE = 20_000, 500


class BochsRunner:
    """Plays cases on Debian's Bochs.  patience is when a case counts as hung."""

    name = "bochs"

    def __init__(self, bochs: str = BOCHS, patience: Patience | None = None) -> None:
        self.bochs = bochs
        self.engine_seconds = 0.0
        self.starts = 0
        self.patience = patience or Patience()
        self._environment = Environment("bochs", "BX", "")
        self._features: frozenset[str] = frozenset()

    @property
    def environment(self) -> Environment:
        return self._environment

    def __enter__(self) -> Self:
        if shutil.which(self.bochs) is None:
            raise RunnerAbsent(
                f"runner bochs: {self.bochs} is not installed",
                cause="the bochs runner is Debian's Bochs with its debugger",
                next_step=f"sudo apt-get install --no-install-recommends {PACKAGES}",
            )
        self._version = ""
        found = probe.probe(self)
        self._features = found.features
        self._environment = Environment(
            "bochs", "BX", self._version, cpu=found.cpu, masked=probe.masked("BX"), facts=found.facts
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing runs between two calls of run()."""

    def unmet(self, case: Case) -> str:
        return base.unmet(case, self._features)

    def run(self, cases: Sequence[Case], heard: base.Heard) -> None:
        # A breakpoint has an address and knows no template: another Switcher may have anything there.
        apart: dict[frozenset[int], list[Case]] = {}
        for case in cases:
            apart.setdefault(case.template.report if case.template else frozenset(), []).append(case)
        for together in apart.values():
            for laid in batch.batches(together):
                _Play(self, laid, heard).play()

    def trace(self, case: Case) -> tuple[int, ...]:
        """EIP at each of the last instructions that a case runs, in order; CS has a base in few."""
        if case.cpu is None:
            return ()
        (laid,) = batch.batches([case])
        traced = _Traced(self, laid, lambda case, observation: None)
        traced.play()
        return of_the_case(traced.trail)

    def heard_version(self, said: bytes) -> None:
        """The banner that every start prints."""
        match = re.search(rb"Bochs x86 Emulator [\w.]+", said)
        if match:
            self._version = match[0].decode()


class _Play:
    """One batch, from its first start to its last case."""

    def __init__(self, runner: BochsRunner, laid: Batch, heard: base.Heard) -> None:
        self.runner, self.laid, self.heard = runner, laid, heard
        self.told = 0
        self.reports = sorted({at for case in laid.cases if case.template for at in case.template.report})

    def play(self) -> None:
        with MemoryFile("rom") as rom, MemoryFile("settings") as settings:
            rom.write(0, batch.monitor().rom)
            while self.told < len(self.laid.cases):
                with MemoryFile("image") as image, MemoryFile("log") as log:
                    for address, data in self.laid.memory():
                        image.write(address - _MEGABYTE, data)
                    image.write(batch.HEADER - _MEGABYTE, self.laid.header(self.told))
                    os.ftruncate(settings.fd, 0)
                    settings.write(0, self._settings(rom, image, log).encode())
                    self._once(settings, log)

    def _settings(self, rom: MemoryFile, image: MemoryFile, log: MemoryFile) -> str:
        lines = (
            f"megs: {self.laid.end // _MEGABYTE + 2}",
            f"romimage: file={rom.path}, address=0xffff0000",
            f"optramimage1: file={image.path}, address={_MEGABYTE:#x}",
            f"cpu: model={CPU_MODEL}, reset_on_triple_fault=1, ips=50000000",
            "magic_break: enabled=1",
            "panic: action=fatal",
            "display_library: term",
            f"log: {log.path}",
            "plugin_ctrl: biosdev=0, speaker=0, extfpuirq=0, parallel=0, serial=0, gameport=0, iodebug=0",
            "ata0: enabled=0",
            "ata1: enabled=0",
        )
        return "\n".join(lines) + "\n"

    def _once(self, settings: MemoryFile, log: MemoryFile) -> None:
        """One start: until the batch is over, or a case hangs or reports, or Bochs ends."""
        reading, writing = os.pipe()
        try:
            words = [self.runner.bochs, "-q", "-f", settings.path]
            # Its text screen is never looked at, but curses will not start without a terminal's name.
            with Engine(words, console=writing, talk=True, environment={"TERM": "dumb"}) as engine:
                os.close(writing)
                writing = -1
                self.runner.starts += 1
                conversation = Conversation(engine, reading, self.runner.patience)
                try:
                    self._converse(conversation)
                except BochsEnded:
                    self._ended(conversation, log)
            self.runner.engine_seconds += engine.seconds
        finally:
            os.close(reading)
            if writing >= 0:
                os.close(writing)

    def _converse(self, bochs: Conversation) -> None:
        """Let it play until nothing more can come of this start."""
        self.runner.heard_version(bochs.answer())
        for address in self.reports:
            bochs.ask(f"lb {address:#x}")
        outcome: Outcome | None = None
        while outcome is None:
            stop = bochs.ask("c")
            if stop is None:
                outcome = "timeout"
            elif b") Breakpoint " in stop:
                outcome = "report"
            elif self._done(bochs):
                self._tell(len(self.laid.cases), bochs.dump)
                return
        self._tell(batch.word(bochs.examine(batch.HEADER, batch.HEADER_BYTES), batch.CURRENT), bochs.examine)
        case = self.laid.cases[self.told]
        memory = {(w.address, w.size): bochs.examine(w.address, w.size) for w in case.watched()}
        self.told += 1
        self.heard(case, Observation(outcome, memory=memory))

    def _done(self, bochs: Conversation) -> bool:
        """At the end of the batch; or else the CPU was reset, and the monitor is to go on."""
        return batch.word(bochs.dump(batch.HEADER, batch.HEADER_BYTES), batch.STATE) == batch.DONE

    def _ended(self, bochs: Conversation, log: MemoryFile) -> None:
        """Its memory is gone, so nobody knows at which case: the rest is halved until one is left."""
        why = _last_words(log, bochs.said) or "it said nothing"
        if not bochs.answered:
            raise MachineryBroke(
                "Bochs ended before it played a case",
                cause=why,
                next_step=f"{self.runner.bochs} --help must work; otherwise report this",
            )
        rest = self.laid.cases[self.told :]
        self.told = len(self.laid.cases)
        if len(rest) == 1:
            self.heard(rest[0], Observation("broken", detail=f"Bochs ended: {why}"))
            return
        for half in (rest[: len(rest) // 2], rest[len(rest) // 2 :]):
            _Play(self.runner, batch.build(half), self.heard).play()

    def _tell(self, current: int, read: batch.Read) -> None:
        """Hand out the results up to a case; they lie close together, and are fetched in one piece."""
        first, self.told = self.told, current
        if first == current:
            return
        start, end = self.laid.results[first], self.laid.result_end(current - 1)
        data = read(start, end - start)
        for index in range(first, current):
            observation = self.laid.observe(index, lambda at, size: data[at - start : at - start + size])
            self.heard(self.laid.cases[index], observation)


class _Traced(_Play):
    """One case, told step by step from its first instruction on."""

    def __init__(self, runner: BochsRunner, laid: Batch, heard: base.Heard) -> None:
        super().__init__(runner, laid, heard)
        self.trail: deque[int] = deque(maxlen=KEPT)

    def _converse(self, bochs: Conversation) -> None:
        self.told = len(self.laid.cases)
        (case,) = self.laid.cases
        assert case.cpu is not None
        bochs.answer()
        bochs.ask(f"lb {case.cpu.eip:#x}")
        if b") Breakpoint " not in (bochs.ask("c") or b""):
            return
        bochs.ask("trace on")
        for _ in range(MOST_STEPS // STEPS_AT_ONCE):
            said = bochs.ask(f"s {STEPS_AT_ONCE}") or b""
            steps = [int(address, 16) for address in _STEP.findall(said)]
            own = list(takewhile(lambda at: at & -PAGE != ADDRESS["COLLECT2"], steps))
            self.trail.extend(own)
            if len(own) < STEPS_AT_ONCE:
                return

    def _ended(self, bochs: Conversation, log: MemoryFile) -> None:
        """What there is of the trail is told."""


class BochsEnded(Exception):
    """Bochs is gone in the middle of a conversation."""


class Conversation:
    """What is said to one running Bochs, and what it answers."""

    def __init__(self, engine: Engine, reading: int, patience: Patience) -> None:
        self.engine, self.reading, self.patience = engine, reading, patience
        self.answered = False
        self.said = b""
        self._asked = 0

    def ask(self, command: str) -> bytes | None:
        """Its answer to a debugger's command; None if it is at work for too long (and then stopped)."""
        assert self.engine.process.stdin is not None
        try:
            self.engine.process.stdin.write(command.encode() + b"\n")
        except OSError as error:
            raise BochsEnded from error
        self._asked += 1
        try:
            return self.answer()
        except TimeoutError:
            os.kill(self.engine.process.pid, signal.SIGINT)
            try:
                self.answer()
            except TimeoutError:
                # It looks for a SIGINT between two instructions, and an exception may raise itself for ever.
                raise BochsEnded from None
            return None

    def answer(self) -> bytes:
        """Everything up to the next prompt.  TimeoutError if there is none."""
        self.said = b""
        poll = select.poll()
        poll.register(self.reading, select.POLLIN)
        while not _PROMPT.search(self.said[-32:]):
            if poll.poll(_LOOK_MS):
                more = os.read(self.reading, 1 << 16)
                if not more:
                    raise BochsEnded
                self.said += more
            elif self.patience.over((id(self), self._asked, len(self.said)), self.engine):
                raise TimeoutError
        self.answered = True
        return self.said

    def dump(self, address: int, size: int) -> bytes:
        """Memory while paging is off."""
        with MemoryFile("dump") as file:
            self.ask(f'writemem "{file.path}" {address:#x} {size}')
            data = file.read(0, size)
        if len(data) != size:
            raise MachineryBroke(f"Bochs dumped {len(data)} of {size} bytes at {address:#x}")
        return data

    def examine(self, address: int, size: int) -> bytes:
        """Physical memory, whatever the CPU is in the middle of; slow, because it comes as text."""
        text = self.ask(f"xp /{size}bx {address:#x}") or b""
        data = bytes(int(each, 16) for each in re.findall(rb"\t0x([0-9a-f]{2})(?![0-9a-f])", text))
        if len(data) != size:
            raise MachineryBroke(f"Bochs showed {len(data)} of {size} bytes at {address:#x}")
        return data


def _last_words(log: MemoryFile, said: bytes) -> str:
    """A panic that Bochs has logged, or else the last it said that is no banner or log line."""
    size = os.fstat(log.fd).st_size
    logged = os.pread(log.fd, 1 << 16, max(0, size - (1 << 16))).decode(errors="replace").splitlines()
    panics = [line for line in logged if "PANIC" in line or re.match(r"\d+p\[", line)]
    spoken = [line.strip() for line in said.decode(errors="replace").splitlines()]
    plain = [line for line in spoken if line and not re.match(r"=+$|\d+i\[|Bochs x86|Built|Timestamp", line)]
    return " ".join((panics or plain or logged)[-1:])[-300:]
