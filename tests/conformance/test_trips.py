"""Random trips: drawn by hypothesis for a batch, played on tcg, and shrunk when one fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from kvmhost.conformance import expand, session, verdict
from kvmhost.conformance.families import states, trips
from kvmhost.conformance.mutations import mutations
from kvmhost.conformance.reference import image_of, load
from kvmhost.conformance.results import CaseResult, Status
from kvmhost.conformance.row import Row, find
from kvmhost.conformance.runners.tcg import TcgRunner
from kvmhost.conformance.switcher_image import SwitcherImage

LAYER = "L2-hardened"
COUNT = 60


@pytest.fixture(scope="module")
def tcg() -> Iterator[TcgRunner]:
    with TcgRunner() as runner:
        yield runner


def row_of(row_id: str) -> Row:
    """The row with fewer states, on one layer."""
    row = find(row_id)
    return replace(row, layers=(LAYER,), parameters={**row.parameters, "count": COUNT})


def run(row: Row, image: SwitcherImage, runner: TcgRunner, seed: int = 1) -> tuple[CaseResult, ...]:
    """What a whole session says of the row."""

    @contextmanager
    def make(name: str) -> Iterator[TcgRunner]:
        yield runner

    plan = session.Plan((row,), ("tcg",), {LAYER: image}, "a test", "0", seed=seed)
    done = session.run(plan, lambda row: expand.expand(row, plan.switchers, seed=seed), make, verdict.compare)
    assert done.troubles == ()
    return done.rows[0].cases


@pytest.mark.parametrize("row_id", ["PRP-001", "PRP-002", "PRP-003", "PRP-004"])
@pytest.mark.parametrize("seed", [1, 20261122])
def test_any_state_comes_back_as_it_went(tcg: TcgRunner, row_id: str, seed: int) -> None:
    found = run(row_of(row_id), image_of(load("hardened")), tcg, seed)
    assert len(found) == COUNT
    assert {case.status for case in found} == {Status.PASS}


def test_the_smallest_state_that_fails_is_named(tcg: TcgRunner) -> None:
    """M01 exchanges EBX and ECX on the way in: it takes a difference of 1 to see it, and nothing else."""
    defect = next(each for each in mutations() if each.id == "M01")
    row = row_of("PRP-001")
    found = run(row, image_of(defect.planted("hardened")), tcg)
    differing = [state["ebx"] != state["ecx"] for state in states.drawn("guests", "PRP-001", COUNT)]
    assert [case.status is Status.FAIL for case in found] == differing
    assert sum(differing) > COUNT / 2
    (told,) = [case for case in found if "smallest" in case.because]
    assert told == next(case for case in found if case.status is Status.FAIL)
    smallest = "the smallest state that fails: {} = 0x1, eip = G_CODE, cs = GCS, ss = GDS, eflags = 0x202"
    assert told.because in (smallest.format("ebx"), smallest.format("ecx"))


def test_a_register_of_the_fpu_that_is_lost_is_named(tcg: TcgRunner) -> None:
    """A PXOR on the way home: it takes one bit of XMM3 to see it."""
    pxor = bytes.fromhex("660fefdb")
    found = run(row_of("PRP-003"), image_of(load("seed"), {"B54": pxor}), tcg)
    told = next(case.because for case in found if "smallest" in case.because)
    assert told == "the smallest state that fails: fcw = 0x37f, mxcsr = 0x1f80, xmm[3] = 0x1"


def test_a_failure_is_drawn_again_and_shrunk() -> None:
    """Of the states of the batch it is known what became of them: only smaller ones cost a start."""
    drawn = states.drawn("guests", "a test", 50)
    played: list[trips.State] = []

    def fails(state: trips.State) -> bool:
        played.append(state)
        return bool(state["edi"] > 1000 and state["fs"] != "0")

    failed = dict(enumerate(map(fails, drawn)))
    played.clear()
    found = states.smallest("guests", "a test", failed, fails)
    assert found is not None
    assert (found["edi"], found["fs"], found["cs"]) == (1024, "GDS", "GCS")
    assert {value for name, value in found.items() if name in trips.GPRS} == {0, 1024}
    assert 0 < len(played) < states.SHRINKING
    assert all(state not in drawn for state in played)


def test_a_failure_that_does_not_come_again_stands_as_it_was() -> None:
    failed = dict.fromkeys(range(20), False) | {7: True}
    assert (
        states.smallest("guests", "once", failed, lambda state: False)
        == states.drawn("guests", "once", 20)[7]
    )
    assert states.smallest("guests", "once", dict.fromkeys(range(20), False), lambda state: True) is None


def test_shrinking_ends_in_time() -> None:
    """However long it could go on, so many trips are played and no more."""
    played = 0

    def fails(state: trips.State) -> bool:
        nonlocal played
        played += 1
        return sum(state["above"]) % 7 == 3

    failed = {number: fails(state) for number, state in enumerate(states.drawn("hosts", "long", 20))}
    played = 0
    assert states.smallest("hosts", "long", failed, fails)
    assert 0 < played <= states.SHRINKING
