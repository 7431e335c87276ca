"""Elements as the standard library's trees: it escapes everything, so nothing here can forget to."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree.ElementTree import Element, tostring

Content = str | Element | Iterable["Content"] | None


def visible(text: str) -> str:
    """The text with what cannot be seen, or cannot be written to a file, spelled out.

    >>> visible("a\\x1b[31m\\nb")
    'a\\\\x1b[31m b'
    """
    text = text.replace("\n", " ")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def tag(name: str, /, *content: Content, **attributes: str | float | bool) -> Element:
    """An element.  `class_` is class, `data_x` data-x; True is an empty attribute, False and "" none.

    >>> source(tag("a", "R&D", tag("b", "!"), "<", href="#x", hidden=True, title=""))
    '<a href="#x" hidden="">R&amp;D<b>!</b>&lt;</a>'
    """
    element = Element(name)
    for key, value in attributes.items():
        if value is True:
            element.set(key.replace("_", "-"), "")
        elif value is not False and value != "":
            words = f"{value:.6g}" if isinstance(value, float) else str(value)
            element.set(key.rstrip("_").replace("_", "-"), visible(words))
    put(element, content)
    return element


def put(element: Element, content: Content) -> None:
    """Adds what is given behind what is in the element already; what is no element becomes text."""
    if content is None:
        return
    if isinstance(content, Element):
        element.append(content)
    elif isinstance(content, str):
        words = visible(content)
        if len(element):
            element[-1].tail = (element[-1].tail or "") + words
        else:
            element.text = (element.text or "") + words
    else:
        for piece in content:
            put(element, piece)


def raw(name: str, words: str) -> Element:
    """A style or script of our own, which HTML wants as it is."""
    element = Element(name)
    element.text = words
    return element


def source(element: Element) -> str:
    """The element as HTML."""
    return tostring(element, encoding="unicode", method="html")
