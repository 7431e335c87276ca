"""HTML that cannot be forgotten to be escaped: what is not Markup already becomes text."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from kvmhost.conformance.report.words import clean

#: Elements without an end tag.
VOID = frozenset({"meta", "input", "br"})


class Markup(str):
    """A piece of HTML, safe to put into a page as it is."""

    __slots__ = ()

    def __add__(self, other: str) -> Markup:
        """Still safe: what is no Markup becomes text."""
        return Markup(str(self) + str(joined(other)))


Content = str | Iterable["Content"] | None


def text(words: str) -> Markup:
    """Words as HTML, strange characters made visible.

    >>> text("<b> & \\x00")
    '&lt;b&gt; &amp; \\\\x00'
    """
    return Markup(escape(clean(words)))


def joined(content: Content) -> Markup:
    """Pieces one after the other; None is nothing."""
    if content is None:
        return Markup("")
    if isinstance(content, Markup):
        return content
    if isinstance(content, str):
        return text(content)
    return Markup("".join(map(joined, content)))


def tag(name: str, /, *content: Content, **attributes: str | bool) -> Markup:
    """An element.  `class_` is class, `data_row` data-row; True is an attribute without a value, False none.

    >>> tag("a", "R&D", href="#x", hidden=True, title=False)
    '<a href="#x" hidden>R&amp;D</a>'
    """
    words = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(key)
        elif value is not False:
            words.append(f'{key}="{escape(clean(value))}"')
    start = f"<{' '.join(words)}>"
    return Markup(start if name in VOID else f"{start}{joined(content)}</{name}>")
