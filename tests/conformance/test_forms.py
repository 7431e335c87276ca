"""JUnit, TAP and text of a run that never was: right in form, and nothing strange gets through."""

import re
from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree as Xml

import pytest
from conformance.made_up import FAILURE, HOSTILE, NAMES, case, row, run

from kvmhost.conformance.report import as_junit, as_tap, as_text, baseline
from kvmhost.conformance.results import Baseline, Change, Direction, Run, Status

EARLY = run(interrupted="Ctrl-C", troubles=("the engine died\nof SIGSEGV",))
RUNS = [run(), EARLY, run(rows=()), run(rows=(), environments=(), absent=(), nmi_maps=())]

# What the schema that Jenkins publishes asks: attributes (* required), then children in order.
SCHEMA = {
    "testsuites": ("name time tests* failures* errors*", "testsuite"),
    "testsuite": ("name* tests* failures errors skipped time timestamp", "properties testcase"),
    "properties": ("", "property"),
    "property": ("name* value*", ""),
    "testcase": ("name* classname time", "skipped error failure"),
    "skipped": ("message", ""),
    "error": ("message type", ""),
    "failure": ("message type", ""),
}


def conforms(element: Xml.Element) -> None:
    allowed, children = SCHEMA[element.tag]
    names = {name.rstrip("*") for name in allowed.split()}
    assert set(element.keys()) <= names
    assert {name[:-1] for name in allowed.split() if name.endswith("*")} <= set(element.keys())
    order = [children.split().index(child.tag) for child in element]
    assert order == sorted(order)
    for child in element:
        conforms(child)


@pytest.mark.parametrize("made_up", RUNS)
def test_junit_is_what_its_schema_wants(made_up: Run) -> None:
    conforms(Xml.fromstring(as_junit.render(made_up)))


@pytest.mark.parametrize("made_up", RUNS)
def test_the_counts_of_junit_add_up(made_up: Run) -> None:
    root = Xml.fromstring(as_junit.render(made_up))
    assert root.attrib["tests"] == str(len(root.findall(".//testcase")))
    for suite in root:
        for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.attrib[key]) == len(suite.findall(f".//{tag}"))
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.attrib["timestamp"])


def junit_tests(made_up: Run) -> dict[tuple[str, str], Xml.Element]:
    root = Xml.fromstring(as_junit.render(made_up))
    return {(case.attrib["classname"], case.attrib["name"]): case for case in root.iter("testcase")}


def test_junit_never_counts_as_passed_what_did_not_pass() -> None:
    found = junit_tests(run())
    passed = {names for names, element in found.items() if not len(element)}
    assert passed == {
        ("kvmhost.conformance.kvm.SW-ENT", "SW-ENT-001"),
        ("kvmhost.conformance.kvm.SEN", "SEN-010"),
        ("kvmhost.conformance.kvm.SW-CR3", "SW-CR3-006"),
        ("kvmhost.conformance.kvm.KVM", "KVM-001"),
        ("kvmhost.conformance.tcg.SW-ENT", "SW-ENT-001"),
        ("kvmhost.conformance.tcg.VEC", "VEC-002"),
    }
    failure = found["kvmhost.conformance.kvm.VEC", "VEC-002"].find("failure")
    assert failure is not None
    assert "2 of 3 times; vector is 0xd, expected 0x3" in failure.attrib["message"]
    skipped = found["kvmhost.conformance.tcg.SEN", "SEN-010"].find("skipped")
    assert skipped is not None and skipped.attrib["message"] == "deviates as known: DV-02"


def test_junit_tells_of_the_machinery() -> None:
    errors = [one.attrib["message"] for one in Xml.fromstring(as_junit.render(EARLY)).iter("error")]
    assert errors == [
        r"the engine died\nof SIGSEGV",
        "bochs did not run: there is no program called bochs",
        "ended early: Ctrl-C",
    ]


POINT = re.compile(r"(not )?ok (\d+) - ((?:[^\\#]|\\[\\#])+)(?:# (TODO|SKIP) (?:[^\\#]|\\[\\#])+)?")


@pytest.mark.parametrize("made_up", RUNS)
def test_tap_is_tap(made_up: Run) -> None:
    lines = as_tap.render(made_up).split("\n")
    assert lines[0] == "TAP version 14" and lines[-1] == ""
    plan = re.fullmatch(r"1\.\.(\d+)( # SKIP nothing was run)?", lines[1])
    assert plan
    points = [line for line in lines if re.match(r"(not )?ok ", line)]
    assert len(points) == int(plan[1])
    for count, line in enumerate(points, start=1):
        assert (found := POINT.fullmatch(line)), line
        assert int(found[2]) == count
    assert ("Bail out! Ctrl-C" in lines) == bool(made_up.interrupted)
    inside = "\n".join(lines).count("\n  ---\n")
    assert inside == "\n".join(lines).count("\n  ...\n")


def test_tap_marks_what_is_no_pass() -> None:
    lines = as_tap.render(run()).split("\n")

    def of(start: str) -> str:
        return next(line for line in lines if start in line)

    assert of("tcg SEN-010").startswith("not ok") and of("tcg SEN-010").endswith(
        r"# TODO deviates as known: DV-02"
    )
    assert of("tcg SW-CR3-006").endswith("# SKIP cannot be shown here: DV-05")
    assert of("kvm VEC-002").startswith("not ok") and "# " not in of("kvm VEC-002")
    assert '    - "[int 3 from ring 1] on L1: 2 of 3 times; vector is 0xd' in "\n".join(lines)


