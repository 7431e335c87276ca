"""A run from rows to results, with engines that see what a test wants: what is kept, and how it ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conformance.engines import FakeEngine, as_expected, judge

from kvmhost.conformance import session
from kvmhost.conformance.case import Case, Event, Expect, Observation, TrapExpect
from kvmhost.conformance.errors import MachineryBroke, RunnerAbsent
from kvmhost.conformance.expand import expand
from kvmhost.conformance.results import CaseResult, Run, Status, Verdict, disagreements
from kvmhost.conformance.row import Row, find
from kvmhost.conformance.session import Plan, ran_nothing
from kvmhost.conformance.session import as_expected as all_as_expected
from kvmhost.conformance.stage import SW
from kvmhost.conformance.switchers import under_test

SWITCHERS = under_test()
ROW = find("SEN-010")
UNWRITTEN = next(row for row in map(find, ("DBG-014", "KVM-022", "PRP-009")) if row.waits_for)


def cases_of(row: Row) -> list[Case]:
    return expand(row, SWITCHERS)


def perform(*engines: FakeEngine, rows: tuple[Row, ...] = (ROW, UNWRITTEN), **more: object) -> Run:
    by_name = {engine.name: engine for engine in engines}
    plan = Plan(rows, tuple(by_name), SWITCHERS, "a test", "0", **more)  # type: ignore[arg-type]
    return session.run(plan, cases_of, by_name.__getitem__, judge)


def test_a_run_that_goes_well() -> None:
    engine = FakeEngine()
    found = perform(engine)
    assert [row.status() for row in found.rows] == [Status.PASS, Status.NOT_WRITTEN]
    assert found.rows[1].cases[0].because == UNWRITTEN.waits_for
    assert engine.closed == 1 and len(found.rows[0].cases) == len(engine.ran) == len(cases_of(ROW))
    assert found.environments[0].starts == 1 and found.environments[0].engine_seconds == 0.5
    assert all_as_expected(found) and not ran_nothing(found) and not found.interrupted
    assert found.deviations and found.rows[0].sources == tuple(map(str, ROW.sources))


def broken(case: Case) -> Observation:
    return replace(as_expected(case), outcome="timeout", detail="nothing came")


def test_a_failure_brings_its_code() -> None:
    found = perform(FakeEngine(sees=broken))
    case = found.rows[0].cases[0]
    assert (case.status, case.because, case.failed, case.repeated) == (Status.FAIL, "nothing came", 1, 1)
    assert case.listing[0].label in ("G_CODE", "U_CODE", "HOST_CODE") and case.listing[-1].text == "int 0x2f"
    assert any(line.label == "here" for line in case.around)
    assert not all_as_expected(found)


def test_every_case_is_repeated_and_one_failure_is_enough() -> None:
    seen: list[str] = []

    def sometimes(case: Case) -> Observation:
        seen.append(case.id)
        return broken(case) if seen.count(case.id) == 2 else as_expected(case)

    found = perform(FakeEngine(sees=sometimes), repeat=3)
    assert {(case.status, case.repeated, case.failed) for case in found.rows[0].cases} == {("FAIL", 3, 1)}


def test_an_end_that_is_not_the_same_every_time_is_a_failure() -> None:
    before = CaseResult("a", "L1", "kvm", Status.PASS)
    found = session.again(before, CaseResult("a", "L1", "kvm", Status.XFAIL, because="DV-02"))
    assert found.status is Status.FAIL and found.failed == 1
    assert found.because == "not the same every time: passed, then deviates as known"


def test_what_an_engine_cannot_do_is_skipped_and_never_run() -> None:
    (case, *_) = cases_of(ROW)
    external = replace(case, event=Event("nmi", at=0x400000))
    engine = FakeEngine(unable="nmi-injection")
    plan = Plan((ROW,), ("kvm",), SWITCHERS, "a test", "0")
    found = session.run(plan, lambda row: [external], lambda name: engine, judge)
    assert [(one.status, one.because) for one in found.rows[0].cases] == [(Status.SKIP, "nmi-injection")]
    assert engine.ran == [] and ran_nothing(found)


def interrupting(after: int, error: BaseException) -> FakeEngine:
    def see(case: Case) -> Observation:
        if len(engine.ran) == after:
            raise error
        return as_expected(case)

    engine = FakeEngine(sees=see)
    return engine


def test_ctrl_c_keeps_what_was_finished_and_says_so() -> None:
    engine, second = interrupting(2, KeyboardInterrupt()), FakeEngine("tcg")
    found = perform(engine, second)
    count = len(cases_of(ROW))
    assert found.interrupted == f"interrupted while kvm ran: {count - 2} of its {count} cases did not"
    statuses = [case.status for case in found.rows[0].cases]
    assert statuses == [Status.PASS] * 2 + [Status.SKIP] * (count - 2)
    assert found.rows[0].cases[-1].because == "the run ended before it"
    assert engine.closed == 1 and second.ran == [] and found.runners == ("kvm",)


def test_ctrl_c_before_anything_ran_is_a_report_too() -> None:
    def presses(row: Row) -> list[Case]:
        raise KeyboardInterrupt

    engine = FakeEngine()
    plan = Plan((ROW,), ("kvm",), SWITCHERS, "a test", "0")
    found = session.run(plan, presses, lambda name: engine, judge)
    assert found.interrupted == "interrupted before anything was run"
    assert found.rows == () and found.runners == () and engine.closed == 0


def test_an_engine_that_dies_is_our_trouble_and_the_next_one_runs() -> None:
    found = perform(interrupting(1, MachineryBroke("QEMU ended", cause="signal 11")), FakeEngine("tcg"))
    assert found.troubles == ("kvm: QEMU ended: signal 11",) and not found.interrupted
    assert found.runners == ("kvm", "tcg") and found.rows[0].status("tcg") is Status.PASS


def test_a_runner_that_is_not_here_is_named() -> None:
    class Missing(FakeEngine):
        def __enter__(self) -> FakeEngine:
            raise RunnerAbsent("there is no bochs", next_step="install it")

    found = perform(Missing("bochs"), FakeEngine("tcg"))
    (absent,) = found.absent
    assert (absent.runner, absent.why, absent.next_step) == ("bochs", "there is no bochs", "install it")
    assert found.runners == ("tcg",)


def test_runners_that_disagree_without_a_reason_are_not_as_expected() -> None:
    found = perform(FakeEngine(sees=broken), FakeEngine("tcg"))
    assert len(disagreements(found)) == len(cases_of(ROW)) and not all_as_expected(found)


def nmi_cases(layer: str, fatal: str = "") -> list[Case]:
    """An NMI at every boundary of a Switcher; up to B11 the Host's handler is expected."""
    image = SWITCHERS[layer]
    (case, *_) = cases_of(ROW)

    def expect(label: str) -> Expect:
        if label == fatal:
            return Expect("shutdown")
        return Expect(trap=TrapExpect(vector=2 if label < "B12" else 0x2F))

    return [
        replace(
            case,
            row="NMI-001",
            name=label,
            layer=layer,
            event=Event("nmi", at=SW + offset),
            expect=expect(label),
        )
        for label, offset in image.boundaries.items()
    ]


