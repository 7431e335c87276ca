"""The page itself: headline, warnings, menu, sections, and the policy that lets only our own code in."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from xml.etree.ElementTree import Element

from kvmhost.bench import catalogue
from kvmhost.bench.benchmark import Benchmark, Unit
from kvmhost.bench.report.html import model, plots, words
from kvmhost.bench.report.html.aims import aims
from kvmhost.bench.report.html.compared import compared
from kvmhost.bench.report.html.distributions import suites
from kvmhost.bench.report.html.environment import backend, environment, warnings
from kvmhost.bench.report.html.layers import layers
from kvmhost.bench.report.html.markup import Content, raw, source, tag
from kvmhost.bench.report.html.model import File, Page
from kvmhost.bench.report.html.parts import chip
from kvmhost.bench.report.html.ratios import ratios
from kvmhost.bench.report.html.stories import COMPARED, WHOLE
from kvmhost.bench.report.html.waterfall import waterfall
from kvmhost.bench.results import Report

#: Sections in their order, with their name in the menu; one that there is nothing for is left out.
SECTIONS: dict[str, tuple[str, Callable[[Page], Element | None]]] = {
    "aims": ("aims", aims),
    "compared": ("compared", compared),
    "switch": ("the switch", waterfall),
    "layers": ("layers of an exit", layers),
    "ratios": ("ratios", ratios),
    "distributions": ("every benchmark", suites),
    "environment": ("environment", environment),
}


def render(
    reports: Sequence[tuple[str, Report]],
    benchmarks: Sequence[Benchmark] | None = None,
    titles: Mapping[str, str] | None = None,
) -> str:
    """The whole page for result files side by side, each with the name it is to go by.

    What figures mean (`says`, what is subtracted, the references) comes from the catalogue, or from
    `benchmarks` and the suites' `titles`.
    """
    if benchmarks is None:
        known = catalogue.suites()
        benchmarks = [benchmark for suite in known for benchmark in suite.benchmarks]
        titles = {suite.name: suite.title for suite in known}
    page = model.page(reports, benchmarks, titles or {})
    sections = {name: made for name, (_, make) in SECTIONS.items() if (made := make(page)) is not None}
    style, script = asset("page.css"), asset("page.js")
    policy = f"default-src 'none'; style-src '{sha(style)}'; script-src '{sha(script)}'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"kvmhost bench: {', '.join(file.label for file in page.files)}"),
        raw("style", style),
    )
    menu = tag(
        "nav", [tag("a", SECTIONS[name][0], href=f"#{name}") for name in sections], aria_label="sections"
    )
    body = tag(
        "body",
        plots.hatch("hatched", "hatch"),
        header(page),
        menu,
        tag("main", sections.values()),
        footer(),
        raw("script", script),
    )
    return f"<!DOCTYPE html>\n{source(tag('html', head, body, lang='en'))}\n"


def asset(name: str) -> str:
    """A file of ours that becomes part of the page."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def sha(content: str) -> str:
    """What a policy calls a style or a script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def header(page: Page) -> Element:
    """What this is, what it found, where it was found, and what one must know before reading on."""
    versions = dict.fromkeys(file.report.provenance.kvmhost for file in page.files)
    return tag(
        "header",
        tag("p", f"kvmhost bench {', '.join(versions)}", class_="eyebrow"),
        tag("h1", headline(page)),
        tag("p", lede(page), class_="lede"),
        tag("ul", [source_of(file, len(page.files) > 1) for file in page.files], class_="sources"),
        warnings(page),
    )


def headline(page: Page) -> str:
    """The one figure that people come for, as far as it is there."""
    whole = [sight for file in page.files if (sight := file.measured(WHOLE))]
    clocked = [sight for sight in whole if sight.native.meaningful and sight.figure]
    if clocked:
        scale = clocked[0].native
        middles = [sight.figure.middle for sight in clocked if sight.figure and sight.native == scale]
        low, high = scale.amount(min(middles)), scale.amount(max(middles))
        if low == high:
            return f"A world switch and back takes {low}"
        return f"A world switch and back takes {low.partition(' ')[0]} to {high}"
    counted = [sight.counts["instructions"][1] for sight in whole if "instructions" in sight.counts]
    if counted:
        return f"A world switch and back is {words.amount(min(counted), Unit.CYCLES, icount=True)}"
    measured = sum(any(file.measured(name) for file in page.files) for name in page.names)
    if not measured:
        return "Nothing was measured"
    return f"{words.count(measured, 'benchmark')} measured"


def lede(page: Page) -> str:
    """The headline's figure against others of the same file, if there is one file."""
    (file, *more) = page.files or (None,)
    whole = file.measured(WHOLE) if file else None
    if more or file is None or whole is None or not whole.figure or not whole.native.meaningful:
        return ""
    said = [
        f"{title}: {sight.native.amount(sight.figure.middle)}"
        for name, title in COMPARED.items()
        if (sight := file.measured(name)) and sight.figure and sight.native == whole.native
    ]
    hertz = file.report.provenance.tsc_hz
    if hertz and whole.native.unit is Unit.CYCLES and not file.timeless:
        took = words.amount(whole.figure.middle / hertz * 1e9, Unit.NANOSECONDS)
        said.insert(0, f"That is {took} at the TSC's {hertz / 1e9:.2f} GHz")
    return ". ".join(said) + "." if said else ""


def source_of(file: File, many: bool) -> Element:
    """One file in a line."""
    provenance, report = file.report.provenance, file.report
    measured = sum(file.measured(result.name) is not None for result in report.results)
    facts: list[Content] = [
        provenance.cpu or "a CPU that did not say its name",
        backend(file),
        f"Linux {provenance.kernel}" if provenance.kernel else "a kernel not known",
        f"{measured} of {words.count(len(report.results), 'benchmark')} measured",
        provenance.made,
    ]
    return tag(
        "li",
        chip(file) if many else None,
        tag(
            "div",
            tag("b", file.label),
            tag("span", [tag("span", fact) for fact in facts if fact], class_="meta"),
        ),
    )


def footer() -> Element:
    """What the page promises."""
    return tag(
        "footer",
        tag(
            "p",
            "Medians with bootstrap intervals of 95 % over runs and values; outliers are kept. "
            "Cycles are read by RDTSC inside the VM, serialised, its own cost subtracted.",
        ),
        tag("p", "This page needs no network and loads nothing."),
    )
