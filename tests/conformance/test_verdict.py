"""Every kind of difference is seen, and each excuse is one only for whom it is meant."""

from dataclasses import replace

import pytest

from kvmhost.conformance.case import (
    NO_ERROR,
    Alternative,
    Case,
    Deviation,
    Expect,
    Masked,
    MemoryExpect,
    Observation,
    Trap,
    TrapExpect,
)
from kvmhost.conformance.results import Environment, Status
from kvmhost.conformance.stage import ADDRESS, PAGES
from kvmhost.conformance.verdict import compare, outcome

EIP = ADDRESS["G_CODE"] + 5
SEEN = Observation(
    "trap",
    Trap(13, 0x50, EIP, 0xA1, 0x10202, 0xA9, 0x419000),
    regs={"eax": 5, "eflags": 0x10202},
    segs={"ds": 0xA9},
    cr={"cr2": 0x1000},
    dr={"dr6": 0xFFFF0FF0},
    tables={"tr": 0x80},
    memory={(ADDRESS["G_DATA"], 4): b"\x01\x02\x03\x04"},
    changed=frozenset({PAGES.index("SAVE"), PAGES.index("G_DATA")}),
    hidden={"ss": {"dpl": 1}},
    values={"exits": 1},
)
RIGHT = Expect(
    trap=TrapExpect(13, 0x50, EIP, 0xA1, 0x10202, ss=0xA9, esp=0x419000),
    regs={"eax": Masked(5)},
    segs={"ds": 0xA9},
    cr={"cr2": Masked(0x1000)},
    dr={"dr6": Masked(0xFFFF0FF0)},
    tables={"tr": 0x80},
    memory=(MemoryExpect(ADDRESS["G_DATA"], b"\x01\x02\x03\x04"),),
    changed=frozenset({PAGES.index("G_DATA")}),
    hidden={"ss": {"dpl": 1}},
    values={"exits": 1},
)


def where(code: str) -> Environment:
    return Environment("test", code, "made up")


def case(expect: Expect = RIGHT, **more: object) -> Case:
    return replace(Case("R-001", "c", "L1", "P", None, None, expect=expect), **more)  # type: ignore[arg-type]


def test_what_is_right_passes() -> None:
    result = compare(case(), SEEN, where("IU"))
    assert (result.status, result.differences) == (Status.PASS, ())
    assert all(line.agrees for line in result.state) and len(result.state) == 17


@pytest.mark.parametrize(
    ("seen", "what", "expected", "found"),
    [
        (replace(SEEN, outcome="shutdown"), "outcome", "trap", "shutdown"),
        (replace(SEEN, outcome="timeout"), "outcome", "trap", "timeout"),
        (replace(SEEN, trap=replace(SEEN.trap, vector=14)), "vector", "13", "14"),
        (replace(SEEN, trap=replace(SEEN.trap, error=NO_ERROR)), "error", "0x50", "none"),
        (
            replace(SEEN, trap=replace(SEEN.trap, eip=EIP + 1)),
            *("eip", "0x416005 (G_CODE+0x5)", "0x416006 (G_CODE+0x6)"),
        ),
        (replace(SEEN, trap=replace(SEEN.trap, eip=0xFFC00012)), *("eip", "0x416005 (G_CODE+0x5)"), ""),
        (replace(SEEN, trap=replace(SEEN.trap, cs=0xA0)), "cs", "0xa1", "0xa0"),
        (replace(SEEN, trap=replace(SEEN.trap, eflags=0x202)), "eflags", "0x10202", "0x202"),
        (replace(SEEN, trap=replace(SEEN.trap, ss=None)), "ss", "0xa9", "none"),
        (replace(SEEN, regs={"eax": 6}), "eax", "0x5", "0x6"),
        (replace(SEEN, segs={}), "ds", "0xa9", "none"),
        (replace(SEEN, cr={"cr2": 0}), "cr2", "0x1000", "0x0"),
        (replace(SEEN, dr={"dr6": 0xFFFF4FF0}), "dr6", "0xffff0ff0", "0xffff4ff0"),
        (replace(SEEN, tables={"tr": 0}), "tr", "0x80", "0x0"),
        (
            replace(SEEN, memory={(ADDRESS["G_DATA"], 4): b"\x01\x02\x03\x05"}),
            *("G_DATA", "0x4030201", "0x5030201"),
        ),
        (replace(SEEN, memory={}), "G_DATA", "0x4030201", "not read"),
        (
            replace(SEEN, changed=SEEN.changed | {PAGES.index("X1")} if SEEN.changed else None),
            *("changed pages", "at most G_DATA", "G_DATA X1"),
        ),
        (replace(SEEN, changed=None), "changed pages", "at most G_DATA", "not compared"),
        (replace(SEEN, hidden={}), "hidden ss.dpl", "0x1", "none"),
        (replace(SEEN, values={"exits": 2}), "exits", "1", "2"),
    ],
)
def test_each_difference_is_seen(seen: Observation, what: str, expected: str, found: str) -> None:
    result = compare(case(), seen, where("IU"))
    assert result.status is Status.FAIL
    (difference,) = result.differences
    assert (difference.what, difference.expected) == (what, expected)
    assert difference.found == (found or "0xffc00012 (SW+0x12)")


