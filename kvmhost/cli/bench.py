"""`kvmhost bench`: what a world switch costs here, and how sure one can be of it.

The words are checked before anything is measured: names that do not exist, files that are no results, reports
that could not be written.  Then we stop being root; a process of its own measures, here or in the lab; and
what it had finished when a signal came is reported.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from kvmhost.cli import backend
from kvmhost.cli.failures import DONE, GUEST_FAILED, HOST_CANNOT, OUR_FAULT, UsageError, say
from kvmhost.cli.run import stop_being_root

if TYPE_CHECKING:
    from kvmhost.bench.benchmark import Benchmark, Setting
    from kvmhost.bench.results import Report
    from kvmhost.bench.wire import Plan

SLOWER = GUEST_FAILED
#: The word that stands for whatever the aims are told from.
AIMS = "aims"
#: What the kernel of a lab that counts instructions says of itself.
COUNTING = "kvmhost.icount=1"
#: MiB that the lab needs beside its own: the machine suite has 64 Guests in one process.
LAB_GUESTS_MIB = 1024
EPILOG = """\
NAME is a suite (switch), a benchmark (exit/c-loop), a pattern (exit/*) or `aims`: what our own aims are told
from.  Without any, all is measured.

In the lab every clock counts instructions, so figures are exact numbers of instructions, of the Guest, of the
kernel's KVM and of kvmhost alike; --lab-times measures time instead, which means nothing beyond this run.

exit codes: 0 done, 1 something became slower (--compare) or an aim was missed (`aims`), 2 the command line is
wrong, 3 this host cannot, 4 a fault of kvmhost itself, 130 ended by Ctrl-C (what was finished is reported)"""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The words of this command."""
    parser = commands.add_parser(
        "bench",
        help="what rings, page-table switches, traps and exits cost here",
        description="Measure world switches and everything on the way, and report.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure")
    amount = parser.add_argument_group("how thoroughly").add_mutually_exclusive_group()
    for name, words in (("quick", "in a minute or so"), ("thorough", "more runs, tighter intervals")):
        amount.add_argument(
            f"--{name}", action="store_const", const=name, dest="mode", help=words, default="normal"
        )
    what = parser.add_argument_group("what is measured")
    what.add_argument("--switcher", type=Path, metavar="FILE", help="a third Switcher, beside ours")
    what.add_argument("--kernel", type=Path, metavar="FILE", help="a Linux kernel for the boot suite")
    what.add_argument("--initrd", type=Path, metavar="FILE", help="its initramfs")
    what.add_argument("--append", default="", metavar="WORDS", help="its command line")
    where = parser.add_argument_group("where")
    where.add_argument("--cpu", type=int, metavar="N", help="the CPU to measure on")
    where.add_argument("--strict", action="store_true", help="do not measure where figures would be spoilt")
    where.add_argument("--lab-times", action="store_true", help="in the lab, measure and tell times as well")
    where.add_argument("--user", metavar="NAME", help="who to become when started as root")
    backend.add_option(parser)
    reports = parser.add_argument_group("reports")
    reports.add_argument("--list", action="store_true", help="tell the benchmarks, and end")
    reports.add_argument("--json", type=Path, metavar="FILE", help="results in pyperf's format")
    reports.add_argument("--csv", type=Path, metavar="FILE", help="one line a figure")
    reports.add_argument("--html", type=Path, metavar="FILE", help="one page, to look at and to send")
    reports.add_argument(
        "--compare",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="results of --json to compare with; repeated, the page shows all side by side",
    )
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    """Check the words, measure, report."""
    from kvmhost.bench import catalogue

    names = wanted(arguments.names)
    chosen = catalogue.select(names)
    if arguments.list:
        return list_all(chosen)
    check(arguments)
    before = read_all(arguments.compare)
    from kvmhost.bench import files
    from kvmhost.cli.opened import open_device

    with ExitStack() as held:
        device = open_device(held)
        if not backend.inside_lab():
            stop_being_root(arguments.user)
        # Who writes them must try it.
        files.try_all(path for path in (arguments.json, arguments.csv, arguments.html) if path is not None)
        report = measure(arguments, chosen, device)
    return tell(arguments, report, before)


def wanted(words: list[str]) -> list[str]:
    """The names that `aims` stands for in its place; an aim without a benchmark is told as not measurable."""
    if AIMS not in words:
        return words
    from kvmhost.bench import catalogue
    from kvmhost.bench.aims import NEEDED

    there = {benchmark.name for suite in catalogue.suites() for benchmark in suite.benchmarks}
    needed = [name for name in NEEDED if name in there]
    return [name for word in words for name in (needed if word == AIMS else (word,))]


def list_all(chosen: tuple[Benchmark, ...]) -> int:
    """Every benchmark and the paragraph about it."""
    import textwrap

    # Names have hyphens, and are looked for.
    paragraph = textwrap.TextWrapper(
        100, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
    )
    for benchmark in chosen:
        if not benchmark.overhead:
            print(f"{benchmark.name}  [{benchmark.unit}]")
            print(paragraph.fill(benchmark.says))
    say(f"{sum(not benchmark.overhead for benchmark in chosen)} benchmarks")
    return DONE


def check(arguments: argparse.Namespace) -> None:
    """What can be wrong with the words alone.  Raises UsageError."""
    if arguments.cpu is not None and arguments.cpu not in os.sched_getaffinity(0):
        raise UsageError(
            f"there is no CPU {arguments.cpu} for this process",
            next_step=f"choose from {', '.join(map(str, sorted(os.sched_getaffinity(0))))}",
        )
    for option, path in (
        ("--switcher", arguments.switcher),
        ("--kernel", arguments.kernel),
        ("--initrd", arguments.initrd),
    ):
        if path is not None and not path.is_file():
            raise UsageError(f"{option}: {path} is no file", next_step="name one that is there")
    if arguments.kernel is None and (arguments.initrd is not None or arguments.append):
        raise UsageError("--initrd and --append belong to a kernel", next_step="name one with --kernel")


def read_all(paths: list[Path]) -> list[tuple[str, Report]]:
    """Earlier results, by the names of their files."""
    if not paths:
        return []
    from kvmhost.bench import pyperf_read

    return [(str(path), pyperf_read.read(path)) for path in paths]


def measure(arguments: argparse.Namespace, chosen: tuple[Benchmark, ...], device: int | None) -> Report:
    """The run itself, natively or in the lab; a signal ends it early and leaves what was finished."""
    from kvmhost.bench import catalogue, session
    from kvmhost.bench.wire import Plan
    from kvmhost.cli.ending import ended_by_signals
    from kvmhost.cli.progress import share_line

    with ExitStack() as held:
        in_lab = backend.goes_to_lab(arguments.backend, device)
        plan = Plan(
            names=tuple(benchmark.name for benchmark in chosen),
            mode=arguments.mode,
            setting=setting(arguments, None if in_lab else device, icount=counts(arguments, in_lab)),
            strict=arguments.strict,
        )
        line = [*(lab_words(plan) if in_lab else ()), *session.worker_line(plan)]
        held.enter_context(ended_by_signals())
        return session.run(
            plan,
            line,
            words=arguments.words,
            inherited=() if in_lab or device is None else (device,),
            progress=held.enter_context(share_line(len(list(catalogue.groups(plan.names))))),
        )


def setting(arguments: argparse.Namespace, device: int | None, *, icount: bool) -> Setting:
    """What was chosen, with paths that mean the same in any folder."""
    from kvmhost.bench.benchmark import Setting

    def whole(path: Path | None) -> Path | None:
        return None if path is None else path.absolute()

    return Setting(
        switcher=whole(arguments.switcher),
        kernel=whole(arguments.kernel),
        initrd=whole(arguments.initrd),
        append=arguments.append,
        cpu=arguments.cpu,
        icount=icount,
        device=device,
    )


def counts(arguments: argparse.Namespace, in_lab: bool) -> bool:
    """Whether the worker will be where instructions are counted: a lab of ours, or the one we are in."""
    if in_lab:
        return not arguments.lab_times
    return backend.inside_lab() and COUNTING in backend.KERNEL_COMMAND_LINE.read_text().split()


def lab_words(plan: Plan) -> list[str]:
    """What starts a lab for the worker: counting, with one CPU; or else with two, for what takes two."""
    counting = ["--icount"] if plan.setting.icount else ["--cpus", "2"]
    memory = f"{backend.LAB_MIB + LAB_GUESTS_MIB}M"
    return [sys.executable, "-P", "-m", "kvmhost", "lab", "run", "--memory", memory, *counting, "--"]


def tell(arguments: argparse.Namespace, report: Report, before: list[tuple[str, Report]]) -> int:
    """Every form that was asked for, and the table on stdout; the exit code."""
    from kvmhost.bench import aims, compare
    from kvmhost.bench.errors import ResultFileError
    from kvmhost.bench.report import text

    times = arguments.lab_times
    unwritten: list[ResultFileError] = []
    for write in (write_json, write_csv, write_html):
        try:
            write(arguments, report, before)
        except ResultFileError as error:  # the others, and the table, are all the more wanted
            unwritten.append(error)
    print(text.render(report, lab_times=times), end="")
    lost = False
    for name, old in before:
        comparison = compare.compare(old, report, lab_times=times)
        print(text.render_comparison(name, comparison), end="")
        lost = lost or comparison.lost
    if unwritten:
        raise unwritten[0]
    missed = AIMS in arguments.names and any(verdict.missed for verdict in aims.judge(report))
    return exit_code(report, slower=lost or missed)


def write_json(arguments: argparse.Namespace, report: Report, before: list[tuple[str, Report]]) -> None:
    """For pyperf, and for --compare."""
    if arguments.json is not None:
        from kvmhost.bench import pyperf_file

        pyperf_file.write(arguments.json, report, lab_times=arguments.lab_times)


def write_csv(arguments: argparse.Namespace, report: Report, before: list[tuple[str, Report]]) -> None:
    """For tables of others."""
    if arguments.csv is not None:
        from kvmhost.bench import as_csv, files

        files.write(arguments.csv, as_csv.text(report, lab_times=arguments.lab_times))


def write_html(arguments: argparse.Namespace, report: Report, before: list[tuple[str, Report]]) -> None:
    """For people: this run beside those that it is compared with."""
    if arguments.html is not None:
        from kvmhost.bench import files
        from kvmhost.bench.report import html

        files.write(arguments.html, html.render([*before, ("this run", report)]))


def exit_code(report: Report, *, slower: bool) -> int:
    """How this run ends; what is worst decides."""
    if report.interrupted:
        return 128 + report.interrupted
    if report.troubles:
        for trouble in report.troubles:
            say(trouble)
        return OUR_FAULT
    if not any(result.runs for result in report.results):
        say("nothing could be measured here")
        for why in dict.fromkeys(result.unmeasured for result in report.results):
            say(why)
        return HOST_CANNOT
    return SLOWER if slower else DONE
