"""Single bits of the product's Switchers are flipped, and the rows must see it, but for what is explained.

    python tests/conformance/flips.py [--seed N] [--count N] [--switcher NAME] [--runner tcg,bochs,kvm]

The defects of mutations.toml were thought of by somebody; these are thought of by nobody.  A flip hits the
text of a Switcher or the table of its stubs' addresses.  It is played against the rows of layer L3, those
that see most first, and no further once a row has failed.  What one runner does not see goes to the next.

A flip that none sees is a survivor.  Either no CPU can tell it from the original (a byte that never runs,
another encoding of the same), which survivors.toml says in a sentence, or a row is missing.  A survivor that
nobody has explained makes this command end with 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path

from kvmhost.conformance import listing, matrix
from kvmhost.conformance.case import Case
from kvmhost.conformance.errors import ConformanceError
from kvmhost.conformance.expand import expand
from kvmhost.conformance.families import stubs
from kvmhost.conformance.proof import matrix as shipped
from kvmhost.conformance.row import Row, catalogue
from kvmhost.conformance.runners import make
from kvmhost.conformance.runners.base import Runner
from kvmhost.conformance.runners.process import Patience
from kvmhost.conformance.runners.tcg import TcgRunner
from kvmhost.conformance.stage import SW
from kvmhost.conformance.switcher_image import SwitcherImage
from kvmhost.conformance.switchers import under_test

SURVIVORS = Path(__file__).with_name("survivors.toml")
SWITCHERS = ("seed", "hardened")
RUNNERS = ("tcg", "bochs", "kvm")
ENTRY_BYTES = 4
FILLER = 0xCC
# So many rows are played first, then more: most flips do not live that long.  After the written cases come so
# many families, and then all that is left.
WAVES, FAMILIES = (1, 5, 20), 3
# Flips that have come so far are played so many at a time, for each has all rows of the catalogue.
TOGETHER = 8
# So many bytes from an instruction that is hit: then two readings of the same bytes have met again.
ANEW = 64
# CPU time of tcg, where a case takes a millisecond.
HUNG_SECONDS = 1.0


@dataclass(frozen=True, slots=True, order=True)
class Flip:
    """One bit (0 to 7) of the byte at an offset of a Switcher's "text", or of its "table" of addresses."""

    switcher: str
    part: str
    offset: int
    bit: int

    @property
    def layer(self) -> str:
        return f"L3-{self.switcher}"

    def __str__(self) -> str:
        return f"{self.switcher}:{self.part}:{self.offset:#05x}:{self.bit}"

    @staticmethod
    def of(words: str) -> Flip:
        """What such words name; ValueError if there is no such bit."""
        switcher, part, offset, bit = words.split(":")
        flip = Flip(switcher, part, int(offset, 0), int(bit))
        if switcher not in SWITCHERS or not 0 <= flip.offset < sizes(switcher).get(part, 0):
            raise ValueError(f"{words} is in no Switcher")
        if not 0 <= flip.bit < 8:
            raise ValueError(f"{words}: a byte has no such bit")
        return flip


@dataclass(frozen=True, slots=True)
class Fate:
    """What came of a flip: the row that saw it and the runner it failed on; or both empty."""

    row: str = ""
    runner: str = ""


def chosen(switcher: str, count: int, seed: int, body: bool = False) -> list[Flip]:
    """Different flips of one Switcher, drawn evenly from all of its bits; all bits if count is that large.

    body: only from the text in front of the stubs.
    """
    parts = {"text": min(images()[switcher].entries)} if body else sizes(switcher)
    places = [(part, at, bit) for part, size in parts.items() for at in range(size) for bit in range(8)]
    drawn = random.Random(f"{seed}/{switcher}").sample(places, min(count, len(places)))
    return sorted(Flip(switcher, *place) for place in drawn)


def sizes(switcher: str) -> dict[str, int]:
    """How many bytes each part of a Switcher has."""
    image = images()[switcher]
    return {"text": len(image.text), "table": len(image.entries) * ENTRY_BYTES}


@cache
def images() -> Mapping[str, SwitcherImage]:
    """The product's Switchers as they are."""
    every = under_test()
    return {name: every[f"L3-{name}"] for name in SWITCHERS}


def flipped(flip: Flip) -> SwitcherImage:
    """The Switcher with its bit flipped.

    An address of the table is added to the Switcher's in 32 bits, as the loader does it.
    """
    image = images()[flip.switcher]
    if flip.part == "text":
        text = bytearray(image.text)
        text[flip.offset] ^= 1 << flip.bit
        return replace(image, text=bytes(text))
    vector, byte = divmod(flip.offset, ENTRY_BYTES)
    entries = list(image.entries)
    entries[vector] ^= 1 << byte * 8 + flip.bit
    entries[vector] = (SW + entries[vector] & 0xFFFFFFFF) - SW
    return replace(image, entries=tuple(entries))


