"""The list of what rows cite: which titles exist, in which revision each was seen, and which were never seen.

A wrong title sends a reader to a section that is not there, and a revision that nobody read promises more
than was done.  So titles and revisions stand in one list, sources.toml, with the texts that they were looked
up in; a row repeats both, to be readable alone, and differs() tells where the two part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from . import schema
from .errors import RowError
from .row import Row, Source, parse

LIST = Path(__file__).parent / "sources.toml"
#: What a row writes in place of a revision if its title was found in no text.
UNCHECKED = "unchecked"


@dataclass(frozen=True, slots=True)
class Text:
    """One revision of a publication that titles were looked up in: its date, and what of it was read."""

    revision: str
    date: str
    read: str


@dataclass(frozen=True, slots=True)
class Section:
    """A heading: its number in the newest text that has it, and the revisions of those, newest first."""

    title: str
    number: str
    seen: tuple[str, ...]
    note: str

    @property
    def revision(self) -> str:
        """What a row writes as its revision."""
        return self.seen[0] if self.seen else UNCHECKED


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication by its full title; the texts of it newest first."""

    title: str
    texts: tuple[Text, ...]
    sections: Mapping[str, Section]


@cache
def publications(path: Path = LIST) -> Mapping[str, Publication]:
    """The list by the names that rows use; RowError at the first thing in it that does not fit.

    >>> publications()["Intel SDM vol. 3"].sections["Handling Multiple NMIs"].number
    '6.7.1'
    """
    found = {}
    for name, data in parse(path).items():
        schema.PUBLICATION(data, str(path), name)
        texts = tuple(Text(each["revision"], each.get("date", ""), each["read"]) for each in data["texts"])
        order = [each.revision for each in texts]
        sections = {}
        for title, each in data["sections"].items():
            if each["seen"] != [revision for revision in order if revision in each["seen"]]:
                raise RowError(
                    str(path),
                    f"{name}.sections.{title}.seen",
                    repr(each["seen"]),
                    f"some of {order}, in that order",
                )
            sections[title] = Section(
                title, each.get("number", ""), tuple(each["seen"]), each.get("note", "")
            )
        found[name] = Publication(data["title"], texts, MappingProxyType(sections))
    return MappingProxyType(found)


def differs(row: Row, known: Mapping[str, Publication]) -> Iterator[RowError]:
    """What in a row's sources is not as the list has it."""
    for place, source in enumerate(row.sources):
        key = f"sources[{place}]"
        publication = known.get(source.publication)
        if publication is None:
            yield RowError(
                str(row.path), f"{key}.publication", repr(source.publication), "one of " + ", ".join(known)
            )
        elif source.section not in publication.sections:
            yield RowError(
                str(row.path), f"{key}.section", repr(source.section), f"a title that {LIST.name} lists"
            )
        elif source.revision != (right := publication.sections[source.section].revision):
            yield RowError(str(row.path), f"{key}.revision", repr(source.revision), repr(right))


def cited(source: Source) -> str:
    """A source with what the list knows besides: where to find it, or that its title is unchecked.

    >>> cited(Source("Intel SDM vol. 3", "253668-064US", "Handling Multiple NMIs"))
    'Intel SDM vol. 3 (253668-064US), Handling Multiple NMIs; section 6.7.1 there'
    """
    publication = publications().get(source.publication)
    section = publication.sections.get(source.section) if publication else None
    if section is None or section.revision != source.revision:
        return str(source)
    if not section.seen:
        return f"{source}; no text was at hand to check this title"
    return f"{source}; section {section.number} there" if section.number else str(source)
