"""One run from beginning to end: rows become cases, cases go to runners, what they saw becomes results.

Whatever happens there is a `Run` to report: a runner that is not installed is named in it, an engine that
dies is a trouble of ours and no verdict on the machine, and on Ctrl-C what was finished is kept and says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

from . import nmi_map, proof
from .case import Case, Observation
from .errors import MachineryBroke, RunnerAbsent
from .memory import Known, Memory, Remembered
from .results import (
    Absent,
    CaseResult,
    Deviation,
    Difference,
    Environment,
    NmiMap,
    RowResult,
    Run,
    StateLine,
    Status,
    disagreements,
)
from .results import Direction as Moved
from .row import Row, deviations
from .switcher_image import SwitcherImage
from .verdict import outcome

#: How many failures of one runner come with their code and state: who has more has one fault, not a thousand.
EVIDENCE = 200
#: So many cases are looked at before the progress is told again.
ASKED = 100
#: How many failures are run again step by step, and how many of the last steps are told.
TRACED, STEPS = 4, 24
#: How many rows of random states are shrunk, each on one layer: it takes a start of the engine a step.
SHRUNK = 2
Heard = Callable[[Case, Observation], None]


class Runner(Protocol):
    """An engine that is ready to run cases."""

    @property
    def environment(self) -> Environment: ...
    @property
    def engine_seconds(self) -> float: ...
    @property
    def starts(self) -> int: ...

    def unmet(self, case: Case) -> str:
        """The requirement of a case that this engine does not meet, or ""."""
        ...

    def run(self, cases: Sequence[Case], heard: Heard) -> None:
        """Run them all; `heard` is called for each, in any order, as results come in."""
        ...


@runtime_checkable
class Tracer(Protocol):
    """A runner that can tell how a case came to its end."""

    def trace(self, case: Case) -> tuple[int, ...]:
        """The linear address of each instruction that ran, oldest first."""
        ...


@runtime_checkable
class Recalls(Protocol):
    """A runner that asks for what is known before it makes anything of a record."""

    recall: Callable[[Case, bytes, Callable[[], Observation]], bool]


class Judgement(Protocol):
    """What a comparison says of one case."""

    @property
    def status(self) -> Status: ...
    @property
    def because(self) -> str: ...
    @property
    def alternative(self) -> str: ...
    @property
    def differences(self) -> tuple[Difference, ...]: ...
    @property
    def state(self) -> tuple[StateLine, ...]: ...


Make = Callable[[str], AbstractContextManager[Runner]]
Judge = Callable[[Case, Observation, Environment], Judgement]
Expand = Callable[[Row], Sequence[Case]]


class Progress(Protocol):
    """Who is told how far it is."""

    def preparing(self, what: str, done: int, of: int) -> None: ...
    def begin(self, runner: str, cases: int) -> None: ...
    def done(self, result: CaseResult) -> None: ...
    def end(self) -> None: ...


class Silence:
    """Nobody is told."""

    def preparing(self, what: str, done: int, of: int) -> None:
        """Nothing."""

    def begin(self, runner: str, cases: int) -> None:
        """Nothing."""

    def done(self, result: CaseResult) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run.

    selection: the rows in words.  words: the command line.  seed: of random cases, which `expand` has got.
    trace: run the first failures again step by step, if the runner can.  memory: verdicts of earlier runs.
    """

    rows: tuple[Row, ...]
    runners: tuple[str, ...]
    switchers: Mapping[str, SwitcherImage]
    selection: str
    version: str
    words: tuple[str, ...] = ()
    seed: int = 1
    repeat: int = 1
    trace: bool = False
    memory: Memory | None = None


@dataclass(slots=True)
class Gathered:
    """Everything that runners have said so far."""

    results: dict[str, list[CaseResult]] = field(default_factory=dict)
    environments: list[Environment] = field(default_factory=list)
    absent: list[Absent] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    maps: list[NmiMap] = field(default_factory=list)
    interrupted: str = ""


