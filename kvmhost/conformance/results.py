"""What a run of the catalogue comes to: frozen facts, and the rules by which many of them become one word.

Every report is made from a `Run` and nothing else, and a `Run` goes to JSON and back without loss: so a
report can be made again, in another form, from a file that somebody sent.  The statuses keep apart what must
not be mixed: a check that failed, one that failed as a named deviation of this environment says it must, one
that this environment cannot show, and one that nobody has written yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a check ended.

    >>> Status("PASS").word
    'passed'
    """

    PASS = "PASS"
    FAIL = "FAIL"
    XFAIL = "XFAIL"
    NOT_DEMONSTRABLE = "NOT_DEMONSTRABLE"
    UNSUPPORTED = "UNSUPPORTED"
    SKIP = "SKIP"
    NOT_WRITTEN = "NOT_WRITTEN"

    @property
    def word(self) -> str:
        """For people."""
        return WORDS[self]


WORDS = {
    Status.PASS: "passed",
    Status.FAIL: "failed",
    Status.XFAIL: "deviates as known",
    Status.NOT_DEMONSTRABLE: "cannot be shown here",
    Status.UNSUPPORTED: "not possible here",
    Status.SKIP: "skipped",
    Status.NOT_WRITTEN: "not written",
}
#: Which status stands for several: the first of these that occurs.
PRECEDENCE = (
    Status.FAIL,
    Status.XFAIL,
    Status.NOT_DEMONSTRABLE,
    Status.PASS,
    Status.UNSUPPORTED,
    Status.SKIP,
    Status.NOT_WRITTEN,
)
#: The statuses that say that something is wrong which nobody expected.
BAD = frozenset({Status.FAIL})


def overall(statuses: Iterable[Status]) -> Status:
    """One status for several; NOT_WRITTEN for none.

    A row passes only if everything that ran passed: one known deviation among 256 cases shows.

    >>> overall([Status.PASS, Status.XFAIL, Status.SKIP]).value
    'XFAIL'
    """
    seen = set(statuses)
    return next((status for status in PRECEDENCE if status in seen), Status.NOT_WRITTEN)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that was compared and is not as expected: `what` names it ("eip", "G_DATA+4")."""

    what: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class StateLine:
    """One thing of the final state, for the table of expected and found; expected "" = not checked."""

    name: str
    expected: str
    found: str
    agrees: bool


@dataclass(frozen=True, slots=True)
class CodeLine:
    """One instruction: linear address, bytes as hex, and what they mean; `label` is its symbol or ""."""

    address: int
    code: str
    text: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case of a row, on one runner and one layer.

    because: the deviation of XFAIL and NOT_DEMONSTRABLE, the unmet requirement of SKIP, why UNSUPPORTED, what
        NOT_WRITTEN waits for.
    alternative: the reason of the alternative expectation that was met, "" for the first one.
    outcome: in a few words what was seen ("trap 13, error 0x50, at G_CODE+5").
    state, listing, around, steps: only after a failure: everything that was compared, the case's code, the
        code about where it ended ("here"), and the last instructions that ran, oldest first.
    repeated, failed: how often it ran and how often of these it failed.
    """

    case: str
    layer: str
    runner: str
    status: Status
    because: str = ""
    alternative: str = ""
    outcome: str = ""
    differences: tuple[Difference, ...] = ()
    state: tuple[StateLine, ...] = ()
    listing: tuple[CodeLine, ...] = ()
    around: tuple[CodeLine, ...] = ()
    steps: tuple[CodeLine, ...] = ()
    repeated: int = 1
    failed: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """What it is called among the cases of its row, whatever ran it."""
        return self.layer, self.case


@dataclass(frozen=True, slots=True)
class RowResult:
    """One row of the catalogue and all that was run of it.

    does, expects: the catalogue's own words.  remains: what of them no case covers yet.
    seen_to_fail_by: mutations and negative controls that made this row fail: the proof that it can.
    """

    id: str
    group: str
    title: str
    kind: str
    core: bool
    sources: tuple[str, ...]
    does: str = ""
    expects: str = ""
    why: str = ""
    remains: str = ""
    waits_for: str = ""
    seen_to_fail_by: tuple[str, ...] = ()
    cases: tuple[CaseResult, ...] = ()

    def status(self, runner: str = "") -> Status:
        """Of one runner, or of all."""
        return overall(case.status for case in self.cases if runner in ("", case.runner))

    def counts(self, runner: str = "") -> Counter[Status]:
        """How many cases ended how."""
        return Counter(case.status for case in self.cases if runner in ("", case.runner))


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a runner ran its cases.

    class_code: of section 0.4 of the catalogue ("IU", "AS", "TCG", ...); "" if it is not known.
    backend: "native" or "lab" for kvm, "" for an engine that is a program.
    engine: name and version of what executed the instructions.
    masked: the deviations that are expected here.
    facts: what PROBE found, in its order.
    seconds: from start to end.  engine_seconds: of these inside the engine (KVM_RUN).  starts: how often the
        engine was started.
    """

    runner: str
    class_code: str
    engine: str
    cpu: str = ""
    kernel: str = ""
    backend: str = ""
    masked: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    engine_seconds: float = 0.0
    starts: int = 0


@dataclass(frozen=True, slots=True)
class Absent:
    """A runner that was asked for and could not run: why, and what to do about it."""

    runner: str
    why: str
    next_step: str = ""


class Verdict(StrEnum):
    """What an NMI at one boundary does: nothing is disturbed, somebody's handler takes it, or all ends."""

    SAFE = "safe"
    HANDLED = "handled"
    FATAL = "fatal"
    WRONG = "wrong"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Boundary:
    """Just before one instruction of a Switcher, with an NMI there.

    label: "B12".  path: "enter", "return" or "deliver".  expected: what the catalogue says of it.
    """

    label: str
    address: int
    text: str
    verdict: Verdict
    expected: Verdict
    path: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class NmiMap:
    """An NMI at every boundary of one Switcher, seen on one runner; `method` is how it got there."""

    switcher: str
    layer: str
    runner: str
    boundaries: tuple[Boundary, ...]
    method: str = ""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A named defect and the rows that noticed it on one runner; target is what was made worse."""

    id: str
    title: str
    target: str
    killed_by: tuple[str, ...]
    remark: str = ""
    runner: str = ""


@dataclass(frozen=True, slots=True)
class Control:
    """A case of kind N that broke on a runner, and as it was predicted to."""

    row: str
    case: str
    runner: str


@dataclass(frozen=True, slots=True)
class MatrixRun:
    """When (ISO date) and on what engine a runner's part of the matrix was made."""

    runner: str
    engine: str
    made: str


