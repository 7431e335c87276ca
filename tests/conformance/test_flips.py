"""Flipped bits of the product's Switchers: how they are drawn and played, and what is said of survivors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from conformance import flips
from conformance.engines import FakeEngine
from conformance.flips import Fate, Flip, Game

from kvmhost.conformance.case import Case
from kvmhost.conformance.errors import RunnerAbsent
from kvmhost.conformance.row import find
from kvmhost.conformance.runners import make
from kvmhost.conformance.runners.base import Runner
from kvmhost.conformance.stage import SW

BODY = Flip("hardened", "text", 0x00F, 4)
# These lived until rows looked at every register of a frame: stubs whose way home leaves out a push, or makes
# two more, and still brings the right number.
SHIFTED = (Flip("hardened", "text", 0x2A9, 2), Flip("hardened", "text", 0x93B, 6))


def runner(name: str) -> Runner:
    return FakeEngine(name)  # type: ignore[return-value]


@pytest.mark.parametrize("switcher", flips.SWITCHERS)
def test_a_draw_is_the_same_every_time_and_no_flip_comes_twice(switcher: str) -> None:
    drawn = flips.chosen(switcher, 100, 1)
    assert drawn == flips.chosen(switcher, 100, 1) != flips.chosen(switcher, 100, 2)
    assert len(set(drawn)) == 100
    assert {flip.part for flip in drawn} == {"text", "table"}


def test_all_bits_can_be_drawn_and_those_of_the_body_alone() -> None:
    image = flips.images()["seed"]
    assert len(flips.chosen("seed", 1 << 30, 1)) == 8 * (len(image.text) + 1024)
    assert {flip.offset for flip in flips.chosen("seed", 1 << 30, 1, body=True)} == {*range(image.entries[0])}


def test_a_flip_changes_one_bit_of_the_text() -> None:
    sound, changed = flips.images()["hardened"], flips.flipped(BODY)
    differing = [at for at, (a, b) in enumerate(zip(sound.text, changed.text, strict=True)) if a != b]
    assert differing == [0x00F]
    assert sound.text[0x00F] ^ changed.text[0x00F] == 1 << 4
    assert changed.entries == sound.entries


@pytest.mark.parametrize(("byte", "bit"), [(0, 3), (2, 6), (3, 7)])
def test_a_flip_of_the_table_is_one_of_an_address_in_32_bits(byte: int, bit: int) -> None:
    sound, changed = flips.images()["seed"], flips.flipped(Flip("seed", "table", 4 * 0x80 + byte, bit))
    addresses = [SW + entry for entry in changed.entries]
    assert addresses[0x80] == SW + (sound.entries[0x80] ^ 1 << 8 * byte + bit) & 0xFFFFFFFF
    assert changed.entries[:0x80] + changed.entries[0x81:] == sound.entries[:0x80] + sound.entries[0x81:]


@pytest.mark.parametrize("switcher", flips.SWITCHERS)
def test_filler_is_what_no_instruction_of_a_stub_has(switcher: str) -> None:
    image = flips.images()[switcher]
    for start, end in pairwise((*image.entries, len(image.text))):
        stub = image.text[start:end]
        # PUSH imm8 and imm32, JMP rel8 and rel32: the sizes of what a stub is made of.
        sizes, at = {0x6A: 2, 0x68: 5, 0xEB: 2, 0xE9: 5}, 0
        while at < len(stub) and stub[at] in sizes:
            at += sizes[stub[at]]
        filler = [flips.is_filler(Flip(switcher, "text", start + place, 0)) for place in range(len(stub))]
        assert filler == [place >= at for place in range(len(stub))]


# How flips are played: `fails` tells of a row whether it fails on a flipped Switcher, or on the sound one.


@dataclass
class Play:
    """In place of matrix.seen: notes which flips were played, and on which runner."""

    fails: Callable[[str, bool], bool]
    played: list[tuple[str, str]] = field(default_factory=list)

    def __call__(
        self, runner: FakeEngine, planted: Mapping[str, Sequence[Case]]
    ) -> dict[str, dict[str, tuple[str, ...]]]:
        self.played += [(runner.name, name) for name in planted]
        return {
            name: {
                case.layer: tuple({each.row for each in cases if self.fails(each.row, bool(name))})
                for case in cases
            }
            for name, cases in planted.items()
        }


FEW = ("SW-RET-001", "SW-TSS-004", "SW-STB-003", "SW-STB-001", "SW-STB-006")


def play(monkeypatch: pytest.MonkeyPatch, fails: Callable[[str, bool], bool]) -> Play:
    """With few rows, for all of them take seconds to lay out."""
    made = Play(fails)
    monkeypatch.setattr(flips.matrix, "seen", made)
    monkeypatch.setattr(flips, "rows", lambda layer: tuple(map(find, FEW)))
    return made


def test_what_a_row_sees_is_played_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    made, game = play(monkeypatch, lambda row, flipped: flipped), Game([BODY])
    game.play(runner("tcg"))
    game.play(runner("bochs"))
    assert game.fates == {BODY: Fate(FEW[0], "tcg")}
    assert made.played == [("tcg", str(BODY)), ("tcg", "")]


def test_a_row_that_fails_on_the_sound_one_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = FEW[:2]
    play(monkeypatch, lambda row, flipped: row == first or (row == second and flipped))
    game = Game([BODY])
    game.play(runner("tcg"))
    assert game.fates == {BODY: Fate(second, "tcg")}
    assert [key for key, fails in game.unsound.items() if fails] == [("tcg", BODY.layer, first)]


def test_what_one_runner_does_not_see_goes_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    game = Game([BODY])
    play(monkeypatch, lambda row, flipped: False)
    game.play(runner("tcg"))
    assert game.alive() == [BODY]
    play(monkeypatch, lambda row, flipped: flipped and row == "SW-TSS-004")
    game.play(runner("kvm"))
    assert game.fates == {BODY: Fate("SW-TSS-004", "kvm")}


def test_every_row_of_a_switcher_looks_for_flips_of_its_body() -> None:
    played = [row.id for wave in flips.waves(Flip("seed", "text", 0, 0)) for row in wave]
    assert len(played) == len(set(played)) > 80
    assert {"SW-RET-001", "SW-STB-006", "PRP-004", "NMI-001"} <= set(played)
    assert played.index("SW-RET-001") < played.index("SW-POP-001") < played.index("SW-STB-006")


def test_a_stub_is_looked_at_by_its_own_vector_first(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, lambda row, flipped: False)
    flip = Flip("seed", "table", 4 * 0x0D, 0)
    own, *others = flips.waves(flip)
    names = {case.name for row in own if row.family for case in flips.cases(row, flip.layer)}
    assert names == set()  # INT 13 pushes no error code
    assert "SW-STB-003" in [row.id for row in own]
    assert "SW-RET-001" in [row.id for wave in others for row in wave]
    own, *others = flips.waves(Flip("seed", "table", 4 * 0x90, 0))
    names = {case.name for row in own if row.family for case in flips.cases(row, flip.layer)}
    assert names == {"vector 0x90 from ring 1", "vector 0x90 from ring 3"}
    assert others == []


# The command


def test_a_survivor_that_nobody_has_explained_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play(monkeypatch, lambda row, flipped: False)
    monkeypatch.setattr(flips, "maker", runner)
    monkeypatch.setattr(flips, "chosen", lambda *words: [BODY])
    assert flips.main(["--switcher", "hardened"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == (
        "hardened:text:0x00f:4: lea esp, [eax + 0xfb8] -> lea esp, [eax + 0xfa8]: SURVIVES: unexplained"
    )
    assert "1 flips with seed 1: 0 seen (), 1 survive, 1 of them unexplained" in said[1]
    monkeypatch.setattr(flips, "chosen", lambda *words: [Flip("hardened", "text", 0x14E, 0)])
    assert flips.main(["--switcher", "hardened"]) == 0
    assert "between the jump of stub 0x00 and the next stub" in capsys.readouterr().out


def test_a_runner_that_is_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> Runner:
        raise RunnerAbsent(f"runner {name}: no engine", next_step="install it")

    monkeypatch.setattr(flips, "maker", absent)
    assert flips.main(["--count", "1"]) == 3
    assert capsys.readouterr().err == "ci/flips: runner tcg: no engine\nnext step: install it\n"


@pytest.mark.parametrize("words", [["--runner", "abacus"], ["--count", "0"], ["--switcher", "host"]])
def test_words_that_make_no_sense_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        flips.main(words)
    assert caught.value.code == 2


def test_stubs_that_bring_home_a_shifted_frame_are_seen() -> None:
    game = Game(SHIFTED)
    with make("tcg") as entered:
        game.play(entered)
    assert game.fates == {flip: Fate("SW-STB-006", "tcg") for flip in SHIFTED}


# What is said of survivors


def test_what_a_shorter_instruction_leaves_behind_is_told() -> None:
    flip = Flip("hardened", "text", 0x071, 6)
    assert flips.was(flip) == "mov ebx, dword ptr [eax + 0xfe4]"
    assert flips.becomes(flip) == "mov ebx, eax; in al, 0xf; add byte ptr [eax], al"


def test_what_was_explained_is_still_there() -> None:
    assert flips.explanations()
    for flip, said in flips.explanations().items():
        assert (said["was"], said["becomes"]) == (flips.was(flip), flips.becomes(flip)), flip
        assert len(said["reason"].split()) > 3, flip