def vector_of(flip: Flip) -> int | None:
    """The vector whose stub or table entry is hit; None in the body of the text."""
    if flip.part == "table":
        return flip.offset // ENTRY_BYTES
    below = [vector for vector, at in enumerate(images()[flip.switcher].entries) if at <= flip.offset]
    return max(below) if below else None


# The rows of a flip


@cache
def rows(layer: str) -> tuple[Row, ...]:
    """Those that look at this layer: by the number of defects that they have seen, and families last."""
    there = shipped()
    assert there is not None
    power = Counter(
        row for each in there.mutants if each.target.startswith("product") for row in each.killed_by
    )
    found = [row for row in catalogue() if row.written and not row.program and layer in layers(row)]
    return tuple(sorted(found, key=lambda row: (bool(row.family), -power[row.id], row.id)))


def layers(row: Row) -> set[str]:
    """All that a row or one of its cases names."""
    return {*row.layers, *(layer for spec in row.cases for layer in spec.layers)}


def cases(row: Row, layer: str, image: SwitcherImage | None = None) -> list[Case]:
    """A row's cases on a layer; image is what is there instead of the product's own."""
    image = image or images()[layer.removeprefix("L3-")]
    return [case for case in expand(row, {layer: image}) if case.layer == layer]


def own(flip: Flip) -> list[Row]:
    """The rows about stubs, cut down to the vector of a flip; nothing for the body of the text."""
    vector = vector_of(flip)
    if vector is None:
        return []
    about = [row for row in rows(flip.layer) if row.id.startswith("SW-STB")]
    return [
        replace(row, parameters={**row.parameters, "vectors": [vector]}) if row.family else row
        for row in about
    ]


def waves(flip: Flip) -> Iterator[list[Row]]:
    """The rows in the order in which they are played.

    A stub that no exception and no hypercall comes to is entered by nothing but its own vector.
    """
    vector = vector_of(flip)
    if vector is not None:
        yield own(flip)
    if vector is None or vector in stubs.HOME or vector == stubs.NMI:
        every = [row for row in rows(flip.layer) if vector is None or not row.id.startswith("SW-STB")]
        written = sum(not row.family for row in every)
        steps = (0, *WAVES, written, written + FAMILIES, len(every))
        for first, last in pairwise(steps):
            yield every[first:last]


# The play


class Game:
    """All flips, and what has become of them; heard is told of each that is seen."""

    def __init__(
        self, flips: Iterable[Flip], heard: Callable[[Flip, Fate], None] = lambda flip, fate: None
    ) -> None:
        self.heard = heard
        self.fates: dict[Flip, Fate] = {flip: Fate() for flip in flips}
        self.played = 0
        # By runner, layer and row: whether it fails on the Switcher as it is.  What it says of a flip is then
        # worth nothing.
        self.unsound: dict[tuple[str, str, str], bool] = {}

    def alive(self) -> list[Flip]:
        return [flip for flip, fate in self.fates.items() if not fate.row]

    def play(self, runner: Runner) -> None:
        """Play whatever is alive on one more runner."""
        left = {flip: list(waves(flip)) for flip in self.alive()}
        for number in range(max(map(len, left.values()), default=0)):
            able = [flip for flip in self.alive() if number < len(left[flip])]
            for first in range(0, len(able), TOGETHER):
                self._wave({flip: left[flip][number] for flip in able[first : first + TOGETHER]}, runner)

    def _wave(self, rows_of: Mapping[Flip, Sequence[Row]], runner: Runner) -> None:
        planted = {
            str(flip): [case for row in those for case in cases(row, flip.layer, flipped(flip))]
            for flip, those in rows_of.items()
        }
        self.played += sum(map(len, planted.values()))
        found = matrix.seen(runner, planted)
        for flip, those in rows_of.items():
            failed = found[str(flip)].get(flip.layer, ())
            sound = (row.id for row in those if row.id in failed and self._sound(row, flip.layer, runner))
            if row := next(sound, ""):
                self.fates[flip] = Fate(row, runner.name)
                self.heard(flip, self.fates[flip])

    def _sound(self, row: Row, layer: str, runner: Runner) -> bool:
        key = runner.name, layer, row.id
        if key not in self.unsound:
            every = [each for each in rows(layer) if each.id == row.id]
            planted = {"": [case for each in every for case in cases(each, layer)]}
            self.unsound[key] = bool(matrix.seen(runner, planted)[""].get(layer))
        return not self.unsound[key]


# The survivors


def explanations() -> dict[Flip, Mapping[str, str]]:
    """What survivors.toml says: by flip the instruction (was, becomes) and the reason."""
    said = tomllib.loads(SURVIVORS.read_text(encoding="utf-8"))["survivor"]
    return {Flip(each["switcher"], each["part"], each["offset"], each["bit"]): each for each in said}


def reason(flip: Flip) -> str:
    """Why no CPU can see this flip, or ""."""
    vector = vector_of(flip)
    if flip.part == "text" and vector is not None and is_filler(flip):
        return f"never runs: it fills the room between the jump of stub {vector:#04x} and the next stub"
    return explanations().get(flip, {}).get("reason", "")


