"""Guests that share a machine are heard in whole lines."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kvmhost.cli import boot, voices


def guests(count: int) -> dict:
    return {Talker(): boot.Life(f"guest-{number}", "guest") for number in range(count)}


@pytest.fixture
def seat() -> Iterator[Any]:
    """As much of a Seat as listen() knows."""
    outlet = voices.Outlet(1)
    yield cast(Any, SimpleNamespace(outlet=outlet))
    outlet.close()


class Talker:
    """A Guest as far as listen() knows one."""

    def __init__(self) -> None:
        self.console: list = []

    def say(self, words: bytes) -> None:
        for listener in self.console:
            listener(words)


def test_two_guests_do_not_talk_into_each_other(seat: Any, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    one, two = lives = guests(2)
    held_back = boot.listen(lives, as_json=False, seat=seat)
    for left, right in zip((b"Hel", b"lo.\nGood", b" night"), (b"Gue", b"st two\n", b"ends."), strict=True):
        one.say(left)
        two.say(right)
    for voice in held_back:
        voice.finish()
    assert capfdbinary.readouterr().out == b"Hello.\nGuest two\nGood nightends."


def test_one_guest_is_heard_at_once(seat: Any, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    (one,) = lives = guests(1)
    assert boot.listen(lives, as_json=False, seat=seat) == []
    one.say(b"no end of")
    assert capfdbinary.readouterr().out == b"no end of"


def test_a_line_without_end_is_heard_all_the_same() -> None:
    said: list[bytes] = []
    voice = voices.Lines(said.append)
    for _ in range(3):
        voice(b"x" * (voices.LONGEST_LINE // 2))
    assert said == [b"x" * voices.LONGEST_LINE]


def test_what_is_kept_for_json_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Guest may talk for ever, and nobody's memory is that large."""
    monkeypatch.setattr(voices, "MOST_KEPT", 8)
    kept, more = voices.Kept(), voices.Kept()
    for words in (b"Hello ", b"from ", b"ring 1"):
        kept(words)
    assert (kept.text, kept.lost) == ("Hello fr", 9)
    more(b"\xff!")
    assert (more.text, more.lost) == ("\ufffd!", 0)
    kept.go_on(more)
    assert (kept.text, kept.lost) == ("Hello fr", 11)
