"""The page itself: head, menu, sections, and the policy that lets nothing but our style and script in."""

from __future__ import annotations

import base64
import hashlib
import shlex
from importlib.resources import files

from kvmhost.conformance.report.html.compared import changes, differing
from kvmhost.conformance.report.html.markup import Markup, tag
from kvmhost.conformance.report.html.matrix import mutations
from kvmhost.conformance.report.html.nmi import nmi_map
from kvmhost.conformance.report.html.rows import all_rows
from kvmhost.conformance.report.html.summary import by_group, environments, header
from kvmhost.conformance.results import Run

#: Sections in their order; one that a run has nothing for is left out.
SECTIONS = {
    "groups": ("groups", by_group),
    "nmi": ("NMI map", nmi_map),
    "changes": ("changes", changes),
    "disagreements": ("disagreements", differing),
    "rows": ("rows", all_rows),
    "mutations": ("mutations", mutations),
    "environment": ("environment", environments),
}


def render(run: Run) -> str:
    """The whole page."""
    sections = {name: content for name, (_, make) in SECTIONS.items() if (content := make(run))}
    style, script = asset("page.css"), asset("page.js")
    policy = f"default-src 'none'; style-src '{sha(style)}'; script-src '{sha(script)}'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"kvmhost conform: {run.selection}, {run.started}"),
        tag("style", style),
    )
    menu = tag("nav", [tag("a", SECTIONS[name][0], href=f"#{name}") for name in sections])
    body = tag("body", header(run), menu, tag("main", sections.values()), footer(run), tag("script", script))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def asset(name: str) -> Markup:
    """A file of ours that becomes part of the page."""
    return Markup(files(__package__).joinpath(name).read_text(encoding="utf-8"))


def sha(content: str) -> str:
    """What a policy calls a style or a script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def footer(run: Run) -> Markup:
    """How to get the same again."""
    again = shlex.join(["kvmhost", *run.words])
    return tag(
        "footer",
        tag("p", tag("code", again), f" · {run.seconds:.1f} s · each case {run.repeat}×"),
        tag(
            "p", "Expected values come from the manuals, never from a recording of this program's own output."
        ),
    )
