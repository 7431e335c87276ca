"""The top of the page: the verdict, the numbers, where it ran, and a line for each group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from kvmhost.conformance.report.html.markup import Content, Markup, tag
from kvmhost.conformance.report.html.parts import SIGNS, bar, counted, css_class, section, table
from kvmhost.conformance.report.words import groups, number, place, timing
from kvmhost.conformance.results import Environment, RowResult, Run, Status, disagreements

GROUPS = {
    "SW-ENT": "entering the Switcher",
    "SW-SEG": "segment registers saved and restored",
    "SW-STK": "stacks",
    "SW-DTR": "LGDT and LIDT",
    "SW-TSS": "task register and busy bit",
    "SW-ROG": "read-only GDT, IDT, TSS after the CR3 switch",
    "SW-CR3": "page-table switch and TLB",
    "SW-POP": "restoring the Guest's registers",
    "SW-IRT": "IRET to the outer ring",
    "SW-STB": "the 256 stubs",
    "SW-RET": "going home",
    "SW-DLV": "handing a vector to the Host",
    "R1P": "privileged instructions at ring 1",
    "SEN": "sensitive but unprivileged instructions",
    "SEC": "what protects the Switcher from the Guest",
    "PGF": "page faults and page-table bits",
    "VEC": "all vectors, all origins",
    "DIR": "traps that go straight to the Guest",
    "DBF": "double and triple faults",
    "NMI": "NMI at every instruction boundary",
    "DBG": "debug facilities",
    "FPU": "floating point and vector registers",
    "MSR": "model-specific registers and other doors",
    "IOP": "I/O permission",
    "SGM": "segmentation corners",
    "INT": "external interrupts",
    "PRP": "property and stress",
    "KVM": "behaviour of the interface",
    "SNP": "save and restore",
}


def header(run: Run) -> Markup:
    """What this is and how it ended."""
    rows = run.counts()
    failed, unexplained = rows[Status.FAIL], sum(not one.explained for one in disagreements(run))
    ran = sum(rows[status] for status in (Status.PASS, Status.FAIL, Status.XFAIL, Status.NOT_DEMONSTRABLE))
    if run.troubles:
        state, words = "bad", "The run was disturbed by a fault of kvmhost itself"
    elif failed:
        state, words = "bad", f"{number(failed, 'row')} of {ran:,} failed"
    elif unexplained:
        state, words = "bad", f"Runners disagree on {number(unexplained, 'case')}, and nothing explains it"
    elif not ran:
        state, words = "open", "Nothing was run"
    else:
        what = "The one row" if ran == 1 else f"All {ran:,} rows"
        state, words = "good", f"{what} that ran came out as expected"
    if run.interrupted:
        state, words = ("bad" if state == "bad" else "open"), f"{words}, but the run ended early"
    where = " · ".join(dict.fromkeys(one.class_code or "class not known" for one in run.environments))
    return tag(
        "header",
        tag("p", f"kvmhost {run.version} conform", class_="eyebrow"),
        tag("h1", words, class_=state),
        tag(
            "p",
            " · ".join(
                (run.selection, ", ".join(run.runners) or "no runner", where, run.started, f"seed {run.seed}")
            ),
            class_="about",
        ),
        warnings(run),
        tiles(rows),
    )


def warnings(run: Run) -> Iterator[Markup]:
    """What makes this run less than whole."""
    if run.interrupted:
        yield notice("ended early", f"{run.interrupted}: this report has only what was finished until then.")
    for trouble in run.troubles:
        yield notice("fault of kvmhost", trouble)
    for absent in run.absent:
        yield notice(f"{absent.runner} did not run", absent.why, absent.next_step)


def notice(title: str, *words: str) -> Markup:
    """A box that must not be overlooked."""
    return tag("p", tag("b", title), [tag("span", part) for part in words if part], class_="notice")


def tiles(rows: Counter[Status]) -> Markup:
    """A number for each status, which filters the rows when it is pressed."""
    return tag(
        "ul",
        [
            tag(
                "li",
                tag(
                    "a",
                    tag("i", SIGNS[status], class_=css_class(status)),
                    tag("b", f"{rows[status]:,}"),
                    tag("span", status.word),
                    href="#rows",
                    data_set_status=status.value,
                ),
                class_=False if rows[status] else "none",
            )
            for status in SIGNS
        ],
        class_="tiles",
    )


def by_group(run: Run) -> Markup:
    """A line for each group, and the whole above them."""
    lines = [group_line(run, "", "all groups", list(run.rows))]
    lines += [group_line(run, group, GROUPS.get(group, ""), rows) for group, rows in groups(run.rows).items()]
    return section(
        "groups",
        "Verdict by group",
        table(
            ["group", "", "rows", *(tag("span", runner, class_="runner") for runner in run.runners)],
            lines,
            "groups",
        ),
        about="A row counts as its least favourable case. A group's name filters the rows.",
    )


def group_line(run: Run, group: str, title: str, rows: list[RowResult]) -> Iterator[Content]:
    """The group's name, and how its rows ended on each runner."""
    yield tag("a", group, href="#rows", data_set_group=group, class_="id") if group else tag("b", "all")
    yield tag("span", title, class_="about")
    yield str(len(rows))
    for runner in run.runners:
        counts = Counter(
            row.status(runner) for row in rows if any(case.runner == runner for case in row.cases)
        )
        yield tag("div", bar(counts) if counts else None, counted(counts), class_="verdict")


def environments(run: Run) -> Markup:
    """A card for each runner."""
    facts = {one.id: one.fact for one in run.deviations}
    return section(
        "environment",
        "Environment",
        tag("div", [card(one, facts) for one in run.environments], class_="cards"),
        about="What executed the rows, and what is known to be different there. Nothing is masked where the "
        "class is not known.",
    )


def card(one: Environment, facts: dict[str, str]) -> Markup:
    """One runner."""
    lines: list[tuple[str, Content]] = [
        ("class", one.class_code or "not known"),
        ("where", place(one)),
        ("time", timing(one)),
    ]
    known = [tag("li", tag("b", name), " ", facts.get(name, "")) for name in one.masked]
    return tag(
        "article",
        tag("h3", one.runner),
        tag("dl", [(tag("dt", title), tag("dd", words)) for title, words in lines]),
        tag("details", tag("summary", f"{number(len(known), 'known deviation')}"), tag("ul", known))
        if known
        else None,
        tag(
            "details",
            tag("summary", f"what PROBE found: {number(len(one.facts), 'fact')}"),
            tag("dl", [(tag("dt", title), tag("dd", words)) for title, words in one.facts]),
        )
        if one.facts
        else None,
    )