@dataclass(frozen=True, slots=True)
class MutationMatrix:
    """Every mutant against every row, and every negative control.

    runner names all engines, made is the last date; runs has them one by one.
    """

    runner: str
    made: str
    mutants: tuple[Mutant, ...]
    controls: tuple[Control, ...] = ()
    runs: tuple[MatrixRun, ...] = ()


@dataclass(frozen=True, slots=True)
class Deviation:
    """A known deviation of an environment (section 0.5 of the catalogue)."""

    id: str
    environment: str
    fact: str
    how_known: str = ""


class Direction(StrEnum):
    """What became of a case since an earlier run."""

    WORSE = "worse"
    BETTER = "better"
    OTHER = "other"
    NEW = "new"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Change:
    """A case that does not end as it did; before or after is None if it was not run."""

    row: str
    layer: str
    case: str
    runner: str
    before: Status | None
    after: Status | None
    direction: Direction


@dataclass(frozen=True, slots=True)
class Baseline:
    """An earlier run that this one was compared with; `remarks` tell what else is not the same."""

    name: str
    started: str
    version: str
    changes: tuple[Change, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """One run: everything that any report of it says.

    started: ISO 8601, UTC.  words: the command line after "kvmhost".  selection: in words, what was to run.
    interrupted: why the run ended before its end, "" if it did not.
    troubles: what went wrong with the machinery itself, in sentences; what it concerned is not in the rows.
    """

    version: str
    started: str
    seconds: float
    words: tuple[str, ...]
    selection: str
    seed: int
    repeat: int
    environments: tuple[Environment, ...]
    rows: tuple[RowResult, ...]
    absent: tuple[Absent, ...] = ()
    nmi_maps: tuple[NmiMap, ...] = ()
    matrix: MutationMatrix | None = None
    deviations: tuple[Deviation, ...] = ()
    baseline: Baseline | None = None
    interrupted: str = ""
    troubles: tuple[str, ...] = ()

    @property
    def runners(self) -> tuple[str, ...]:
        """Those that ran, in order."""
        return tuple(environment.runner for environment in self.environments)

    def counts(self, runner: str = "") -> Counter[Status]:
        """How many rows ended how."""
        return Counter(row.status(runner) for row in self.rows)

    def environment(self, runner: str) -> Environment:
        """Where this runner ran.  Raises KeyError."""
        for environment in self.environments:
            if environment.runner == runner:
                return environment
        raise KeyError(runner)


@dataclass(frozen=True, slots=True)
class Disagreement:
    """The same case that did not come out the same everywhere.

    seen: runner, status, and in a few words what it saw.  explained: the deviations and freedoms that account
    for it; empty if nothing does, and then somebody has to look.
    """

    row: str
    case: str
    layer: str
    seen: tuple[tuple[str, Status, str], ...]
    explained: tuple[str, ...]


#: Statuses that say nothing about what an engine does.
SILENT = frozenset({Status.SKIP, Status.UNSUPPORTED, Status.NOT_WRITTEN})


def disagreements(run: Run) -> tuple[Disagreement, ...]:
    """Where runners that ran the same case ended differently, in the order of the rows."""
    found: list[Disagreement] = []
    if len(run.environments) < 2:
        return ()
    for row in run.rows:
        by_case: dict[tuple[str, str], list[CaseResult]] = {}
        for case in row.cases:
            if case.status not in SILENT:
                by_case.setdefault(case.key, []).append(case)
        for (layer, name), cases in by_case.items():
            if len({ending(case) for case in cases}) > 1:
                found.append(
                    Disagreement(
                        row.id,
                        name,
                        layer,
                        tuple((case.runner, case.status, words_of(case)) for case in cases),
                        explanation(cases),
                    )
                )
    return tuple(found)


def ending(case: CaseResult) -> tuple[object, ...]:
    """What must be the same for two runners to agree: of failures what they saw, not the words for it."""
    if case.status in BAD:
        return case.status, case.differences
    return case.status, case.because, case.alternative


def explanation(cases: Iterable[CaseResult]) -> tuple[str, ...]:
    """The named reasons for these to differ; none if one of them simply failed."""
    cases = tuple(cases)
    if any(case.status in BAD for case in cases):
        return ()
    reasons = (reason for case in cases for reason in (case.because, case.alternative) if reason)
    return tuple(dict.fromkeys(reasons))


def words_of(case: CaseResult) -> str:
    """What a case saw, as short as possible."""
    if case.differences:
        first = case.differences[0]
        more = f" and {len(case.differences) - 1} more" if len(case.differences) > 1 else ""
        return f"{first.what}: {first.found} instead of {first.expected}{more}"
    return case.alternative or case.outcome or case.because
