"""Where figures come from: what each file knows of its machine, and where files differ."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from kvmhost.bench.report.html.markup import Content, tag
from kvmhost.bench.report.html.model import File, Page
from kvmhost.bench.report.html.parts import chip, named, notice, row, section, table

BACKENDS = {
    "vmx": "native, Intel VMX",
    "svm": "native, AMD SVM",
    "lab": "the lab: a KVM inside an emulated machine",
}
DASH = "\N{EM DASH}"


def backend(file: File) -> str:
    """What executes a VM there."""
    provenance = file.report.provenance
    name = BACKENDS.get(provenance.backend, provenance.backend)
    return f"{name}, counting instructions" if provenance.icount else name


def environment(page: Page) -> Element:
    """The section: a column a file, and a mark where they differ."""
    lines = [fact(title, values) for title, values in facts(page).items()]
    known = dict.fromkeys(name for file in page.files for name in file.report.provenance.facts)
    lines += [
        fact(name, [file.report.provenance.facts.get(name, "") for file in page.files]) for name in known
    ]
    blobs = dict.fromkeys(name for file in page.files for name in file.report.provenance.hashes)
    lines += [
        fact(
            f"SHA-256 of {name}", [file.report.provenance.hashes.get(name, "") for file in page.files], "hash"
        )
        for name in blobs
    ]
    return section(
        "environment",
        "Environment",
        table(["", *map(named, page.files)], lines, "facts"),
        about="What was beneath the figures."
        + (" Lines that differ have a ≠." if len(page.files) > 1 else ""),
    )


def facts(page: Page) -> dict[str, list[str]]:
    """What every file says of its machine and of itself."""
    reports = [file.report for file in page.files]
    return {
        "backend": [backend(file) for file in page.files],
        "CPU": [one.provenance.cpu for one in reports],
        "microcode": [one.provenance.microcode for one in reports],
        "kernel": [one.provenance.kernel for one in reports],
        "kvmhost": [one.provenance.kvmhost for one in reports],
        "TSC": [
            f"{one.provenance.tsc_hz / 1e6:,.1f} MHz" if one.provenance.tsc_hz else "" for one in reports
        ],
        "made": [one.provenance.made for one in reports],
        "asked for": [" ".join(one.words) or "everything" for one in reports],
        "took": [f"{one.seconds:,.0f} s" for one in reports],
    }


def fact(title: str, values: list[str], class_: str = "") -> Element:
    """One line."""
    differs = len(set(values)) > 1
    cells: list[Content] = [value or DASH for value in values]
    name = tag("span", tag("b", "≠ ", class_="differs") if differs else None, title)
    return row(name, cells, class_)


def warnings(page: Page) -> list[Element]:
    """What makes files less than whole, and what would spoil their figures."""
    found: list[Element] = []
    timeless = [file for file in page.files if file.timeless]
    if timeless:
        found.append(
            notice(
                "Times mean nothing here" if len(timeless) == len(page.files) else "Some times mean nothing",
                tag("p", lab_words(timeless, page)),
                class_="lab",
            )
        )
    for file in page.files:
        found += incomplete(file, chip(file) if len(page.files) > 1 else None)
    return [*found, *filter(None, (spoiled(page, file) for file in page.files))]


def lab_words(timeless: list[File], page: Page) -> Content:
    """What the lab's figures are good for."""
    who: Content = [[chip(file), " "] for file in timeless] if len(page.files) > 1 else "This "
    counting = any(file.report.provenance.icount for file in timeless)
    cycles = " Cycles and nanoseconds are instructions there." if counting else ""
    return [
        who,
        "ran in the lab, whose CPU is a program: how long it takes says nothing of any hardware. "
        f"Look at ratios and at the counts of exits and instructions.{cycles} "
        "What the lab's clock said is printed pale.",
    ]


def incomplete(file: File, who: Element | None) -> list[Element]:
    """A run that ended early, and faults on the way."""
    report, found = file.report, []
    if report.interrupted:
        without = sum(not result.runs for result in report.results)
        more = f" {without} of {len(report.results)} benchmarks have no figure." if without else ""
        found.append(
            notice(
                [who, " ended early"],
                tag(
                    "p",
                    f"Signal {report.interrupted} stopped this run. It has what was finished by then.{more}",
                ),
                class_="partial",
            )
        )
    found += [
        notice([who, " fault on the way"], tag("p", trouble), class_="partial") for trouble in report.troubles
    ]
    return found


def spoiled(page: Page, file: File) -> Element | None:
    """What was found on a machine that would spoil figures, with the cure of each."""
    spoilers = file.report.spoilers
    if not spoilers:
        return None
    lines = [
        tag("li", tag("b", one.name), " ", one.seen, tag("span", one.next_step, class_="cure"))
        for one in spoilers
    ]
    what = f"{len(spoilers)} thing{'' if len(spoilers) == 1 else 's'} would spoil its figures"
    title: Content = [chip(file), " ", what] if len(page.files) > 1 else what.replace("its", "these")
    return notice(title, tag("ul", lines), class_="spoilers")