def is_filler(flip: Flip) -> bool:
    """Whether a byte of the text lies behind a stub's jump, where no stub begins."""
    image = images()[flip.switcher]
    start = max(at for at in image.entries if at <= flip.offset)
    engine = listing.engine()
    for at, size, name, _ in engine.disasm_lite(image.text[start : start + 2 * listing.LONGEST], start):
        if name == "jmp":
            return flip.offset >= at + size and image.text[flip.offset] == FILLER
    return False


@cache
def instructions(switcher: str) -> tuple[int, ...]:
    """The offsets of the instructions of the text."""
    return tuple(at for at, _, _, _ in listing.engine().disasm_lite(images()[switcher].text, 0))


def was(flip: Flip) -> str:
    """What stands there."""
    return _told(flip, images()[flip.switcher])


def becomes(flip: Flip) -> str:
    """What the flip makes of it."""
    return _told(flip, flipped(flip))


def _told(flip: Flip, image: SwitcherImage) -> str:
    """An address; or the instruction that is hit, with those behind it that a changed length makes anew."""
    if flip.part == "table":
        return f"{SW + image.entries[flip.offset // ENTRY_BYTES]:#x}"
    known = instructions(flip.switcher)
    start = max(at for at in known if at <= flip.offset)
    told = []
    for at, _, name, operands in listing.engine().disasm_lite(image.text[start : start + ANEW], SW + start):
        if at - SW > flip.offset and at - SW in known:
            return "; ".join(told)
        told.append(f"{name} {operands}".strip())
    return "; ".join([*told, "(bad)"])


# The command


def told(flip: Flip, fate: Fate) -> str:
    """One line on a flip."""
    change = f"{was(flip)} -> {becomes(flip)}"
    end = f"seen by {fate.row} on {fate.runner}" if fate.row else f"SURVIVES: {reason(flip) or 'unexplained'}"
    return f"{flip}: {change}: {end}"


def summary(game: Game, words: argparse.Namespace, seconds: float) -> str:
    """Everything in numbers."""
    seen = Counter(fate.runner for fate in game.fates.values() if fate.row)
    alive = game.alive()
    unexplained = sum(not reason(flip) for flip in alive)
    drawn = "" if words.flip else f" with seed {words.seed}"
    return (
        f"{len(game.fates)} flips{drawn}: {seen.total()} seen"
        f" ({', '.join(f'{number} on {name}' for name, number in seen.items())}), {len(alive)} survive,"
        f" {unexplained} of them unexplained; {game.played:,} cases in {seconds:.0f} s"
    )


def arguments(line: Sequence[str] | None) -> argparse.Namespace:
    """The words of a command line, or of ours."""
    parser = argparse.ArgumentParser(prog="ci/flips", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="which flips are drawn (default: 1)")
    parser.add_argument("--count", type=int, default=100, help="flips of each Switcher (default: 100)")
    parser.add_argument("--switcher", choices=SWITCHERS, action="append", help="only this one")
    parser.add_argument("--runner", default=",".join(RUNNERS), help="one after the other (default: all)")
    parser.add_argument("--body", action="store_true", help="only the text in front of the stubs")
    parser.add_argument(
        "--flip",
        type=Flip.of,
        action="append",
        metavar="SWITCHER:PART:OFFSET:BIT",
        help="this, and no other",
    )
    parsed = parser.parse_args(line)
    wrong = [name for name in parsed.runner.split(",") if name not in RUNNERS]
    if wrong or parsed.count < 1:
        parser.error(
            f"--runner {wrong[0]!r}: one of {', '.join(RUNNERS)}" if wrong else "--count: at least 1"
        )
    return parsed


def maker(name: str) -> Runner:
    """A runner that waits less long: of so many flips quite a few hang."""
    return TcgRunner(patience=Patience(cpu=HUNG_SECONDS)) if name == "tcg" else make(name)


def main(line: Sequence[str] | None = None) -> int:
    words = arguments(line)
    begun = time.monotonic()
    drawn = (chosen(name, words.count, words.seed, words.body) for name in words.switcher or SWITCHERS)
    game = Game(
        words.flip or (flip for flips in drawn for flip in flips),
        heard=lambda flip, fate: print(told(flip, fate), flush=True),
    )
    try:
        for name in words.runner.split(","):
            with maker(name) as runner:
                game.play(runner)
    except ConformanceError as error:
        print(": ".join(filter(None, ("ci/flips", error.message, error.cause))), file=sys.stderr)
        print(f"next step: {error.next_step or 'please report this'}", file=sys.stderr)
        return 3
    for flip in game.alive():
        print(told(flip, Fate()))
    for runner, layer, row in (key for key, fails in game.unsound.items() if fails):
        print(f"{row} fails on {layer} as it is, on {runner}: it was not asked")
    print(summary(game, words, time.monotonic() - begun))
    return int(any(not reason(flip) for flip in game.alive()))


if __name__ == "__main__":
    sys.exit(main())