def run(plan: Plan, expand: Expand, make: Make, judge: Judge, progress: Progress | None = None) -> Run:
    """Do it.  Raises RowError if a row of the plan is malformed, before anything runs."""
    begin, started = time.monotonic(), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    gathered, told = Gathered(), progress or Silence()
    cases: dict[str, tuple[Case, ...]] = {}
    try:
        for count, row in enumerate(plan.rows):
            told.preparing("laying out the rows", count, len(plan.rows))
            cases[row.id] = tuple(expand(row))
    except KeyboardInterrupt as signal:
        gathered.interrupted = f"{interrupted(signal)} before anything was run"
    finally:
        told.end()
    for name in plan.runners if not gathered.interrupted else ():
        began = time.monotonic()
        try:
            with make(name) as runner:
                Turn(plan, cases, runner, judge, told, gathered, began).take()
        except RunnerAbsent as error:
            why = ": ".join(filter(None, (error.message, error.cause)))
            gathered.absent.append(Absent(name, why, error.next_step))
        except MachineryBroke as error:
            gathered.troubles.append(f"{name}: {error.message}" + (f": {error.cause}" if error.cause else ""))
        except KeyboardInterrupt as signal:
            gathered.interrupted = (
                gathered.interrupted or f"{interrupted(signal)} while {name} was being started"
            )
            break
    return Run(
        version=plan.version,
        started=started,
        seconds=round(time.monotonic() - begin, 3),
        words=plan.words,
        selection=plan.selection,
        seed=plan.seed,
        repeat=plan.repeat,
        environments=tuple(gathered.environments),
        rows=tuple(rows(plan, cases, gathered)),
        absent=tuple(gathered.absent),
        nmi_maps=tuple(gathered.maps),
        matrix=proof.matrix(),
        deviations=tuple(
            Deviation(one.id, " ".join(one.classes), one.fact, one.known) for one in deviations().values()
        ),
        interrupted=gathered.interrupted,
        troubles=tuple(gathered.troubles),
    )