@pytest.mark.parametrize(("layer", "fatal"), [("L2-seed", "B12"), ("L3-seed", "B12"), ("L2-hardened", "")])
def test_the_nmi_map_is_drawn_from_what_was_seen(layer: str, fatal: str) -> None:
    cases = nmi_cases(layer, fatal)
    plan = Plan((find("NMI-001"),), ("kvm",), SWITCHERS, "a test", "0")
    found = session.run(plan, lambda row: cases, lambda name: FakeEngine(), judge)
    (one,) = found.nmi_maps
    assert len(one.boundaries) == len(set(SWITCHERS[layer].boundaries.values()))
    assert [boundary.label for boundary in one.boundaries if boundary.verdict is Verdict.FATAL] == [
        fatal
    ] * bool(fatal)
    by_label = {boundary.label: boundary for boundary in one.boundaries}
    if fatal:
        assert by_label["B11"].text.startswith("lgdt") and by_label["B12"].text.startswith("lidt")
    assert by_label["B10"].verdict is Verdict.HANDLED and by_label["B30"].verdict is Verdict.SAFE
    assert (
        by_label["B10"].path == "enter" and by_label["B43r" if "B43r" in by_label else "B43"].path == "return"
    )


def test_a_boundary_that_is_not_as_the_row_says_is_wrong() -> None:
    cases = nmi_cases("L2-seed", "B12")

    def see(case: Case) -> Observation:
        return Observation("timeout") if case.name == "B20" else as_expected(case)

    plan = Plan((find("NMI-001"),), ("kvm",), SWITCHERS, "a test", "0")
    found = session.run(plan, lambda row: cases, lambda name: FakeEngine(sees=see), judge)
    (wrong,) = [one for one in found.nmi_maps[0].boundaries if one.verdict is Verdict.WRONG]
    assert (wrong.label, wrong.expected, wrong.detail) == ("B20", Verdict.SAFE, "B20: timeout")


def test_where_there_is_no_nmi_the_map_is_drawn_by_int_2() -> None:
    cases = [case for case in expand(find("NMI-001"), SWITCHERS) if case.event is None]
    plan = Plan((find("NMI-001"),), ("tcg",), SWITCHERS, "a test", "0")
    found = session.run(plan, lambda row: cases, lambda name: FakeEngine("tcg"), judge)
    maps = {one.layer: one for one in found.nmi_maps}
    assert set(maps) == {"L2-seed", "L2-hardened"}
    assert {one.method for one in maps.values()} == {"INT 2 in its place"}
    fatal = {
        layer: [place.text.split()[0] for place in one.boundaries if place.verdict is Verdict.FATAL]
        for layer, one in maps.items()
    }
    assert fatal == {"L2-seed": ["lidt"], "L2-hardened": []}
    assert [place.path for place in maps["L2-seed"].boundaries][-2:] == ["stub", "stub"]
