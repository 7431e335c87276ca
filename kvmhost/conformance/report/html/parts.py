"""The small things that occur all over the page: badges, bars, tables of code."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from kvmhost.conformance.report.html.markup import Content, Markup, tag
from kvmhost.conformance.results import CodeLine, Status

#: A sign beside each colour, for who cannot tell the colours apart.
SIGNS = {
    Status.PASS: "✓",
    Status.FAIL: "✗",
    Status.XFAIL: "≈",
    Status.NOT_DEMONSTRABLE: "◌",
    Status.UNSUPPORTED: "⊘",
    Status.SKIP: "–",
    Status.NOT_WRITTEN: "·",
}


def css_class(status: Status) -> str:
    """The name of a status in the style sheet."""
    return "s-" + status.value.lower().replace("_", "-")


def badge(status: Status, more: str = "") -> Markup:
    """A status as a word with its sign."""
    words = f"{status.word}{f': {more}' if more else ''}"
    return tag("span", tag("i", SIGNS[status]), " ", words, class_=f"badge {css_class(status)}")


def sign(status: Status | None, runner: str) -> Markup:
    """A status as its sign alone, for a narrow column; None is "not run by this one"."""
    if status is None:
        return tag("span", "", class_="sign")
    return tag("span", SIGNS[status], class_=f"sign {css_class(status)}", title=f"{runner}: {status.word}")


def bar(counts: Mapping[Status, int]) -> Markup:
    """How many ended how, as lengths."""
    total = sum(counts.values())
    left, pieces = 0.0, []
    for status in SIGNS:
        if count := counts.get(status, 0):
            width = 100 * count / total
            pieces.append(
                tag(
                    "rect",
                    x=f"{left:.2f}",
                    y="0",
                    width=f"{width:.2f}",
                    height="8",
                    class_=f"fill {css_class(status)}",
                )
            )
            left += width
    return tag(
        "svg", pieces, class_="bar", viewBox="0 0 100 8", preserveAspectRatio="none", aria_hidden="true"
    )


def counted(counts: Counter[Status]) -> Markup:
    """How many ended how, in signs and numbers."""
    return tag(
        "span",
        [
            tag(
                "span",
                tag("i", SIGNS[status]),
                f"{counts[status]:,}",
                class_=f"count {css_class(status)}",
                title=f"{counts[status]:,} {status.word}",
            )
            for status in SIGNS
            if counts[status]
        ]
        or "\N{EM DASH}",
        class_="counts",
    )


def table(head: Iterable[Content], rows: Iterable[Iterable[Content]], class_: str = "") -> Markup:
    """A table that scrolls by itself where the window is narrow."""
    return tag(
        "div",
        tag(
            "table",
            tag("thead", tag("tr", [tag("th", cell, scope="col") for cell in head])),
            tag("tbody", [tag("tr", [tag("td", cell) for cell in row]) for row in rows]),
            class_=class_ or False,
        ),
        class_="scroll",
    )


def code_table(lines: Iterable[CodeLine]) -> Markup:
    """A listing: label, address, bytes, instruction."""
    return tag(
        "div",
        tag(
            "table",
            [
                tag(
                    "tr",
                    tag("td", line.label, class_="label"),
                    tag("td", f"{line.address:08x}", class_="address"),
                    tag("td", line.code, class_="bytes"),
                    tag("td", line.text),
                )
                for line in lines
            ],
            class_="code",
        ),
        class_="scroll",
    )


def section(name: str, title: str, *content: Content, about: str = "") -> Markup:
    """A part of the page that the menu leads to."""
    return tag(
        "section", tag("h2", title), tag("p", about, class_="about") if about else None, content, id=name
    )


def row_link(row_id: str) -> Markup:
    """A link to a row of this page."""
    return tag("a", row_id, href=f"#{anchor(row_id)}", class_="id")


def anchor(name: str) -> str:
    """A name that can stand after the # of an address.

    >>> anchor("A <b>")
    'row-A--b-'
    """
    return "row-" + re.sub(r"[^A-Za-z0-9-]", "-", name)