@dataclass(slots=True)
class Turn:
    """One runner's part of a run."""

    plan: Plan
    cases: Mapping[str, tuple[Case, ...]]
    runner: Runner
    judge: Judge
    progress: Progress
    gathered: Gathered
    began: float
    found: dict[str, CaseResult] = field(default_factory=dict)
    seen: list[nmi_map.Seen] = field(default_factory=list)
    explained: int = 0
    known: Known = field(default_factory=dict)

    def take(self) -> None:
        """Run everything, and leave what came of it in `gathered`, whatever ends it."""
        wanted = [case for cases in self.cases.values() for case in cases]
        unmet = self.asked(wanted)
        able = [case for case in wanted if not unmet[case.id]]
        name = self.runner.environment.runner
        if self.plan.memory is not None and isinstance(self.runner, Recalls):
            self.known = self.plan.memory.of(self.runner.environment)
            self.runner.recall = self.recall
        self.progress.begin(name, len(able) * self.plan.repeat)
        try:
            for _ in range(self.plan.repeat):
                self.runner.run(able, self.heard)
            if unheard := [case.id for case in able if case.id not in self.found]:
                raise MachineryBroke(
                    f"nothing was heard of {len(unheard):,} cases", cause=f"such as {unheard[0]}"
                )
            self.trace(able)
            self.shrink()
        except KeyboardInterrupt as signal:
            left = len(able) - len(self.found)
            told = f"{interrupted(signal)} while {name} ran: {left:,} of its {len(able):,} cases did not"
            self.gathered.interrupted = told
            raise
        finally:
            self.progress.end()
            self.keep(unmet, round(time.monotonic() - self.began, 3))

    def heard(self, case: Case, observation: Observation) -> None:
        """One result has come in."""
        environment = self.runner.environment
        judged = self.judge(case, observation, environment)
        result = CaseResult(
            case.name,
            case.layer,
            environment.runner,
            judged.status,
            judged.because,
            judged.alternative,
            outcome(observation),
            judged.differences,
        )
        if result.status is Status.FAIL and self.explained < EVIDENCE:
            self.explained += 1
            result = with_evidence(result, case, observation, judged)
        elif result.status is not Status.FAIL and observation.raw and self.plan.memory is not None:
            told = (result.status, result.because, result.alternative, result.outcome, result.differences)
            self.known[case.id] = Remembered(observation.raw, *told)
        self.found_out(case, result, lambda: observation)

    def recall(self, case: Case, raw: bytes, observe: Callable[[], Observation]) -> bool:
        """A record has come in; whether its verdict is known, and with that all is done."""
        known = self.known.get(case.id)
        if known is None or known.raw != raw:
            return False
        result = CaseResult(
            case.name,
            case.layer,
            self.runner.environment.runner,
            known.status,
            known.because,
            known.alternative,
            known.outcome,
            known.differences,
        )
        self.found_out(case, result, observe)
        return True

    def found_out(self, case: Case, result: CaseResult, observe: Callable[[], Observation]) -> None:
        """There is a result of a case, perhaps not the first."""
        if case.id in self.found:
            result = again(self.found[case.id], result)
        else:
            if result.status is Status.FAIL:
                result = replace(result, failed=1)
            if case.row in nmi_map.ROWS:
                self.seen.append(nmi_map.Seen(case, observe(), result.status))
        self.found[case.id] = result
        self.progress.done(result)

    def asked(self, cases: Sequence[Case]) -> dict[str, str]:
        """What the runner cannot do, by case; a model has to think about it."""
        found, name = {}, self.runner.environment.runner
        for count, case in enumerate(cases):
            if count % ASKED == 0:
                self.progress.preparing(f"{name}: looking at the cases", count, len(cases))
            found[case.id] = self.runner.unmet(case)
        return found

    def trace(self, cases: Sequence[Case]) -> None:
        """Add the last steps of the first failures."""
        if not self.plan.trace or not isinstance(self.runner, Tracer):
            return
        from .listing import steps

        failed = [case for case in cases if self.found[case.id].status is Status.FAIL]
        for case in failed[:TRACED]:
            found = steps(case, self.runner.trace(case)[-STEPS:])
            self.found[case.id] = replace(self.found[case.id], steps=found)

    def shrink(self) -> None:
        """Say in the first failure of a row of random states which is the smallest that fails."""
        from .families.trips import RANDOM

        failed = {id: one for id, one in self.found.items() if one.status is Status.FAIL}
        rows = [row for row in self.plan.rows if row.family in RANDOM]
        wanted = [
            (row, next((case for case in self.cases[row.id] if case.id in failed), None)) for row in rows
        ]
        for row, case in [each for each in wanted if each[1]][:SHRUNK]:
            assert case is not None
            from .shrinking import smallest

            layer, switcher = case.layer, self.plan.switchers[case.layer]
            came = {one.name: one.id in failed for one in self.cases[row.id] if one.layer == layer}
            found = smallest(row, self.plan.seed, layer, switcher, came, self.fails_again)
            if found:
                told = f"the smallest state that fails: {found}"
                because = "; ".join(filter(None, (failed[case.id].because, told)))
                self.found[case.id] = replace(failed[case.id], because=because)

    def fails_again(self, case: Case) -> bool:
        """Play one case more, of which nothing is kept but whether it failed."""
        seen: list[Status] = []
        environment = self.runner.environment
        self.runner.run([case], lambda one, what: seen.append(self.judge(one, what, environment).status))
        return seen == [Status.FAIL]

    def keep(self, unmet: Mapping[str, str], seconds: float) -> None:
        """Hand over what there is: every case in the order of the rows, and the runner's own facts."""
        name = self.runner.environment.runner
        for row in self.plan.rows:
            results = self.gathered.results.setdefault(row.id, [])
            for case in self.cases[row.id]:
                if case.id in self.found:
                    results.append(self.found[case.id])
                else:
                    because = unmet[case.id] or "the run ended before it"
                    results.append(CaseResult(case.name, case.layer, name, Status.SKIP, because=because))
            if not self.cases[row.id]:
                results.append(nothing_to_run(row, name))
        self.gathered.maps.extend(nmi_map.draw(name, self.seen, self.plan.switchers))
        self.gathered.environments.append(
            replace(
                self.runner.environment,
                seconds=seconds,
                engine_seconds=round(self.runner.engine_seconds, 3),
                starts=self.runner.starts,
            )
        )