def test_masks_leave_out_what_they_mask() -> None:
    loose = replace(
        RIGHT,
        trap=replace(RIGHT.trap, eflags=0x202, eflags_mask=0xFFFEFFFF),  # type: ignore[type-var]
        regs={"eax": Masked(0xFF05, 0xFF)},
        memory=(MemoryExpect(ADDRESS["G_DATA"], b"\xff\x02\x03\x04", b"\x00\xff\xff\xff"),),
    )
    assert compare(case(loose), SEEN, where("IU")).status is Status.PASS
    tight = replace(loose, regs={"eax": Masked(0xFF04, 0xFF)})
    assert compare(case(tight), SEEN, where("IU")).differences[0].expected == "0x4 in the bits 0xff"


def test_no_error_code_is_not_any_number() -> None:
    none = replace(RIGHT, trap=TrapExpect(13, NO_ERROR))
    assert compare(case(none), SEEN, where("IU")).differences[0].found == "0x50"


def test_an_alternative_passes_and_says_why() -> None:
    other = Alternative("either ring is allowed", RIGHT)
    result = compare(case(replace(RIGHT, tables={"tr": 8}), any_of=(other,)), SEEN, where("IU"))
    assert (result.status, result.alternative) == (Status.PASS, "either ring is allowed")


def test_a_deviation_counts_only_for_its_class_and_only_as_foretold() -> None:
    manual = replace(RIGHT, regs={"eax": Masked(7)})
    known = case(manual, deviations={"TCG": Deviation("DV-01", RIGHT)})
    assert compare(known, SEEN, where("TCG")).because == "DV-01"
    assert compare(known, SEEN, where("TCG")).status is Status.XFAIL
    assert compare(known, SEEN, where("IU")).status is Status.FAIL
    assert compare(known, SEEN, where("")).status is Status.FAIL
    third = replace(SEEN, regs={"eax": 8})
    assert compare(known, third, where("TCG")).status is Status.FAIL


def test_a_deviation_that_is_gone_fails() -> None:
    known = case(RIGHT, deviations={"TCG": Deviation("DV-01", replace(RIGHT, regs={"eax": Masked(7)}))})
    result = compare(known, SEEN, where("TCG"))
    assert (result.status, result.because) == (Status.FAIL, "the deviation DV-01 is gone")
    assert compare(known, SEEN, where("IU")).status is Status.PASS


def test_what_shows_nothing_is_never_a_pass() -> None:
    blind = case(RIGHT, deviations={"TCG": Deviation("DV-05")})
    assert compare(blind, SEEN, where("TCG")).status is Status.NOT_DEMONSTRABLE
    assert compare(blind, SEEN, where("TCG")).because == "DV-05"
    assert compare(blind, replace(SEEN, outcome="broken"), where("TCG")).status is Status.FAIL


def test_rf_is_masked_where_it_is_known_to_be_missing_and_nowhere_else() -> None:
    """DV-02: no RF in EFLAGS pushed on TCG."""
    clear = replace(SEEN, trap=replace(SEEN.trap, eflags=0x202))  # type: ignore[type-var]
    assert compare(case(), clear, where("TCG")).status is Status.PASS
    assert compare(case(), clear, where("IU")).status is Status.FAIL
    assert compare(case(), clear, where("")).status is Status.FAIL
    named = case(RIGHT, deviations={"TCG": Deviation("DV-02", replace(RIGHT, trap=TrapExpect(eflags=0x202)))})
    assert compare(named, clear, where("TCG")).status is Status.XFAIL
    other = case(RIGHT, deviations={"TCG": Deviation("DV-01", replace(RIGHT, tables={"tr": 9}))})
    assert compare(other, clear, where("TCG")).because == "the deviation DV-01 is gone"


def test_a_written_pdpte_is_masked_on_tcg() -> None:
    """DV-18: the accessed bit of a PDPTE."""
    assert SEEN.changed is not None
    written = replace(SEEN, changed=SEEN.changed | {PAGES.index("HOST_TOP")})
    assert compare(case(), written, where("TCG")).status is Status.PASS
    assert compare(case(), written, where("BX")).status is Status.FAIL


def test_an_engine_that_broke_is_said_to_have_broken() -> None:
    result = compare(case(), Observation("broken", detail="QEMU ended: fatal"), where("TCG"))
    assert (result.status, result.because) == (Status.FAIL, "QEMU ended: fatal")


def test_what_was_seen_in_a_few_words() -> None:
    assert outcome(SEEN) == "trap 13, error 0x50, at G_CODE+0x5"
    assert outcome(Observation("shutdown")) == "shutdown"
    assert outcome(Observation("setup", detail="vector 13")) == "setup: vector 13"
