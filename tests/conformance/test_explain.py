"""One row told whole, and after a failure everything that is known of it."""

import pytest
from conformance.made_up import FAILURE, HOSTILE, case, row

from kvmhost.conformance.expand import expand
from kvmhost.conformance.report import explain
from kvmhost.conformance.results import Status
from kvmhost.conformance.row import catalogue, find
from kvmhost.conformance.switchers import under_test

SWITCHERS = under_test()


def test_the_row_its_sources_and_its_code() -> None:
    found = find("SEN-010")
    text = explain.render(found, expand(found, SWITCHERS))
    assert text.startswith("SEN-010: LAR, LSL of DPL-0 descriptors\n  kind         P, initial state")
    assert f"  source       {found.sources[0]}" in text and f"  file         {found.path}" in text
    assert "  code at G_CODE\n      0f 02 c3              lar eax, ebx\n" in text
    assert "case: " in text and "  expect       " in text


def test_after_a_failure_expected_and_found_stand_side_by_side() -> None:
    found = find("SEN-010")
    result = row(found.id, FAILURE, case("other", "tcg", Status.XFAIL, because="DV-02"))
    text = explain.render(found, [], result)
    for part in (
        "  seen to fail by M07",
        "  kvm          L1: 1 case failed: int 3 from ring 1",
        "  tcg          L1: 1 case deviates as known (DV-02): other",
        "FAILED: int 3 from ring 1 on L1, kvm\n  2 of 3 times; vector is 0xd",
        "    vector  0x3         0xd         <--\n",
        "    ebx     -           0xb3b3b3b3\n",
        "  where it ended\n    <here>",
        "  last steps\n    <HOST_CODE+16>",
    ):
        assert part in text


def test_by_what_the_row_was_seen_to_fail_is_told_without_a_run() -> None:
    text = explain.render(find("PGF-003"), [])
    assert "  seen to fail by D46: the page is writable\n" in text
    assert "  seen to fail by control: " in explain.render(find("MSR-002"), [])


def test_what_is_not_written_says_what_it_waits_for() -> None:
    waiting = next(one for one in catalogue() if one.waits_for)
    assert "  not written  waits for " in explain.render(waiting, [])


@pytest.mark.parametrize("found", catalogue(), ids=lambda found: found.id)
def test_every_row_can_be_explained(found: object) -> None:
    text = explain.render(found, ())  # type: ignore[arg-type]
    assert text.startswith(found.id) and "source" in text  # type: ignore[attr-defined]
    assert all(c.isprintable() or c == "\n" for c in text)


def test_no_strange_character_gets_through() -> None:
    result = row("A", case(HOSTILE, "kvm", Status.FAIL, because=HOSTILE), seen_to_fail_by=(HOSTILE,))
    text = explain.render(find("SEN-010"), [], result)
    assert r"\x1b[31m" in text and all(c.isprintable() or c == "\n" for c in text)


def test_many_failures_are_counted() -> None:
    result = row("A", *(case(str(count), "kvm", Status.FAIL) for count in range(20)))
    text = explain.render(find("SEN-010"), [], result)
    assert text.count("FAILED: ") == 8 and text.endswith("and 12 failures more: see --html or --json\n")
