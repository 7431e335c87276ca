"""Verdicts that are remembered: the same bytes, the same verdict, and any other byte is judged as ever."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
from conformance.engines import FakeEngine
from conformance.hand_made import case

from kvmhost._native import ffi, lib
from kvmhost.conformance import session
from kvmhost.conformance.case import Case, Deviation, Expect, Observation, TrapExpect
from kvmhost.conformance.memory import Memory, Remembered, packed, unpacked
from kvmhost.conformance.results import CaseResult, Difference, Environment, Status
from kvmhost.conformance.row import find
from kvmhost.conformance.runners import base, batch
from kvmhost.conformance.session import Plan
from kvmhost.conformance.verdict import compare

ROW = find("SEN-010")
TRAP = (0x2F, 0x416002, 0xA1, 0x202, 0x419000, 0xA9, 0, 0)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def record() -> bytes:
    """What the monitor leaves of a trap from ring 1."""
    result = ffi.new("struct conform_result *")
    result.outcome = lib.CONFORM_TRAP
    result.saved.stack = TRAP
    result.saved.stack_words = len(TRAP)
    result.saved.eax = 0xA0A0A0A0
    return bytes(ffi.buffer(result))


def expecting(name: str, **deviations: Deviation) -> Case:
    trap = TrapExpect(vector=0x2F, error=-1, eip=0x416002, cs=0xA1, eflags=0x202, ss=0xA9, esp=0x419000)
    plain = case(name, "90cd2f", expect=Expect(trap=trap, changed=frozenset()))
    return replace(plain, row=ROW.id, deviations=deviations)


@dataclass
class Engine(FakeEngine):
    """Gives records; `heard` are the cases that somebody had to look at."""

    records: dict[str, bytes] = field(default_factory=dict)
    recall: base.Recall = base.no_recall
    judged: list[str] = field(default_factory=list)

    def run(self, cases: Sequence[Case], heard: Callable[[Case, Observation], None]) -> None:
        for each in cases:
            raw = self.records[each.name]
            if not self.recall(each, raw, partial(batch.observe, each, raw)):
                self.judged.append(each.name)
                heard(each, batch.observe(each, raw))


def run(engine: Engine, cases: Sequence[Case], memory: Memory | None) -> list[CaseResult]:
    plan = Plan((ROW,), ("kvm",), {}, "a test", "0", memory=memory)
    found = session.run(plan, lambda row: cases, lambda name: engine, compare)
    assert not found.troubles
    return list(found.rows[0].cases)


CASES = (
    expecting("passes"),
    expecting("deviates", TCG=Deviation("DV-02", Expect(trap=TrapExpect(eip=1)))),
    expecting("is not shown", TCG=Deviation("DV-05")),
)


def different(raw: bytes) -> bytes:
    """The same with EIP 1."""
    place = raw.index((0x416002).to_bytes(4, "little"))
    return raw[:place] + (1).to_bytes(4, "little") + raw[place + 4 :]


RECORDS = {"passes": record(), "deviates": different(record()), "is not shown": record()}


def test_the_second_time_nobody_judges_and_all_is_said_again() -> None:
    first = Engine(records=dict(RECORDS))
    memory = Memory("these cases")
    before = run(first, CASES, memory)
    memory.keep()
    assert [one.status for one in before] == [Status.PASS, Status.XFAIL, Status.NOT_DEMONSTRABLE]
    assert first.judged == [each.name for each in CASES]
    second = Engine(records=RECORDS)
    assert run(second, CASES, Memory("these cases")) == before
    assert second.judged == []
    others = Engine(records=RECORDS)
    assert run(others, CASES, Memory("other cases")) == before
    assert others.judged == first.judged


def test_no_bit_of_a_record_is_taken_on_trust() -> None:
    """With a memory of how the record should be, a corrupted one is looked at, and ends as without memory."""
    memory = Memory("these cases")
    run(Engine(records=RECORDS), CASES, memory)
    known = memory.of(Engine().environment)
    good, seen = dict(known), set()
    for each in CASES:
        raw = RECORDS[each.name]
        assert known[each.id].raw == raw
        for place in range(len(raw)):
            corrupted = raw[:place] + bytes([raw[place] ^ 1 << place % 8]) + raw[place + 1 :]
            trusting, plain = (Engine(records={each.name: corrupted}) for _ in range(2))
            found = run(trusting, [each], memory)
            assert found == run(plain, [each], None) and trusting.judged == [each.name], place
            seen.add(found[0].status)
            known.clear()
            known.update(good)
    assert seen == {Status.PASS, Status.FAIL, Status.XFAIL, Status.NOT_DEMONSTRABLE}


def test_a_failure_is_never_remembered() -> None:
    memory = Memory("these cases")
    records = {"passes": different(record())}
    for _ in range(2):
        engine = Engine(records=records)
        (found,) = run(engine, CASES[:1], memory)
        assert (found.status, engine.judged) == (Status.FAIL, ["passes"])
        assert found.differences and found.state and found.failed == 1
    assert memory.of(engine.environment) == {}


def test_another_class_of_machines_has_another_memory() -> None:
    memory = Memory("these cases")
    run(Engine(records=RECORDS), CASES, memory)
    other = Environment("kvm", "AN", "no engine")
    assert memory.of(other) == {} and memory.of(Engine().environment)


KNOWN = {
    "a": Remembered(b"xyz", Status.PASS, outcome="trap 3, at G_CODE"),
    "b": Remembered(b"", Status.XFAIL, "DV-01", "a reason", "trap", (Difference("eip", "1", "2"),)),
    "c": Remembered(b"\n\0", Status.NOT_DEMONSTRABLE, "DV-05"),
}


def test_packed_and_unpacked() -> None:
    assert unpacked(packed(KNOWN)) == KNOWN
    assert unpacked(packed({})) == unpacked(b"") == {}


@pytest.mark.parametrize(
    "content",
    [
        b"not compressed",
        zlib.compress(b"no json"),
        zlib.compress(b"[[1]]\n"),
        zlib.compress(b"3\n"),
        zlib.compress(zlib.decompress(packed(KNOWN))[:-1]),
        packed({"a": Remembered(b"x", Status.FAIL)}),
        zlib.compress(zlib.decompress(packed(KNOWN)).replace(b'"PASS"', b'"GOOD"')),
    ],
)
def test_what_is_not_of_that_form_is_nothing(content: bytes) -> None:
    assert unpacked(content) == {}