@pytest.mark.parametrize("render", [as_text.render, as_tap.render, as_junit.render])
def test_no_strange_character_gets_through(render: Callable[[Run], str]) -> None:
    strange = row(HOSTILE, replace(FAILURE, case=HOSTILE, because=HOSTILE), group=HOSTILE, title=HOSTILE)
    text = render(run(rows=(strange, *EARLY.rows), interrupted=HOSTILE, selection=HOSTILE, version=HOSTILE))
    assert all(c.isprintable() or c == "\n" for c in text)
    assert r"\x1b[31m" in text and r"\ud800" in text
    text.encode("utf-8")


def test_the_text_tells_what_needs_attention() -> None:
    text = as_text.render(run(), with_timing=True)
    for part in (
        "kvm    AS: kvm_amd in the lab, AMD Phenom(tm) 9550, Linux 6.1.0-50-amd64",
        "bochs  did not run: there is no program called bochs",
        "what to do: install Debian's package bochs",
        "VEC     1     1 FAILED      1 ok",
        "SW-CR3  1     1 ok          1 n/d",
        "  seed      kvm\n    hhh.F...\n",
        "time: 45.0 s in all, 35.0 s of these (78 %) inside engines",
        f"B04 before {NAMES[4]}: fatal: shutdown",
        "[int 3 from ring 1] on L1, kvm: 2 of 3 times; vector is 0xd, expected 0x3; error is 0x1a",
        "kvmhost conform --explain VEC-002 --runner kvm",
        "runners disagree on 3 cases, 1 of them unexplained",
        "1 case: DV-02 (the image of EFLAGS has RF=0)",
        "kvm    41.5 s, of these 33.0 s (80 %) inside the engine, 3 starts",
        "1 row failed of 5 that ran (9 cases); 1 deviate as known; 1 cannot be shown here; 1 not possible",
    ):
        assert part in text
    assert max(map(len, text.split("\n"))) <= 140


def test_cases_that_did_not_run_are_not_among_those_that_did() -> None:
    cases = (case("one", "kvm"), case("two", "kvm", Status.SKIP), case("three", "kvm", Status.UNSUPPORTED))
    made_up = run(rows=(row("A-001", *cases),))
    assert "of 1 that ran (1 case)" in as_text.render(made_up)


def test_tap_tells_the_time_as_a_comment() -> None:
    comments = as_tap.render(run(), with_timing=True).removeprefix(as_tap.render(run())).splitlines()
    assert "# kvm: 41.5 s, of these 33.0 s (80 %) inside the engine, 3 starts" in comments
    assert all(line.startswith("# ") for line in comments)


def test_an_early_end_is_the_last_word() -> None:
    assert as_text.render(EARLY).endswith("; ended early: Ctrl-C\n")
    assert r"a fault of kvmhost itself: the engine died\nof SIGSEGV" in as_text.render(EARLY)


def test_what_changed_since_another_run() -> None:
    before = run(
        seed=7,
        rows=(
            row(
                "A-001",
                case("one", "kvm"),
                case("two", "kvm", Status.FAIL),
                case("gone", "kvm"),
                case("b", "bochs"),
            ),
            row("A-002", case("same", "kvm"), case("other", "kvm", Status.SKIP)),
        ),
    )
    after = run(
        rows=(
            row(
                "A-001", case("one", "kvm", Status.XFAIL), case("two", "kvm"), case("new", "kvm", Status.FAIL)
            ),
            row("A-002", case("same", "kvm"), case("other", "kvm", Status.UNSUPPORTED)),
        ),
    )
    found = baseline.compare(before, after, "old.json")
    assert [(one.row, one.case, one.direction) for one in found.changes] == [
        ("A-001", "one", "worse"),
        ("A-001", "two", "better"),
        ("A-001", "new", "new"),
        ("A-002", "other", "other"),
        ("A-001", "gone", "gone"),
    ]
    assert found.remarks == ("the seed was 7 and is 1: random cases are not the same",)
    text = as_text.render(replace(after, baseline=found))
    assert "against old.json of 2026-11-22T18:40:00Z: 1 worse, 1 better, 1 other, 1 new, 1 gone" in text
    assert "worse: A-001 [one] on L1, kvm: passed, now deviates as known" in text


def test_a_run_that_ended_early_has_lost_nothing() -> None:
    before = run(rows=(row("A-001", case("one", "kvm")),))
    assert baseline.compare(before, run(rows=(), interrupted="Ctrl-C"), "b").changes == ()


def test_another_machine_is_remarked_on() -> None:
    here = run()
    there = run(environments=(replace(here.environments[0], cpu="", backend="native"),))
    assert baseline.compare(there, here, "b").remarks == (
        "kvm: CPU was not known and is AMD Phenom(tm) 9550",
        "kvm: backend was native and is lab",
    )


def test_nothing_changed() -> None:
    same = baseline.compare(run(), run(), "b")
    assert same == Baseline("b", "2026-11-22T18:40:00Z", "0.1.0", ())
    assert "nothing changed" in as_text.render(run(baseline=same))


def test_long_sections_are_cut_and_say_so() -> None:
    rows = tuple(row(f"A-{n:03}", replace(FAILURE, case=str(n))) for n in range(60))
    text = as_text.render(run(rows=rows))
    assert "and 20 more: see --html or --json" in text and "A-039" in text and "A-040" not in text
    changes = tuple(
        Change("A", "L1", str(n), "kvm", Status.PASS, Status.FAIL, Direction.WORSE) for n in range(60)
    )
    assert as_text.render(run(rows=(), baseline=Baseline("b", "", "", changes))).count("worse: A") == 40
