"""The HTML report in a real browser: what it shows, what its filter does, and that nothing runs in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from browser import Page, browse
from conformance.made_up import FAILURE, HOSTILE, row, run

from kvmhost.conformance.report import baseline
from kvmhost.conformance.report.html import render
from kvmhost.conformance.report.html.markup import Markup, tag
from kvmhost.conformance.results import Control, Mutant, MutationMatrix, Run, Status


def shown(tmp_path: Path, made_up: Run, address: str = "") -> Page:
    path = tmp_path / "report.html"
    path.write_text(render(made_up))
    page, complaints = browse(path, address)
    assert complaints == []
    html = page.all("html")[0][0]
    assert html["data-ready"] == str(len(made_up.rows))
    return page


def visible(page: Page) -> list[str]:
    return [attributes["id"] for attributes, _ in page.all("details", "row") if "hidden" not in attributes]


def test_everything_is_told(tmp_path: Path) -> None:
    before = run(rows=(row("VEC-002", replace(FAILURE, status=Status.PASS)),))
    page = shown(tmp_path, run(baseline=baseline.compare(before, run(), "last.json")))
    assert page.text("h1") == ["1 row of 5 failed"]
    assert page.text("h2") == [
        "Verdict by group",
        "NMI at every boundary",
        "Changes",
        "Where runners disagree",
        "Rows",
        "Mutation matrix",
        "Environment",
    ]
    links = [attributes["href"] for attributes, _ in page.all("a")]
    ids = {attributes["id"] for _, attributes, _ in page.elements if "id" in attributes}
    assert {link.removeprefix("#") for link in links} <= ids
    notices = " ".join(page.text("p", "notice"))
    assert "bochs did not run" in notices and "install Debian's package bochs" in notices
    (failed,) = page.text("article", "failure")
    for part in (
        "int 3 from ring 1",
        "2 of 3 times",
        "expected and found",
        "0x1a✗ differs",
        "HOST_CODE+16",
        "the last steps",
    ):
        assert part in failed
    assert any("▼ worse" in text for text in page.text("tr"))
    assert "AMD Phenom(tm) 9550" in page.text("article")[-2]
    assert "41.5 s, of these 33.0 s (80 %) inside the engine" in page.text("article")[-2]


def test_the_nmi_map_is_a_strip_over_the_listing(tmp_path: Path) -> None:
    page = shown(tmp_path, run())
    cells = [attributes for attributes, _ in page.all("a", "cell")]
    assert [cell["class"].removeprefix("cell v-") for cell in cells] == (
        ["handled"] * 3 + ["safe"] + ["fatal"] + ["safe"] * 3 + ["handled"] * 3 + ["safe"] * 5
    )
    assert cells[4]["title"] == "B04, before lidt [edx+8]: fatal; shutdown"
    listings = [attributes for attributes, text in page.all("details") if text.startswith("listing of")]
    assert ["open" in attributes for attributes in listings] == [True, False]
    lines = {attributes["id"]: text for attributes, text in page.all("li") if "id" in attributes}
    assert lines[cells[4]["href"].removeprefix("#")] == "✗B04+010lidt [edx+8]fatal"


def test_a_boundary_that_is_not_as_the_catalogue_says_is_pointed_at(tmp_path: Path) -> None:
    wrong = run().nmi_maps[0]
    told = [
        replace(one, verdict=one.verdict.WRONG) if one.label == "B06" else one for one in wrong.boundaries
    ]
    page = Page(render(run(nmi_maps=(replace(wrong, boundaries=tuple(told)),))))
    (cell,) = [attributes for attributes, _ in page.all("a", "v-wrong")]
    assert cell["title"] == "B06, before ltr dx: wrong, and the catalogue says safe"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("?search=vec-002", ["row-VEC-002"]),
        ("?search=dv-02", ["row-SEN-010"]),
        ("?search=0x1a", ["row-VEC-002"]),
        ("?search=nothing like it", []),
        ("?search=sgm%20009%20unsupp", []),
        ("?search=no%20such#row-KVM-001", None),
    ],
)
def test_search_and_links(tmp_path: Path, address: str, expected: list[str] | None) -> None:
    page = shown(tmp_path, run(), address)
    everything = [attributes["id"] for attributes, _ in page.all("details", "row")]
    assert visible(page) == (everything if expected is None else expected)
    opened = [attributes["id"] for attributes, _ in page.all("details", "row") if "open" in attributes]
    assert opened == (["row-KVM-001"] if expected is None else [])
    count = "7 rows" if expected is None else f"{len(expected)} of 7 rows"
    assert [text for attributes, text in page.all("p") if attributes.get("id") == "shown"] == [count]


def test_nothing_hostile_gets_to_run(tmp_path: Path) -> None:
    strange = row(HOSTILE, replace(FAILURE, case=HOSTILE, layer=HOSTILE), group=HOSTILE, title=HOSTILE)
    page = shown(tmp_path, run(rows=(strange, *run().rows), interrupted=HOSTILE, troubles=(HOSTILE,)))
    assert len(page.all("script")) == 1
    assert r"<script>alert('x')</script> & " in page.text("main")[0] and r"\ud800" in page.text("main")[0]


def test_the_policy_lets_nothing_else_in_and_a_complaint_is_heard(tmp_path: Path) -> None:
    path = tmp_path / "changed.html"
    path.write_text(render(run()).replace("</main>", "<script>document.title = 'bad'</script></main>"))
    page, complaints = browse(path)
    assert complaints and "Content Security Policy" in complaints[0]
    assert page.text("title")[0].startswith("kvmhost conform")


def test_it_needs_nothing_from_outside() -> None:
    source = render(run())
    assert (
        "http:" not in source and "https:" not in source and "@import" not in source and "url(" not in source
    )
    assert " src=" not in source and "<link" not in source


@pytest.mark.parametrize(
    ("changes", "headline"),
    [
        ({"rows": ()}, "Nothing was run"),
        ({"rows": run().rows[:1]}, "The one row that ran came out as expected"),
        (
            {"rows": run().rows[:1], "interrupted": "Ctrl-C"},
            "The one row that ran came out as expected, but the run ended early",
        ),
        ({"rows": run().rows[:1], "troubles": ("x",)}, "The run was disturbed by a fault of kvmhost itself"),
    ],
)
def test_the_headline_says_what_happened(changes: dict[str, object], headline: str) -> None:
    assert Page(render(run(**changes))).text("h1") == [headline]


def test_a_defect_put_into_several_things_is_one_line() -> None:
    twice = (
        Mutant("M01", "wrong order", "L2-seed", ("A-001", "A-002")),
        Mutant("M01", "wrong order", "product", ()),
        Mutant("M02", "wrong mask", "L2-seed", tuple(f"A-{number:03}" for number in range(40))),
    )
    page = Page(render(run(matrix=MutationMatrix("tcg", "2026-11-22", twice))))
    (about,) = [text for text in page.text("p", "about") if "named defect" in text]
    assert about.startswith("2 named defects, put into Switchers") and "3 times in all: 1 unnoticed" in about
    lines = [text for text in page.text("tr") if text.startswith("M0")]
    assert lines[0] == "M01wrong orderL2-seedproductL2-seed: A-001 A-002 product: ✗ nobody"
    assert lines[1].endswith("A-023 and 16 more")
    assert len(page.all("rect", "dot")) == 42 and len(page.all("g", "survivor")) == 1


def test_controls_are_told_by_their_rows() -> None:
    controls = (Control("A-001", "no LIDT", "tcg"), Control("A-001", "no LGDT", "kvm"))
    found = MutationMatrix("tcg", "2026-11-22", (Mutant("M01", "a", "L2-seed", ("A-001",)),), controls)
    page = Page(render(run(matrix=found)))
    assert "A-001no LIDTno LGDTtcg, kvm" in page.text("tr")


def test_a_row_lists_by_what_it_was_seen_to_fail() -> None:
    proven = replace(
        run().rows[0], seen_to_fail_by=("D46: the page is writable", "control: no WP", "control: b")
    )
    page = Page(render(run(rows=(proven,))))
    assert page.text("span", "proof") == ["D46, control"]
    assert {"D46: the page is writable", "control: no WP"} <= set(page.text("li"))


def test_an_empty_run_is_a_page(tmp_path: Path) -> None:
    shown(tmp_path, run(rows=(), environments=(), nmi_maps=(), matrix=None, absent=()))


def test_markup_escapes_what_is_not_markup() -> None:
    assert tag("p", "<b>", [Markup("<i>"), None, "&"], title='"') == '<p title="&quot;">&lt;b&gt;<i>&amp;</p>'
    assert isinstance(tag("p") + "<", Markup) and tag("p") + "<" == "<p></p>&lt;"
