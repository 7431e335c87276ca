"""Guests that share a machine are heard in whole lines."""

from types import SimpleNamespace

import pytest

from kvmhost.cli import boot, voices


def guests(count: int) -> dict:
    return {Talker(): SimpleNamespace(words=bytearray()) for _ in range(count)}


class Talker:
    """A Guest as far as listen() knows one."""

    def __init__(self) -> None:
        self.console: list = []

    def say(self, words: bytes) -> None:
        for listener in self.console:
            listener(words)


def test_two_guests_do_not_talk_into_each_other(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    one, two = lives = guests(2)
    held_back = boot.listen(lives, as_json=False)
    for left, right in zip((b"Hel", b"lo.\nGood", b" night"), (b"Gue", b"st two\n", b"ends."), strict=True):
        one.say(left)
        two.say(right)
    for voice in held_back:
        voice.finish()
    assert capfdbinary.readouterr().out == b"Hello.\nGuest two\nGood nightends."


def test_one_guest_is_heard_at_once(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    (one,) = lives = guests(1)
    assert boot.listen(lives, as_json=False) == []
    one.say(b"no end of")
    assert capfdbinary.readouterr().out == b"no end of"


def test_a_line_without_end_is_heard_all_the_same() -> None:
    said: list[bytes] = []
    voice = voices.Lines(said.append)
    for _ in range(3):
        voice(b"x" * (voices.LONGEST_LINE // 2))
    assert said == [b"x" * voices.LONGEST_LINE]
