"""What goes over the wire comes out as it went in, and nothing else gets through."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kvmhost.bench.benchmark import Setting, Unit
from kvmhost.bench.errors import BenchError, SelectionError, WorkerBroke
from kvmhost.bench.results import Provenance, Series, Spoiler
from kvmhost.bench.wire import (
    End,
    Message,
    Plan,
    Refusal,
    Step,
    Trouble,
    Unmeasured,
    as_line,
    from_line,
)

ODD = 'line\nbreak "quoted" \x00 \x1b[31m \u2028 ü'
MESSAGES: tuple[Message, ...] = (
    Provenance("lab", ODD, "", "k", "0.1", 0, "now", True, {"a": "b"}, {ODD: ODD}),
    Spoiler("load", ODD, ""),
    Step("exit exits", "warm-up", 0.25),
    Series("exit/port", Unit.CYCLES, 3, (), (1.0, 1e300, -0.5), 0.1, {"exits": (1.0, 2.0)}, False, (1.0,)),
    Series("exit/port", Unit.BYTES, 1, (2.0,), ()),
    Unmeasured("boot/linux", ODD),
    Trouble("exit exits", ODD),
    Refusal("no", "because", "do", True),
    End(1.5, 2),
)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_is_one_line_and_comes_back(message: Message) -> None:
    line = as_line(message)
    assert len(line.splitlines()) == 1
    assert line.isascii()
    back = from_line(line + "\n")
    assert back == message
    assert type(back) is type(message)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_no_part_of_a_line_is_taken_for_a_message(message: Message) -> None:
    line = as_line(message)
    for length in range(len(line)):
        with pytest.raises(WorkerBroke):
            from_line(line[:length])


@pytest.mark.parametrize(
    "line",
    [
        "",
        "null",
        '"end"',
        "[]",
        "{}",
        '{"kind": 3}',
        '{"kind": []}',
        '{"kind": "end", "seconds": 1, "more": 2}',
        '{"kind": "series", "name": "x/y", "unit": "furlongs", "loops": 1, "warmups": [], "values": []}',
        '{"kind": "series", "name": "x/y", "unit": "ns", "loops": 1, "warmups": 1, "values": []}',
        "[" * 100_000,
    ],
)
def test_anything_else_is_told_to_be_nonsense(line: str) -> None:
    with pytest.raises(WorkerBroke, match="nobody understands") as caught:
        from_line(line)
    assert caught.value.cause == line[:200]


def test_a_plan_comes_back_with_its_paths() -> None:
    odd = Path(os.fsdecode(b"/tmp/not \xff\xfe text/a 'b' \"c\" $d\n"))
    setting = Setting(odd, Path("/k"), Path("/i"), "a=b  'c d'", cpu=3, icount=True, device=7)
    plan = Plan(("exit/port", "switch/empty"), "thorough", setting, strict=True)
    word = plan.as_word()
    word.encode("ascii")
    assert Plan.from_word(word) == plan
    assert Plan.from_word(word).setting.switcher == odd
    bare = Plan((), "quick")
    assert Plan.from_word(bare.as_word()) == bare


def test_a_plan_of_another_version_is_refused() -> None:
    told = json.loads(Plan((), "quick").as_word())
    told["version"] += 1
    with pytest.raises(WorkerBroke, match="another version"):
        Plan.from_word(json.dumps(told))


def test_a_refusal_has_the_words_of_any_error() -> None:
    assert Refusal.of(BenchError("a", cause="b", next_step="c")) == Refusal("a", "b", "c", False)
    assert Refusal.of(SelectionError("a")) == Refusal("a", "", "", True)
    assert Refusal.of(OSError(2, "gone")) == Refusal("[Errno 2] gone", "", "", False)
