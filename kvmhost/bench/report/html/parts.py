"""Pieces that occur all over the page: sections, tables, a file's chip, a link to a benchmark."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree.ElementTree import Element

from kvmhost.bench.report.html import words
from kvmhost.bench.report.html.markup import Content, tag
from kvmhost.bench.report.html.model import File, Page


def section(name: str, title: str, *content: Content, about: Content = None) -> Element:
    """A part of the page that the menu leads to."""
    return tag(
        "section", tag("h2", title), tag("p", about, class_="about") if about else None, content, id=name
    )


def chip(file: File) -> Element:
    """A file's letter in its colour."""
    return tag("b", file.letter, class_=f"chip {file.colour}", title=file.label)


def named(file: File) -> Element:
    """A file's letter and its name."""
    return tag("span", chip(file), " ", tag("span", file.label, class_="label"), class_="file")


def link(name: str, label: str = "") -> Element:
    """To a benchmark's distribution."""
    return tag("a", label or name, href=f"#{words.anchor(name)}", class_="to" if label else "to id")


def notice(title: Content, *pieces: Content, class_: str = "") -> Element:
    """A box that must not be overlooked."""
    return tag("div", tag("b", title), pieces, class_=f"notice {class_}".strip())


def table(head: Iterable[Content], rows: Iterable[Element], class_: str = "") -> Element:
    """A table that scrolls by itself where the window is narrow; it can be reached by the keyboard."""
    top = tag("thead", tag("tr", [tag("th", cell, scope="col") for cell in head]))
    return tag("div", tag("table", top, tag("tbody", rows), class_=class_), class_="scroll", tabindex="0")


def row(title: Content, cells: Iterable[Content], class_: str = "") -> Element:
    """A line of a table."""
    return tag("tr", tag("th", title, scope="row"), [tag("td", cell) for cell in cells], class_=class_)


def key(page: Page) -> Element | None:
    """Which letter is which file; one file needs none."""
    if len(page.files) < 2:
        return None
    return tag("p", [named(file) for file in page.files], class_="key")
