"""KVM as an engine: the real one, on this machine or in a lab.

A worker (kvm_worker.py) sits where /dev/kvm is and stays there for the whole run; batches go to it through a
folder, and one KVM_RUN plays most of them.  Natively it is a process of ours.  Where the machine's KVM cannot
do 32-bit paging it is the command of a lab, reached through `kvmhost lab run` like any user's: this room does
not know how a lab is made.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Literal, Self

from kvmhost._native import lib

from ..case import Case, Event, Observation
from ..errors import ConformanceError, MachineryBroke, RunnerAbsent
from ..results import Environment
from ..stage import ADDRESS, ARENA, PAGES
from . import base, batch, compiled, probe
from .batch import Batch
from .programs import trips
from .trail import KEPT, of_the_case

Backend = Literal["auto", "native", "lab"]
_MEGABYTE = 1 << 20
WORKER = "kvmhost.conformance.runners.kvm_worker"
# Pages that ring 1 or 3 executes: there a HLT would trap.
GUEST_PAGES = ("G_CODE", "U_CODE")
# Seconds without progress after which a case counts as hung; in the lab time goes slower.
PATIENCE = {"native": 5, "lab": 8}
LAB_SECONDS = 3600
# A worker that has said nothing for so long is dead; the lab takes some seconds to start.
SILENCE_SECONDS = 600
# So that results come in while a long run goes on, and little is lost by a Ctrl-C.
BATCH_CASES = 1000


class KvmRunner:
    """Plays cases by KVM_RUN.  backend: "native", "lab", or whichever works."""

    name = "kvm"

    def __init__(self, backend: Backend = "auto") -> None:
        self.backend = backend
        self.engine_seconds = 0.0
        self.starts = 0
        self.runs = 0
        self._environment = Environment("kvm", "", "")
        self._features: frozenset[str] = frozenset()
        self._worker: Worker | None = None
        self.recall: base.Recall = base.no_recall

    @property
    def environment(self) -> Environment:
        return self._environment

    def __enter__(self) -> Self:
        why = ""
        if self.backend == "auto":
            backend, why = _choose()
        else:
            backend = self.backend
        try:
            self._enter(backend)
        except BaseException:
            self._leave()
            raise
        if why:
            facts = (*self._environment.facts, ("why not natively", why))
            self._environment = replace(self._environment, facts=facts)
        return self

    def _enter(self, backend: str) -> None:
        worker = self._worker = Worker(backend)
        hello = worker.hello()
        self.engine_seconds, self.starts = 0.0, 0
        try:
            found = probe.probe(self)
        except MachineryBroke as broke:
            raise RunnerAbsent(
                "runner kvm: this machine's KVM cannot play a case",
                cause=broke.cause or broke.message,
                next_step="kvmhost doctor tells what it lacks; --backend lab does without it",
            ) from broke
        self._features = found.features | base.KVM_ONLY - {"hw-breakpoints", "irqchip"}
        code = class_code(hello, backend)
        self._environment = Environment(
            "kvm",
            code,
            f"KVM of Linux {hello['kernel']}",
            cpu=hello["cpu"] or found.cpu,
            kernel=hello["kernel"],
            backend=backend,
            masked=probe.masked(code),
            facts=(*found.facts, *sorted(hello["parameters"].items())),
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def unmet(self, case: Case) -> str:
        if case.event is not None and case.event.kind == "mce":
            return "mce-injection"
        return base.unmet(case, self._features)

    def run(self, cases: Sequence[Case], heard: base.Heard) -> None:
        assert self._worker is not None
        for case in cases:
            if case.program in trips.HERE:
                heard(case, trips.HERE[case.program](self._batch, case.parameters))
            elif case.program is not None:
                heard(case, self._worker.program(case))
        played = [case for case in cases if case.program is None]
        for answer in self._worker.play_all(compiled.batches_of(played, BATCH_CASES)):
            self._count(answer)
            for index, case in enumerate(answer.laid.cases):
                if not self.recall(case, answer.raw(index), partial(answer.observation, index)):
                    heard(case, answer.observation(index))

    def trace(self, case: Case) -> tuple[int, ...]:
        """The linear address of each of the last instructions that a case runs, in order, by single steps."""
        if case.program is not None or self._worker is None:
            return ()
        stepped = case if case.event else replace(case, event=Event("trace"))
        (laid,) = batch.batches([stepped])
        return of_the_case(self._worker.play(laid, traced=True).trail())

    def _batch(self, laid: Batch) -> Answer:
        assert self._worker is not None
        answer = self._worker.play(laid)
        self._count(answer)
        return answer

    def _count(self, answer: Answer) -> None:
        self.engine_seconds += answer.run_seconds
        self.starts += answer.starts
        self.runs += answer.runs


def _choose() -> tuple[str, str]:
    """Where KVM works, and why not here if it is the lab.

    The doctor knows, and its probes end for certain: a KVM that only pretends may never come back.
    """
    said = subprocess.run(
        [sys.executable, "-P", "-m", "kvmhost", "doctor", "--json"],
        capture_output=True,
        timeout=SILENCE_SECONDS,
        check=False,
        cwd="/",
    )
    try:
        native = json.loads(said.stdout)["native"]
    except (ValueError, KeyError) as error:
        words = said.stderr.decode(errors="replace").strip()
        raise MachineryBroke("kvmhost doctor said nothing of use", cause=words or str(error)) from error
    return ("native", "") if native["ok"] else ("lab", str(native["reason"]))


def class_code(hello: Mapping[str, Any], backend: str) -> str:
    """The code of section 0.4 that belongs to what the worker found; "" if none is known to fit.

    >>> here = {"vendor": "AuthenticAMD", "hypervisor": False, "parameters": {"kvm_amd.npt": "Y"}}
    >>> class_code(here, "native")
    'AN'
    """
    if backend == "lab":
        return "TCG"
    if hello["hypervisor"]:
        return "NST"
    parameters = hello["parameters"]

    def on(name: str) -> bool:
        return parameters.get(name) in ("Y", "1")

    if hello["vendor"] == "AuthenticAMD" and "kvm_amd.npt" in parameters:
        return "AN" if on("kvm_amd.npt") else "AS"
    if hello["vendor"] == "GenuineIntel" and "kvm_intel.ept" in parameters:
        if not on("kvm_intel.ept"):
            return "IS"
        return "IU" if on("kvm_intel.unrestricted_guest") else "IN"
    return ""


class Answer:
    """What a worker gave back for one batch: what it said, and the results' memory, one after the other."""

    def __init__(self, laid: Batch, said: Mapping[str, Any], memory: bytes) -> None:
        self.runs: int = said["runs"]
        self.starts: int = said["starts"]
        self.run_seconds: float = said["run_seconds"]
        self.laid = laid
        self._details: Mapping[str, Mapping[str, Any]] = said["details"]
        self._memory = memory
        sizes = [laid.result_end(index) - at for index, at in enumerate(laid.results)]
        places = zip(accumulate(sizes, initial=0), sizes, strict=False)
        self._places = dict(zip(laid.results, places, strict=True))

    def raw(self, index: int) -> bytes:
        """All that was said of a case: the monitor's record, and what the worker has noted."""
        noted = self._details.get(str(index))
        record = self._read(self.laid.results[index])
        return record + json.dumps(noted, sort_keys=True).encode() if noted else record

    def trail(self) -> list[int]:
        """Where the first case went, if that was asked for."""
        trail: list[int] = self._details.get("0", {}).get("trail", [])
        return trail

    def observation(self, index: int) -> Observation:
        """What came of a case."""
        seen = batch.observe(self.laid.cases[index], self._read(self.laid.results[index]))
        detail = self._details.get(str(index), {})
        seen = replace(seen, hidden=detail.get("hidden", {}), raw=self.raw(index))
        return (
            replace(seen, outcome=detail["outcome"], detail=detail["detail"]) if "outcome" in detail else seen
        )

    def _read(self, address: int) -> bytes:
        place, size = self._places[address]
        return self._memory[place : place + size]


