"""Rows cite titles that were looked up: one list says in which revision each was seen, or that none was."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from kvmhost.conformance import sources
from kvmhost.conformance.errors import RowError
from kvmhost.conformance.row import Source, catalogue, find

KNOWN = sources.publications()


def test_every_row_cites_titles_of_the_list_in_the_revision_they_were_seen_in() -> None:
    assert [str(error) for row in catalogue() for error in sources.differs(row, KNOWN)] == []


def test_every_title_of_the_list_is_cited() -> None:
    cited = {(each.publication, each.section) for row in catalogue() for each in row.sources}
    listed = {(name, title) for name, publication in KNOWN.items() for title in publication.sections}
    assert listed - cited == set()


def test_the_list_tells_seen_from_unchecked() -> None:
    sections = [section for publication in KNOWN.values() for section in publication.sections.values()]
    seen = Counter(bool(section.seen) for section in sections)
    assert seen[True] > 200 and 0 < seen[False] < 10
    assert all((section.revision == sources.UNCHECKED) is not bool(section.seen) for section in sections)


@pytest.mark.parametrize(
    ("source", "key", "allowed"),
    [
        (Source("Intel SDM vol. 9", "r", "s"), "sources[0].publication", "Intel SDM vol. 1"),
        (Source("Intel SDM vol. 3", "r", "No Such Title"), "sources[0].section", "sources.toml lists"),
        (Source("Intel SDM vol. 3", "r", "Handling Multiple NMIs"), "sources[0].revision", "253668-064US"),
        (Source("AMD APM vol. 3", "24594 rev. 3.38", "SYSCALL"), "sources[0].revision", "unchecked"),
    ],
)
def test_what_the_list_does_not_have_is_told(source: Source, key: str, allowed: str) -> None:
    (error,) = sources.differs(replace(find("SEN-010"), sources=(source,)), KNOWN)
    assert error.key == key and allowed in error.allowed


GOOD = """
[p]
title = "t"
[[p.texts]]
revision = "2"
read = "all"
[[p.texts]]
revision = "1"
read = "all"
[p.sections]
"A" = { seen = ["2", "1"], number = "1.1" }
"B" = { seen = [] }
"""


def test_a_good_list_is_read(tmp_path: Path) -> None:
    path = tmp_path / "list.toml"
    path.write_text(GOOD)
    found = sources.publications(path)["p"]
    assert [each.revision for each in found.texts] == ["2", "1"]
    assert [each.revision for each in found.sections.values()] == ["2", "unchecked"]


@pytest.mark.parametrize(
    ("old", "new", "key", "allowed"),
    [
        ('["2", "1"]', '["1", "2"]', "p.sections.A.seen", "in that order"),
        ('["2", "1"]', '["3"]', "p.sections.A.seen", "some of ['2', '1']"),
        ('title = "t"\n', "", "p.title", "it is needed"),
        ('number = "1.1"', "page = 1", "p.sections.A.page", "note, number, seen"),
        ('read = "all"\n[p.sections]', "[p.sections]", "p.texts[1].read", "it is needed"),
    ],
)
def test_a_bad_list_says_file_key_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, key: str, allowed: str
) -> None:
    assert old in GOOD
    path = tmp_path / "list.toml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(RowError) as caught:
        sources.publications(path)
    assert (caught.value.file, caught.value.key) == (str(path), key)
    assert allowed in caught.value.allowed


def test_a_citation_says_where_to_find_it_or_that_nobody_looked() -> None:
    seen = KNOWN["Intel SDM vol. 3"].sections["Error Code"]
    assert sources.cited(Source("Intel SDM vol. 3", seen.revision, seen.title)).endswith(
        "Error Code; section 6.13 there"
    )
    unchecked = sources.cited(Source("AMD APM vol. 3", "unchecked", "SYSCALL"))
    assert unchecked == "AMD APM vol. 3 (unchecked), SYSCALL; no text was at hand to check this title"
    assert sources.cited(Source("a book", "2", "a title")) == "a book (2), a title"