def interrupted(signal: KeyboardInterrupt) -> str:
    """That a run was interrupted, and by what if it was not Ctrl-C."""
    return " ".join(["interrupted", *map(str, signal.args)])


def nothing_to_run(row: Row, runner: str) -> CaseResult:
    """What stands for a row without cases: it is not written, or no Switcher of its layers is here."""
    if row.waits_for:
        return CaseResult(row.title, row.layers[0], runner, Status.NOT_WRITTEN, because=row.waits_for)
    because = f"no Switcher for {' '.join(row.layers)}"
    return CaseResult(row.title, row.layers[0], runner, Status.SKIP, because=because)


def with_evidence(result: CaseResult, case: Case, observation: Observation, judged: Judgement) -> CaseResult:
    """The result of a failure with everything that explains it."""
    from .listing import around, code_of

    where = observation.trap.eip if observation.trap else None
    steps = around(case, where) if where is not None else ()
    detail = "; ".join(filter(None, dict.fromkeys((judged.because, observation.detail))))
    return replace(result, because=detail, state=judged.state, listing=code_of(case), around=steps)


def again(before: CaseResult, now: CaseResult) -> CaseResult:
    """Two runs of one case as one result: a failure stays, and so does an end that was not the same."""
    failed = before.failed + (now.status is Status.FAIL)
    kept = now if now.status is Status.FAIL and before.status is not Status.FAIL else before
    if kept.status is not Status.FAIL and now.status is not before.status:
        kept = replace(
            now,
            status=Status.FAIL,
            because=f"not the same every time: {before.status.word}, then {now.status.word}",
        )
        failed += 1
    return replace(kept, repeated=before.repeated + 1, failed=failed)


def rows(plan: Plan, cases: Mapping[str, tuple[Case, ...]], gathered: Gathered) -> list[RowResult]:
    """Every row of which something is known; after an early end the others are left out."""
    found = proof.matrix()
    made = []
    for row in plan.rows:
        results = tuple(gathered.results.get(row.id, ()))
        kinds = {(case.layer, case.name): case.kind for case in cases.get(row.id, ())}
        if results:
            made.append(
                RowResult(
                    id=row.id,
                    group=row.group,
                    title=row.title,
                    kind=row.kind,
                    core=row.core,
                    sources=tuple(map(str, row.sources)),
                    does=row.does,
                    expects=row.expects,
                    why=row.why,
                    remains=row.remains,
                    waits_for=row.waits_for,
                    seen_to_fail_by=proof.seen_to_fail_by(
                        row.id, proof.broken_controls(kinds, results), found
                    ),
                    cases=results,
                )
            )
    return made


def as_expected(run: Run) -> bool:
    """Whether nobody has to look: no failure, no unexplained disagreement, nothing worse than before."""
    worse = run.baseline is not None and any(one.direction is Moved.WORSE for one in run.baseline.changes)
    failed = any(case.status is Status.FAIL for row in run.rows for case in row.cases)
    return not (failed or worse or any(not one.explained for one in disagreements(run)))


def ran_nothing(run: Run) -> bool:
    """Whether no case was run at all although some were there to run: this host cannot."""
    silent = (Status.UNSUPPORTED, Status.SKIP)
    statuses = [
        case.status for row in run.rows for case in row.cases if case.status is not Status.NOT_WRITTEN
    ]
    return bool(statuses) and all(status in silent for status in statuses)
