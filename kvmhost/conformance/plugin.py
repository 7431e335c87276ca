"""The rows as tests, for somebody's own CI: `pytest --pyargs kvmhost.conformance`.

Each row is a test for each runner, with the id RUNNER-ROW.  All rows that are left after pytest's own choice
(-k, ids) run as one session per runner when the first of them is asked for, because an engine that starts
once is a thousand times faster than one that starts for every test.  What is no pass and no failure is
skipped or xfailed with its reason, as in every report.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kvmhost.conformance.results import Absent, RowResult, Run
    from kvmhost.conformance.row import Row

#: The test in test_rows.py has these arguments.
ARGUMENTS = ("conformance_runner", "conformance_row")
STATE: pytest.StashKey[State] = pytest.StashKey()


@dataclass
class State:
    """What one pytest session has run so far, by runner."""

    runs: dict[str, Run] = field(default_factory=dict)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, which do something only where the rows are collected."""
    group = parser.getgroup("conformance", "the rows of kvmhost conform as tests")
    group.addoption(
        "--conform-runner",
        metavar="NAMES",
        help="what runs the rows: kvm (default), tcg, bochs, model; several by commas",
    )
    group.addoption(
        "--conform-rows",
        default="",
        metavar="ROWS",
        help="groups, ids or patterns, by commas; the core set without it",
    )
    group.addoption(
        "--conform-scope",
        choices=("core", "all", "stress"),
        help="how much of the catalogue: the core set, all rows but stress, or everything",
    )
    group.addoption(
        "--conform-seed", type=int, default=1, metavar="N", help="of the random cases (default 1)"
    )
    group.addoption(
        "--conform-backend",
        choices=("auto", "native", "lab"),
        default="auto",
        help="where the kvm runner has its KVM",
    )


def pytest_configure(config: pytest.Config) -> None:
    """A place for what was run; words that mean nothing are told before anything is collected."""
    config.stash[STATE] = State()
    if any(config.getoption(option) for option in ("--conform-runner", "--conform-rows", "--conform-scope")):
        wanted(config)


def wanted(config: pytest.Config) -> tuple[list[str], tuple[Row, ...]]:
    """The runners and the rows that the options name.  Raises pytest.UsageError."""
    from kvmhost.conformance.errors import ConformanceError
    from kvmhost.conformance.runners import NAMES
    from kvmhost.conformance.selection import select

    runners = (config.getoption("--conform-runner") or "kvm").split(",")
    if strange := [name for name in runners if name not in NAMES]:
        raise pytest.UsageError(f"--conform-runner: no {strange[0]}; choose from {', '.join(NAMES)}")
    words = [word for word in config.getoption("--conform-rows").split(",") if word]
    try:
        return runners, select(words, config.getoption("--conform-scope"))
    except ConformanceError as error:
        raise pytest.UsageError(f"--conform-rows: {error.message}; {error.next_step}") from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each row and runner."""
    if not set(ARGUMENTS) <= set(metafunc.fixturenames):
        return
    runners, rows = wanted(metafunc.config)
    metafunc.parametrize(
        ARGUMENTS,
        [pytest.param(runner, row, id=f"{runner}-{row.id}") for runner in runners for row in rows],
    )


@pytest.fixture
def conformance_result(
    request: pytest.FixtureRequest, conformance_runner: str, conformance_row: Row
) -> RowResult:
    """What came of this row on this runner; all rows of the runner are run for the first that asks."""
    state = request.config.stash[STATE]
    if conformance_runner not in state.runs:
        state.runs[conformance_runner] = run(
            request.config, conformance_runner, rows_of(request, conformance_runner)
        )
    done = state.runs[conformance_runner]
    if done.absent or done.troubles:
        pytest.fail("; ".join([*done.troubles, *map(why, done.absent)]), pytrace=False)
    found = next((row for row in done.rows if row.id == conformance_row.id), None)
    if found is None:
        pytest.fail(
            f"{conformance_row.id} was not run: {done.interrupted or 'nothing was heard of it'}",
            pytrace=False,
        )
    return found


def rows_of(request: pytest.FixtureRequest, runner: str) -> tuple[Row, ...]:
    """Every row that this session wants of a runner, in order."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    wanted = [call.params for call in calls if call is not None and set(ARGUMENTS) <= call.params.keys()]
    return tuple(params[ARGUMENTS[1]] for params in wanted if params[ARGUMENTS[0]] == runner)


def run(config: pytest.Config, runner: str, rows: tuple[Row, ...]) -> Run:
    """One session of one runner."""
    from importlib.metadata import version

    from kvmhost.conformance import session
    from kvmhost.conformance.expand import expand
    from kvmhost.conformance.runners import make
    from kvmhost.conformance.switchers import under_test
    from kvmhost.conformance.verdict import compare

    switchers, seed = under_test(), config.getoption("--conform-seed")
    stress = config.getoption("--conform-scope") == "stress"
    plan = session.Plan(rows, (runner,), switchers, "rows as tests", version("kvmhost"), seed=seed)
    done = session.run(
        plan,
        lambda row: expand(row, switchers, seed=seed, stress=stress),
        lambda name: make(name, backend=config.getoption("--conform-backend")),
        compare,
    )
    if done.interrupted:
        raise KeyboardInterrupt(done.interrupted)
    return done


def why(absent: Absent) -> str:
    """Why a runner did not run, and what to do."""
    return ": ".join(filter(None, (f"{absent.runner} did not run", absent.why, absent.next_step)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Where the rows ran: a verdict without its environment is worth nothing."""
    environments = [one for done in config.stash[STATE].runs.values() for one in done.environments]
    if not environments:
        return
    from kvmhost.conformance.report.words import place

    terminalreporter.section("conformance")
    for one in environments:
        code = one.class_code or "class not known"
        terminalreporter.write_line(
            f"{one.runner}: {code}: {place(one)}; known deviations: {' '.join(one.masked)}"
        )
