"""`kvmhost conform`: does this CPU, and its KVM, switch worlds as the manuals say?

Everything that can be wrong with the words is found before anything runs: rows that do not exist, a baseline
that is no report, a report that could not be written.  What was finished when a signal comes is reported.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kvmhost.cli import backend, foreign
from kvmhost.cli.failures import DONE, GUEST_FAILED, HOST_CANNOT, OUR_FAULT, UsageError, say

if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    from kvmhost.conformance.case import Case
    from kvmhost.conformance.results import Run
    from kvmhost.conformance.row import Row
    from kvmhost.conformance.runners.compiled import Selection
    from kvmhost.conformance.switcher_image import SwitcherImage

    Backend: TypeAlias = Literal["auto", "native", "lab"]

CHECK_FAILED = GUEST_FAILED
ALL = "all"
# prctl(2): whether /proc/self belongs to us.
PR_SET_DUMPABLE = 4
DEVICE = Path(backend.DEVICE)
EPILOG = f"""\
ROW is a group (SW-NMI), an id (SW-NMI-006) or a pattern (SEC-0*). Without any the core set is run.

{foreign.HELP}

exit codes: 0 all as expected, 1 a check failed or is worse than in the baseline, 2 the command line is wrong,
3 this host cannot, 4 a fault of kvmhost itself, 130 ended by Ctrl-C (the reports have what was finished)"""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The words of this command."""
    parser = commands.add_parser(
        "conform",
        help="does this CPU, and its KVM, switch worlds as the manuals say",
        description="Run the conformance catalogue and report.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="what to run: a group, an id or a pattern")
    parser.add_argument(
        "--runner",
        action="append",
        metavar="NAME",
        help="kvm (default), tcg, bochs, model or all; several by commas, or repeated",
    )
    backend.add_option(parser)
    parser.add_argument("--switcher", type=Path, metavar="FILE", help="run the rows with this one, too")
    parser.add_argument(
        "--offsets", type=Path, metavar="FILE", help="what it is built for, as JSON: see below"
    )
    add_amount(parser)
    add_reports(parser)
    parser.set_defaults(command=command)


def add_amount(parser: argparse.ArgumentParser) -> None:
    """How much, how often."""
    amount = parser.add_argument_group("how much").add_mutually_exclusive_group()
    for name, words in (
        ("core", "what must be green before a release (default without ROW)"),
        ("all", "every row but stress"),
        ("stress", "every row, stress in full"),
    ):
        amount.add_argument(
            f"--{name}", action="store_const", const=name, dest="scope", help=words, default=None
        )
    parser.add_argument("--repeat", type=positive, default=1, metavar="N", help="run every case N times")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the random cases (default 1)")


def add_reports(parser: argparse.ArgumentParser) -> None:
    """What is told, and where."""
    instead = parser.add_argument_group("instead of running all of it").add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="tell the rows, and end")
    instead.add_argument(
        "--explain",
        metavar="ID",
        help="a row, its sources and code; with --runner also run it, with --baseline what that run saw",
    )
    reports = parser.add_argument_group("reports")
    reports.add_argument("--json", type=Path, metavar="FILE", help="everything, for a later --baseline")
    reports.add_argument("--junit", type=Path, metavar="FILE", help="JUnit XML, for CI systems")
    reports.add_argument("--html", type=Path, metavar="FILE", help="one page, to look at and to send")
    reports.add_argument("--tap", action="store_true", help="TAP version 14 on stdout instead of the text")
    reports.add_argument("--timing", action="store_true", help="tell how much time the engines had")
    reports.add_argument("--baseline", type=Path, metavar="FILE", help="compare with what --json wrote then")