class Worker:
    """The other half, as a process that answers."""

    def __init__(self, backend: str) -> None:
        self._patience = PATIENCE[backend]
        self._folder = TemporaryDirectory(prefix="kvmhost-conform-")
        self._orders = 0
        self._said = b""
        words = [sys.executable, "-m", WORKER]
        if backend == "lab":
            start = [sys.executable, "-m", "kvmhost", "lab", "run", "--writable", self._folder.name]
            words = [*start, "--timeout", str(LAB_SECONDS), "--", *words]
        self._noise = (Path(self._folder.name) / "noise").open("w+b")
        # A session of its own: a Ctrl-C is for whoever gives the orders.
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._noise,
            start_new_session=True,
            bufsize=0,
            cwd="/",
        )

    def hello(self) -> dict[str, Any]:
        """What the worker found where it is; RunnerAbsent if it cannot work there."""
        said = self._listen()
        if "error" in said:
            error = said["error"]
            raise RunnerAbsent(
                f"runner kvm: {error['message']} failed", cause=error["cause"], next_step=error["next_step"]
            )
        hello: dict[str, Any] = said["hello"]
        return hello

    def play(self, laid: Batch, traced: bool = False) -> Answer:
        """Let a batch be played; traced: in single steps, of which the last are told."""
        return self._end(laid, self._begin(laid, traced))

    def play_all(self, batches: Iterable[Batch]) -> Iterator[Answer]:
        """Let batches be played, each while whoever asks looks at the answer before."""
        under_way: list[tuple[Batch, str]] = []
        for laid in batches:
            under_way.append((laid, self._begin(laid)))
            if len(under_way) > 1:
                yield self._end(*under_way.pop(0))
        for each in under_way:
            yield self._end(*each)

    def _begin(self, laid: Batch, traced: bool = False) -> str:
        """Order a batch; the number of the order."""
        number = str(self._orders + 1)
        image, answer = f"batch-{number}", f"answer-{number}"
        pieces = [*laid.memory(), (batch.HEADER, laid.header())]
        with (Path(self._folder.name) / image).open("wb") as file:
            for _, data in pieces:
                file.write(data)
        first, last = min(PAGES.index(p) for p in GUEST_PAGES), max(PAGES.index(p) for p in GUEST_PAGES)
        self._order(
            folder=self._folder.name,
            image=image,
            answer=answer,
            size=(laid.end // _MEGABYTE + 2) * _MEGABYTE,
            pieces=[(address, len(data)) for address, data in pieces],
            results=[(at, laid.result_end(index) - at) for index, at in enumerate(laid.results)],
            patience=self._patience,
            traced=KEPT if traced else 0,
            collector=ADDRESS["COLLECT2"],
            switcher=ADDRESS["SW_TEXT"],
            state=ADDRESS["STATE_PAGE"],
            guest=[ARENA + first * lib.CONFORM_PAGE, ARENA + (last + 1) * lib.CONFORM_PAGE],
            external={
                str(index): {"event": _event(case.event), "hidden": case.looks_inside}
                for index, case in enumerate(laid.cases)
                if case.external
            },
        )
        return number

    def _end(self, laid: Batch, number: str) -> Answer:
        """Wait for what comes of an order."""
        said = self._listen()
        while "done" not in said:
            self._refused(said)
            said = self._listen()
        place = Path(self._folder.name) / f"answer-{number}"
        memory = place.read_bytes()
        place.unlink()
        (Path(self._folder.name) / f"batch-{number}").unlink()
        return Answer(laid, said, memory)

    def program(self, case: Case) -> Observation:
        """Let a check of KVM's own interface be made."""
        self._order(program=case.program, parameters=dict(case.parameters))
        said = self._listen()
        while "values" not in said:
            self._refused(said)
            said = self._listen()
        return Observation("values", values=said["values"])

    def _refused(self, said: Mapping[str, Any]) -> None:
        """KVM refused what a worker needs for every case: no verdict on the case it happened at."""
        if "error" in said:
            error = said["error"]
            raise MachineryBroke(
                f"the kvm runner: {error['message']} failed",
                cause=error["cause"],
                next_step=error["next_step"],
            )

    def _order(self, **order: Any) -> None:
        """Give an order.  What is said is only where it lies: a line that a pipe has room for at any time.

        Were it longer, both sides could wait for ever: we for room in one pipe, the worker, which still has
        to tell of the order before, for room in the other.
        """
        assert self._process.stdin is not None
        self._orders += 1
        place = Path(self._folder.name) / f"order-{self._orders}"
        place.write_text(json.dumps(order))
        try:
            self._process.stdin.write(str(place).encode() + b"\n")
        except OSError as error:
            raise self._broken("does not listen") from error

    def _listen(self) -> dict[str, Any]:
        """The next answer."""
        assert self._process.stdout is not None
        end = time.monotonic() + SILENCE_SECONDS
        while b"\n" not in self._said:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0, end - time.monotonic()))
            more = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
            if not more:
                raise self._broken("ended" if ready else f"has said nothing for {SILENCE_SECONDS} seconds")
            self._said += more
        line, _, self._said = self._said.partition(b"\n")
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise self._broken(f"talks nonsense ({line[:60]!r})") from error
        return answer

    def _broken(self, what: str) -> ConformanceError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self._noise.seek(0)
        words = self._noise.read().decode(errors="replace").strip()
        if self._process.returncode == 3:
            return RunnerAbsent(
                "runner kvm cannot work here", cause=in_one_line(words), next_step="kvmhost doctor"
            )
        return MachineryBroke(
            f"the worker of the kvm runner {what}",
            cause=words[-2000:] or "it said nothing",
            next_step="if this happens again, please report it",
        )

    def close(self) -> None:
        """End the worker, and its lab; leave no file."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        process.stdout.close()
        self._noise.close()
        self._folder.cleanup()


def in_one_line(words: str) -> str:
    """What a command said in lines of its own, as a part of a sentence of ours.

    >>> in_one_line("kvmhost: no QEMU\\n  what to do: install it\\n")
    'no QEMU; what to do: install it'
    """
    return "; ".join(line.strip().removeprefix("kvmhost: ") for line in words.splitlines() if line.strip())


def _event(event: Event | None) -> dict[str, Any] | None:
    if event is None:
        return None
    return {
        "kind": event.kind,
        "at": event.at,
        "hit": event.hit,
        "steps": event.steps,
        "vector": event.vector,
        "count": event.count,
        "after": _event(event.after),
        "left_out": event.left_out,
    }
