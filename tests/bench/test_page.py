"""The bench report in a real browser: what it draws, that its sums are right, and that nothing runs in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from bench.made_up import HOSTILE, PARTS, SPOILERS, TITLES, known, provenance, report, result
from browser import Page, browse

from kvmhost.bench import catalogue
from kvmhost.bench.benchmark import Benchmark, Unit
from kvmhost.bench.report.html import plots, render, words
from kvmhost.bench.report.html.layers import added, figures
from kvmhost.bench.report.html.markup import source, tag
from kvmhost.bench.report.html.model import File, page
from kvmhost.bench.report.html.stories import BESIDE, COMPARED, LAYERS, WHOLE
from kvmhost.bench.report.html.stories import PARTS as PART
from kvmhost.bench.report.html.waterfall import Fall, fall
from kvmhost.bench.results import Provenance, Report, Result, Series, Spoiler

#: Small enough that every page is drawn at once.
FEW = {"runs": 2, "number": 8}


def few(**changes: object) -> Report:
    return report(**{**FEW, **changes})  # type: ignore[arg-type]


def told(*reports: Report, benchmarks: Sequence[Benchmark] | None = None) -> str:
    named = [(f"file-{number}.json", one) for number, one in enumerate(reports)]
    return render(named, known() if benchmarks is None else benchmarks, TITLES)


def shown(tmp_path: Path, *reports: Report, address: str = "") -> Page:
    """The page after its script ran without a complaint."""
    path = tmp_path / "report.html"
    path.write_text(told(*reports), encoding="utf-8")
    seen, complaints = browse(path, address)
    assert complaints == []
    names = {one.name for each in reports for one in each.results}
    assert seen.all("html")[0][0]["data-ready"] == str(len(names))
    return seen


def cards(seen: Page) -> dict[str, str]:
    return {attributes["id"]: text for attributes, text in seen.all("article", "bench")}


def staircase(one: Report) -> Fall:
    found = fall(page([("a", one)], known(), TITLES), File(0, "a", one))
    assert found
    return found


def part(value: str) -> float:
    assert value.endswith("%")
    return float(value[:-1])


def test_every_benchmark_and_every_warning_is_told(tmp_path: Path) -> None:
    made = few(spoilers=SPOILERS, troubles=("the worker was slow to start",))
    seen = shown(tmp_path, made)
    assert seen.text("h2") == [
        "Aims",
        "One world switch, part by part",
        "The layers of an exit",
        "Ratios",
        "Every benchmark",
        "Environment",
    ]
    drawn = cards(seen)
    assert list(drawn) == [words.anchor(one.name) for one in made.results] and len(drawn) > 70
    for benchmark in known():
        assert benchmark.says in drawn[words.anchor(benchmark.name)]
    (warned,) = seen.text("div", "spoilers")
    assert all(one.name in warned and one.seen in warned and one.next_step in warned for one in SPOILERS)
    assert "the worker was slow to start" in seen.text("div", "partial")[0]
    facts = seen.text("table", "facts")[0]
    asked = made.provenance
    for fact in (asked.cpu, asked.microcode, asked.kernel, *asked.facts.values(), *asked.hashes.values()):
        assert fact in facts
    links = [attributes["href"] for attributes, _ in seen.all("a")]
    ids = {attributes["id"] for _, attributes, _ in seen.elements if "id" in attributes}
    assert {link.removeprefix("#") for link in links} <= ids


def test_the_headline_is_the_round_trip(tmp_path: Path) -> None:
    seen = shown(tmp_path, few(spoilers=SPOILERS))
    (headline,) = seen.text("h1")
    assert re.fullmatch(r"A world switch and back takes 6[23]\d cycles", headline)
    assert re.match(
        r"That is 20\d ns at the TSC's 3.00 GHz\. The Switcher of 2007: 60\d cycles\.",
        seen.text("p", "lede")[0],
    )


def test_the_staircase_adds_up() -> None:
    found = staircase(few())
    assert [name for name, _, _ in found.parts] == [name for name, _, _ in PARTS]
    ends = [start + interval.middle for _, interval, start in found.parts]
    assert [start for _, _, start in found.parts] == [0.0, *ends[:-1]]
    assert found.whole and found.rest is not None and found.rest > 20
    assert ends[-1] + found.rest == pytest.approx(found.whole.middle)


def test_the_staircase_is_drawn_without_a_gap(tmp_path: Path) -> None:
    seen = shown(tmp_path, few())
    steps = [attributes for attributes, _ in seen.all("rect", "part")]
    assert len(steps) == len(PARTS)
    end = 0.0
    for step in steps:
        assert part(step["x"]) == pytest.approx(end, abs=0.02)
        end = part(step["x"]) + part(step["width"])
    rests = [attributes for attributes, _ in seen.all("rect", "rest")]
    wholes = [attributes for attributes, _ in seen.all("rect", "whole")]
    assert part(rests[0]["x"]) == pytest.approx(end, abs=0.02)
    assert part(rests[0]["x"]) + part(rests[0]["width"]) == pytest.approx(part(wholes[0]["width"]), abs=0.04)
    (line,) = seen.text("li", "remainder")
    assert line.startswith("not explained") and line.endswith("6%")


def test_parts_that_cost_more_alone_are_told_as_that(tmp_path: Path) -> None:
    short = result(WHOLE, Unit.CYCLES, 500.0, **FEW)
    made = few()
    seen = shown(
        tmp_path, replace(made, results=tuple(short if one.name == WHOLE else one for one in made.results))
    )
    (line,) = seen.text("li", "remainder")
    assert line.startswith("saved in company") and "-8" in line
    assert "less than the parts cost one by one" in seen.text("figcaption")[0]


def test_a_part_that_was_not_measured_and_a_missing_whole_are_told() -> None:
    made = few(skip=(WHOLE, f"{PART}iret"))
    found = staircase(made)
    assert found.whole is None and found.rest is None
    assert found.missing == ((f"{PART}iret", "no Switcher was named: give --switcher FILE"),)
    seen = Page(told(made))
    assert "no whole to compare" in seen.text("figcaption")[0]
    assert seen.text("ul", "missing") == ["iret: not measured, no Switcher was named: give --switcher FILE"]


def test_shares_of_the_whole_add_up_to_one() -> None:
    benchmarks = [replace(one, reference=WHOLE) if one.suite == "switch" else one for one in known()]
    made = few(lab=True)
    shares = [
        replace(one, runs=tuple(replace(run, ratios=(0.06,) * 8, counts={}) for run in one.runs))
        if PART in one.name
        else one
        for one in made.results
    ]
    bare = tuple(one for one in shares if one.name != WHOLE)
    found = fall(page([("a", made)], benchmarks, TITLES), File(0, "a", replace(made, results=bare)))
    assert found and found.reference == WHOLE and found.whole and found.whole.middle == 1.0
    assert found.rest == pytest.approx(1 - 0.06 * len(PARTS))


def test_the_layers_add_up(tmp_path: Path) -> None:
    made = few()
    known_figures = figures(File(0, "a", made))
    assert known_figures
    (hook,) = [layer for layer in LAYERS if layer.name == "exit/python-hook"]
    pieces = added(hook, known_figures[1])
    assert [layer.name.partition("/")[2] for layer, _, _ in pieces] == [
        "c-loop",
        "shim-loop",
        "cffi-shim",
        "python-handler",
        "python-hook",
    ]
    assert [start for _, start, _ in pieces] == [0.0, *(end for _, _, end in pieces[:-1])]
    assert pieces[-1][2] == known_figures[1]["exit/python-hook"].middle
    seen = shown(tmp_path, made)
    rows = [text for text in seen.text("li", "step") if "adds" in text]
    assert len(rows) == len(LAYERS) - 1 and "KVM_RUN by fcntl" in rows[-1]


def test_the_stories_name_benchmarks_that_there_are() -> None:
    there = {benchmark.name for suite in catalogue.suites() for benchmark in suite.benchmarks}
    named = {*(layer.name for layer in LAYERS), *BESIDE, *COMPARED, WHOLE}
    assert {name for name in named if name.partition("/")[0] in catalogue.SUITES} <= there
    assert all(
        not layer.on or layer.on in {one.name for one in LAYERS[:number]}
        for number, layer in enumerate(LAYERS)
    )


def test_every_value_is_somewhere() -> None:
    far = (9_000.0, 8_000.0)
    runs = ((100.0, 101.0, 102.0, 101.0, 104.0, far[0]), (100.5, 101.5, 102.5, 1.0, 101.0, far[1]))
    series = tuple(Series("switch/x", Unit.CYCLES, 1, (), run) for run in runs)
    made = Report(provenance(), (Result("switch/x", Unit.CYCLES, series),))
    seen = Page(told(made))
    drawn = {kind: [a["d"] for a, _ in seen.all("path", kind)][-1].count("M") for kind in ("dots", "far")}
    legend = seen.text("text", "beyond")
    assert legend == ["◀ 1 down to 1 cycles", "2 up to 9,000 cycles ▶"]
    assert drawn["dots"] == 9
    assert "12 values, 2 runs, 3 outliers" in seen.text("div", "told")[0]


def test_the_density_stands_where_values_lie() -> None:
    axis = plots.Axis(0, 100)
    heights = plots.density([20.0] * 30 + [21.0] * 10 + [80.0] * 10, axis)
    assert max(heights) == 1.0 and heights.index(1.0) in range(17, 23)
    assert heights[18] > 0.2 and heights[48] < 0.01 and 0.1 < max(heights[70:85]) < 0.6


def test_counts_are_exact_numbers(tmp_path: Path) -> None:
    drawn = cards(shown(tmp_path, few()))
    assert "exits 1" in drawn["b-exit-shim-loop"]
    assert "instructions 69" in drawn[words.anchor(WHOLE)]
    assert (
        "ioctls 2 (2 to 3)" in drawn["b-exit-registers-ioctl"]
        or "ioctls 3 (2 to 3)" in drawn["b-exit-registers-ioctl"]
    )
    assert "184,213every time" in drawn["b-boot-traps"]


def test_the_lab_gives_ratios_and_says_that_its_times_mean_nothing(tmp_path: Path) -> None:
    seen = shown(tmp_path, few(lab=True))
    assert "Times mean nothing here" in seen.text("div", "lab")[0]
    assert seen.text("h1") == ["A world switch and back is 69 instructions"]
    drawn = cards(seen)
    assert re.search(r"1\.00\d× of exit/c-loop", drawn["b-exit-shim-loop"]) and not re.search(
        r"\d (ns|µs)", drawn["b-exit-shim-loop"]
    )
    assert "no figure: times of the lab are left out" in drawn["b-machine-create"]
    assert "184,213" in drawn["b-boot-traps"]
    assert "69 instructions in all" in seen.text("figcaption")[0]


def test_times_of_the_lab_that_were_asked_for_are_printed_as_such(tmp_path: Path) -> None:
    native = few()
    kept = replace(native, provenance=provenance(backend="lab"))
    drawn = shown(tmp_path, kept)
    shim = cards(drawn)["b-exit-shim-loop"]
    assert "× of exit/c-loop" in shim and "ns by a clock that means nothing" in shim
    assert "by a clock that means nothing" in cards(drawn)["b-machine-create"]
    assert len(drawn.all("div", "dim")) > 10 and "69 instructions in all" in drawn.text("figcaption")[0]
    assert Page(told(native)).all("div", "dim") == []


def test_a_lab_that_counts_has_instructions(tmp_path: Path) -> None:
    seen = shown(tmp_path, few(lab=True, icount=True))
    assert seen.text("h1") == ["A world switch and back takes 622 instructions"]
    assert "622 instructionsevery time" in cards(seen)[words.anchor(WHOLE)]
    assert "Cycles and nanoseconds are instructions there" in seen.text("div", "lab")[0]


def test_a_run_that_ended_early_is_told(tmp_path: Path) -> None:
    whole = few()
    early = replace(whole, results=(*whole.results[:30], Result("exit/mmio", Unit.CYCLES)), interrupted=2)
    (warned,) = shown(tmp_path, early).text("div", "partial")
    assert "ended early" in warned and "Signal 2" in warned
    assert "2 of 31 benchmarks have no figure" in warned
    assert Page(told(whole)).text("div", "partial") == []


def test_a_planted_loss_is_marked_and_nothing_else(tmp_path: Path) -> None:
    before, after = report(number=20), report(seed=1, slower=("trap/python", "paging/flush"), number=20)
    seen = shown(tmp_path, before, after)
    lost = [text for _, text in seen.all("li", "step") if "▲" in text]
    assert sorted(text.partition("file-1")[0] for text in lost) == ["paging/flush", "trap/python"]
    assert all(re.search(r"▲ 1\.(29|30|31)\d×", text) for text in lost)
    (tally,) = seen.text("ul", "tallies")
    assert "▲ 2 dearer" in tally and "▼ 0 cheaper" in tally


def test_files_that_share_only_counts_tell_those_that_changed() -> None:
    made, lab = few(), few(lab=True)
    more = tuple(
        replace(one, runs=tuple(replace(run, counts={"exits": (2.0,) * 8}) for run in one.runs))
        if one.name in ("trap/shim", "trap/nmi")
        else one
        for one in lab.results
    )
    seen = Page(told(made, replace(lab, results=more)))
    (tally,) = seen.text("ul", "tallies")
    assert "▲ 2 dearer" in tally and "another backend: vmx before, lab now" in tally
    changed = [text for text in seen.text("li", "step") if "exits 1 → 2" in text]
    assert [text.partition("B")[0] for text in changed] == ["trap/shim", "trap/nmi"]


def test_the_aims_have_their_figures_and_verdicts(tmp_path: Path) -> None:
    slow = few(slower=("switch/round-trip-hardened",))
    seen = shown(tmp_path, few(), slow, few(lab=True))
    (hardened,) = [text for text in seen.text("li") if text.startswith("A round trip of hardened costs")]
    verdicts = re.findall(r"([ABC]) ([✓✗◌])", hardened)
    assert verdicts == [("A", "✓"), ("B", "✗"), ("C", "◌")]
    assert re.search(r"1\.0[34]\d times \(", hardened) and "times mean nothing in the lab" in hardened
    (counted,) = [text for text in seen.text("li") if "at most 70 instructions" in text]
    assert "✓ 69 instructions" in counted


def test_a_file_against_itself_is_clean() -> None:
    seen = Page(told(few(), few()))
    assert "▲ 0 dearer▼ 0 cheaper" in seen.text("ul", "tallies")[0]
    assert [text for _, text in seen.all("li", "step") if "▲" in text] == []


def test_exact_counts_that_changed_are_told() -> None:
    made = few()
    more = [
        replace(one, runs=tuple(replace(run, counts={"exits": (2.0,) * 8}) for run in one.runs))
        if one.name == "trap/shim"
        else one
        for one in made.results
    ]
    seen = Page(told(made, replace(made, results=tuple(more))))
    assert "▲ 1 dearer" in seen.text("ul", "tallies")[0]
    assert "exits 1 → 2" in " ".join(seen.text("span", "exact"))


def test_five_files_stand_side_by_side(tmp_path: Path) -> None:
    epyc = few(seed=2, factor=1.3, where={"backend": "svm", "kernel": "6.1.0"})
    seen = shown(tmp_path, few(), few(seed=3), epyc, few(seed=4), few(lab=True, icount=True))
    assert len(seen.all("figure", "fall")) == 10
    assert [text[0] for text in seen.text("li") if "file-" in text][:5] == list("ABCDE")
    whole = cards(seen)[words.anchor(WHOLE)]
    assert all(re.search(letter + r"(median )?[678]\d\d (cycles|instructions)", whole) for letter in "ABCDE")
    assert "≠ kernel" in seen.text("table", "facts")[0] and "≠ kvmhost" not in seen.text("table", "facts")[0]
    assert (
        "file-4.json" in seen.text("ul", "tallies")[0]
        and "it was in cycles, and is in instructions" in seen.text("ul", "tallies")[0]
    )
    assert "Some times mean nothing" in seen.text("div", "lab")[0]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("?search=task-switch", ["b-switch-task-switch"]),
        ("?search=nothing%20like%20it", []),
        ("?search=task-switch#b-exit-mmio", None),
    ],
)
def test_search_and_links(tmp_path: Path, address: str, expected: list[str] | None) -> None:
    seen = shown(tmp_path, few(), address=address)
    visible = [
        attributes["id"] for attributes, _ in seen.all("article", "bench") if "hidden" not in attributes
    ]
    everything = [attributes["id"] for attributes, _ in seen.all("article", "bench")]
    assert visible == (everything if expected is None else expected)
    count = "78 benchmarks" if expected is None else f"{len(expected)} of 78 benchmarks"
    assert [text for attributes, text in seen.all("p") if attributes.get("id") == "shown"] == [count]


def test_nothing_hostile_gets_to_run(tmp_path: Path) -> None:
    made = few()
    strange = replace(
        made,
        provenance=Provenance(*(HOSTILE,) * 5, 1, HOSTILE, False, {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE}),
        results=(
            result(f"switch/{HOSTILE}", Unit.CYCLES, 50.0, **FEW),
            Result(f"{HOSTILE}/x", Unit.CYCLES, (), HOSTILE),
            *(
                replace(one, runs=tuple(replace(run, counts={HOSTILE: (1.0,)}) for run in one.runs))
                for one in made.results
            ),
        ),
        spoilers=(Spoiler(HOSTILE, HOSTILE, HOSTILE),),
        words=(HOSTILE,),
        troubles=(HOSTILE,),
    )
    path = tmp_path / "report.html"
    path.write_text(render([(HOSTILE, strange), ("b", made)], known(), TITLES), encoding="utf-8")
    seen, complaints = browse(path)
    assert complaints == []
    assert len(seen.all("script")) == 1 and len(seen.all("style")) == 1
    body = seen.text("body")[0]
    assert "<script>alert('x')</script> & \"quoted\" \\x00 \\x1b[31m \\ud800 </style>" in body
    assert len(seen.all("article", "bench")) == 80


def test_the_policy_lets_nothing_else_in_and_a_complaint_is_heard(tmp_path: Path) -> None:
    path = tmp_path / "changed.html"
    path.write_text(
        told(few()).replace("</main>", "<script>document.title = 'bad'</script></main>"), encoding="utf-8"
    )
    seen, complaints = browse(path)
    assert complaints and "Content Security Policy" in complaints[0]
    assert seen.text("title")[0].startswith("kvmhost bench")


def test_it_needs_nothing_from_outside() -> None:
    made = told(few())
    assert "http:" not in made and "https:" not in made and "@import" not in made
    assert " src=" not in made and "<link" not in made and " style=" not in made
    assert set(re.findall(r"url\((.)", made)) == {"#"}


@pytest.mark.parametrize("reports", [(), (Report(provenance(), ()),)])
def test_nothing_is_a_page(tmp_path: Path, reports: tuple[Report, ...]) -> None:
    assert shown(tmp_path, *reports).text("h1") == ["Nothing was measured"]


def test_a_benchmark_that_nobody_knows_is_shown() -> None:
    made = Report(provenance(), (result("later/thing", Unit.CYCLES, 50.0, **FEW),))
    (card,) = Page(told(made)).text("article", "bench")
    assert "This kvmhost has no benchmark of that name" in card and "cycles" in card


def test_markup_escapes_what_is_no_element() -> None:
    element = tag("p", "<b>", tag("i"), None, "&", title='"')
    assert source(element) == '<p title="&quot;">&lt;b&gt;<i></i>&amp;</p>'