def positive(text: str) -> int:
    """A number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return int(text)


def command(arguments: argparse.Namespace) -> int:
    """Check the words, then do one of the three things."""
    if (arguments.switcher is None) != (arguments.offsets is None):
        raise UsageError(
            "--switcher and --offsets belong together",
            next_step="name both; kvmhost conform --help tells what --offsets holds",
        )
    runners = named_runners(arguments.runner)
    refuse_unwritten_reports(arguments)
    if arguments.list:
        return list_rows(arguments)
    if arguments.explain is not None:
        return explain(arguments, runners)
    return perform(arguments, runners)


def refuse_unwritten_reports(arguments: argparse.Namespace) -> None:
    """--list and --explain make no report: a file that never appears is worse than an error."""
    instead = "--list" if arguments.list else "--explain" if arguments.explain is not None else ""
    for form in ("json", "junit", "html", "tap", "timing"):
        if instead and getattr(arguments, form):
            raise UsageError(
                f"{instead} makes no report, so --{form} does not go with it",
                next_step=f"run the rows without {instead}",
            )


def named_runners(words: Sequence[str] | None) -> tuple[str, ...]:
    """The runners that were asked for, each once.  Raises UsageError."""
    from kvmhost.conformance.runners import NAMES

    named = dict.fromkeys(name for word in words or ["kvm"] for name in word.split(","))
    if ALL in named:
        return NAMES
    for name in named:
        if name not in NAMES:
            raise UsageError(
                f"there is no runner called {name}", next_step=f"choose from {', '.join(NAMES)}, {ALL}"
            )
    return tuple(named)


def list_rows(arguments: argparse.Namespace) -> int:
    """One line a row."""
    from kvmhost.cli.results import plain
    from kvmhost.conformance.selection import select

    rows = select(arguments.rows, arguments.scope or "stress")
    for row in rows:
        core = "core" if row.core else "    "
        waits = " (not written)" if row.waits_for else ""
        print(plain(f"{row.id:<11} {row.kind} {core} {row.title}{waits}"))
    written = sum(row.written for row in rows)
    say(f"{len(rows)} rows, {written} of them written, {sum(row.core for row in rows)} in the core set")
    return DONE


def explain(arguments: argparse.Namespace, runners: tuple[str, ...]) -> int:
    """One row, and what came of it."""
    from kvmhost.conformance.errors import SelectionError
    from kvmhost.conformance.expand import expand
    from kvmhost.conformance.report.explain import render
    from kvmhost.conformance.selection import select

    found = select([arguments.explain], "stress")
    if len(found) != 1:
        raise SelectionError(
            f"{arguments.explain} is {len(found)} rows, and one is explained at a time",
            next_step="name it by its id, such as SW-NMI-006",
        )
    switchers = switchers_of(arguments)
    result = None
    if arguments.runner is not None:
        done = run(arguments, runners, found, switchers, place(arguments, runners), trace=True)
        result = next(iter(done.rows), None)
        for absent in done.absent:
            say(f"{absent.runner} did not run: {absent.why}")
    elif arguments.baseline is not None:
        from kvmhost.conformance.report.as_json import read

        before = read(arguments.baseline)
        result = next((row for row in before.rows if row.id == found[0].id), None)
        if result is None:
            say(f"{found[0].id} was not run there")
    print(render(found[0], expand(found[0], switchers, seed=arguments.seed), result), end="")
    if arguments.runner is None:
        return DONE
    return exit_code(done, arguments)


def switchers_of(arguments: argparse.Namespace) -> dict[str, SwitcherImage]:
    """The Switchers under test, a foreign one among them if it was named."""
    from kvmhost.conformance.switchers import under_test

    return under_test(foreign.image_of(arguments.switcher, arguments.offsets) if arguments.switcher else None)


def perform(arguments: argparse.Namespace, runners: tuple[str, ...]) -> int:
    """Run the rows and write every report."""
    import gc
    from dataclasses import replace

    from kvmhost.conformance.report import as_json, baseline, files
    from kvmhost.conformance.selection import select

    # A million small objects that live until the end: looking for cycles would take a third of the time.
    gc.disable()
    rows = select(arguments.rows, arguments.scope)
    before = as_json.read(arguments.baseline) if arguments.baseline is not None else None
    switchers = switchers_of(arguments)
    where = place(arguments, runners)
    files.try_all(path for path in (arguments.json, arguments.junit, arguments.html) if path is not None)
    selection = selection_of(arguments, runners, rows, switchers)
    done = run(arguments, runners, rows, switchers, where, trace=False, selection=selection)
    if before is not None:
        done = replace(done, baseline=baseline.compare(before, done, str(arguments.baseline)))
    write_reports(arguments, done)
    if selection is not None and not done.interrupted:
        from kvmhost.conformance.runners.kvm import BATCH_CASES

        selection.keep(BATCH_CASES)
    return exit_code(done, arguments)


def selection_of(
    arguments: argparse.Namespace,
    runners: tuple[str, ...],
    rows: tuple[Row, ...],
    switchers: dict[str, SwitcherImage],
) -> Selection | None:
    """What earlier runs have left of these rows; only the kvm runner has a use for it."""
    if runners != ("kvm",):
        return None
    from importlib.metadata import version

    from kvmhost.conformance.runners.compiled import Selection

    drawn = f"seed {arguments.seed}, {'stress' if arguments.scope == 'stress' else 'no stress'}"
    drawn += f", hypothesis {version('hypothesis')}"  # another one may draw other states
    selection = Selection(rows, switchers, drawn, expander(arguments, switchers))
    selection.load()
    return selection


def expander(
    arguments: argparse.Namespace, switchers: dict[str, SwitcherImage]
) -> Callable[[Row], Sequence[Case]]:
    """What makes the cases of a row."""
    from kvmhost.conformance.expand import expand

    return lambda row: expand(row, switchers, seed=arguments.seed, stress=arguments.scope == "stress")


def run(
    arguments: argparse.Namespace,
    runners: tuple[str, ...],
    rows: tuple[Row, ...],
    switchers: dict[str, SwitcherImage],
    where: Backend,
    *,
    trace: bool,
    selection: Selection | None = None,
) -> Run:
    """The run itself; a signal ends it early and leaves what was finished."""
    from importlib.metadata import version

    from kvmhost.cli.ending import ended_by_signals
    from kvmhost.cli.progress import progress_line
    from kvmhost.conformance import session
    from kvmhost.conformance.runners import make
    from kvmhost.conformance.selection import described
    from kvmhost.conformance.verdict import compare

    words = [arguments.explain] if arguments.explain else arguments.rows
    plan = session.Plan(
        rows=rows,
        runners=runners,
        switchers=switchers,
        selection=described(words, arguments.scope),
        version=version("kvmhost"),
        words=tuple(arguments.words),
        seed=arguments.seed,
        repeat=arguments.repeat,
        trace=trace,
        memory=selection.memory if selection is not None else None,
    )
    with ended_by_signals():
        return session.run(
            plan,
            selection.cases if selection is not None else expander(arguments, switchers),
            lambda name: make(name, backend=where),
            compare,
            progress_line(),
        )


def place(arguments: argparse.Namespace, runners: tuple[str, ...]) -> Backend:
    """Where the kvm runner has its KVM; it is said which, and why.

    Only a native /dev/kvm may need root.  For anything else we become who called sudo, so that QEMU runs as
    an ordinary user, and the lab can keep what it is given.
    """
    where: Backend = "auto"
    if "kvm" in runners:
        where = "lab" if decided_for_lab(arguments.backend) else "native"
    if where != "native" and os.geteuid() == 0 and "SUDO_UID" in os.environ and not backend.inside_lab():
        become_caller()
    return where


def become_caller() -> None:
    """Stop being root.  Engines open memory of ours by its name in /proc, as this user.

    The kernel closes those names to a process that changed its ids, for it may hold what root opened; at
    this point we hold nothing.
    """
    import ctypes

    from kvmhost.cli.run import stop_being_root

    stop_being_root(None)
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


def decided_for_lab(wanted: str) -> bool:
    """As for every command that needs KVM.  Raises HostCannot."""
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        device = None  # the doctor will say why
    try:
        return backend.goes_to_lab(wanted, device)
    finally:
        if device is not None:
            os.close(device)


def write_reports(arguments: argparse.Namespace, done: Run) -> None:
    """Every form that was asked for, and one on stdout.

    A file that cannot be written, on a disk that is full by now, keeps nobody from the others or from the
    verdict.  Raises the last ReportError then.
    """
    from kvmhost.conformance.errors import ReportError
    from kvmhost.conformance.report import files

    failed: list[ReportError] = []
    for path, render in file_forms(arguments):
        try:
            files.write(path, render(done))
        except ReportError as error:
            failed.append(error)
    if arguments.tap:
        from kvmhost.conformance.report import as_tap

        print(as_tap.render(done, with_timing=arguments.timing), end="")
    else:
        from kvmhost.conformance.report import as_text

        print(as_text.render(done, with_timing=arguments.timing), end="")
    for one in failed[:-1]:
        say(f"{one.message}: {one.cause}")
    if failed:
        raise failed[-1]


def file_forms(arguments: argparse.Namespace) -> Iterator[tuple[Path, Callable[[Run], str]]]:
    """The files that were asked for, each with what makes its text."""
    if arguments.json is not None:
        from kvmhost.conformance.report import as_json

        yield arguments.json, as_json.render
    if arguments.junit is not None:
        from kvmhost.conformance.report import as_junit

        yield arguments.junit, as_junit.render
    if arguments.html is not None:
        from kvmhost.conformance.report import html

        yield arguments.html, html.render


def exit_code(done: Run, arguments: argparse.Namespace) -> int:
    """How this run ends; what is worst decides."""
    from kvmhost.cli.ending import code_of
    from kvmhost.conformance.session import as_expected, ran_nothing

    if done.interrupted:
        return code_of(done.interrupted)
    if done.troubles:
        return OUR_FAULT
    if not as_expected(done):
        return CHECK_FAILED
    demanded = ALL not in ",".join(arguments.runner or []).split(",")
    if ran_nothing(done) or (done.absent and demanded) or not done.runners:
        for absent in done.absent:
            say(f"{absent.runner} did not run: {absent.why}")
        return HOST_CANNOT
    return DONE
