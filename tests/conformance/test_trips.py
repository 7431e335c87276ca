"""Random trips beyond the catalogue's own: drawn by hypothesis, which shrinks what fails, and played on tcg.

One example is a handful of states, so that QEMU is started a few times and not once for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvmhost.conformance import expand, verdict
from kvmhost.conformance.case import Case, Observation
from kvmhost.conformance.families import trips
from kvmhost.conformance.mutations import mutations
from kvmhost.conformance.reference import image_of, load
from kvmhost.conformance.results import Status
from kvmhost.conformance.row import CaseSpec, Row, find
from kvmhost.conformance.runners.tcg import TcgRunner
from kvmhost.conformance.switcher_image import SwitcherImage

Make = Callable[[Row, str, trips.State], CaseSpec]
WORD = st.integers(0, 0xFFFFFFFF)
LAYER = "L2-hardened"
FEW = settings(
    max_examples=4, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def guests(draw: st.DrawFn) -> trips.State:
    """What trips.guest_state() draws, but small numbers and corners first."""
    code, cs, ss, selectors, _ = trips.RINGS[draw(st.sampled_from((1, 3)))]
    return {
        **{name: draw(WORD) for name in trips.GPRS},
        **{name: draw(st.sampled_from(selectors)) for name in trips.DATA},
        "eip": code,
        "cs": cs,
        "ss": ss,
        "esp": draw(WORD),
        "eflags": draw(WORD) & trips.FREE_FLAGS | trips.ALWAYS,
    }


@st.composite
def hosts(draw: st.DrawFn) -> trips.State:
    """What trips.host_state() draws."""
    return {
        "ebp": draw(WORD),
        **{name: draw(st.sampled_from(trips.HOST_DATA)) for name in trips.DATA},
        "eflags": draw(WORD) & trips.FREE_FLAGS & ~0x4400 | 2,
        "above": draw(st.lists(WORD, min_size=trips.ABOVE, max_size=trips.ABOVE)),
    }


@pytest.fixture(scope="module")
def tcg() -> Iterator[TcgRunner]:
    with TcgRunner() as runner:
        yield runner


def guest(row: Row, name: str, state: trips.State) -> CaseSpec:
    return trips.guest_case(row, name, state, {})


def made(row_id: str, states: list[trips.State], image: SwitcherImage, make: Make) -> list[Case]:
    row = find(row_id)
    specs = tuple(make(row, f"state {number}", state) for number, state in enumerate(states))
    return expand.expand(replace(row, family="", cases=specs), {LAYER: image})


def failed(runner: TcgRunner, cases: list[Case]) -> list[str]:
    """What did not come back as it went, in words."""
    assert cases
    found: list[str] = []
    heard = 0

    def hear(case: Case, observation: Observation) -> None:
        nonlocal heard
        heard += 1
        judged = verdict.compare(case, observation, runner.environment)
        if judged.status is not Status.PASS:
            found.append(f"{case.name}: {judged.differences}")

    runner.run(cases, hear)
    assert heard == len(cases)
    return found


@FEW
@given(states=st.lists(guests(), min_size=1, max_size=25))
def test_any_guest_comes_back_as_it_went(tcg: TcgRunner, states: list[trips.State]) -> None:
    assert failed(tcg, made("PRP-001", states, image_of(load("hardened")), guest)) == []


@FEW
@given(states=st.lists(hosts(), min_size=1, max_size=10))
def test_any_host_keeps_what_is_its_own(tcg: TcgRunner, states: list[trips.State]) -> None:
    assert failed(tcg, made("PRP-002", states, image_of(load("hardened")), trips.host_case)) == []


def test_a_register_popped_in_anothers_place_is_seen(tcg: TcgRunner) -> None:
    """M01 exchanges EBX and ECX on the way in: every state in which they differ must fail."""
    defect = next(each for each in mutations() if each.id == "M01")
    cases = expand.expand(find("PRP-001"), {LAYER: image_of(defect.planted("hardened"))})[:20]
    found = failed(tcg, cases)
    assert len(found) == len(cases)
    assert all("regs.ebx" in text and "regs.ecx" in text for text in found)
