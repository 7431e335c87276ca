"""Requests made at random are answered as a second, simpler disk answers them."""

import random
from pathlib import Path

import pytest
from launcher.devices.driver import Buffer
from launcher.devices.test_block import CONTENT, DATA, HEADER, SECTORS, UNTOUCHED, Bench, bench, image

__all__ = ["bench", "image"]  # fixtures


class Model:
    """What a disk ought to answer, worked out once more and the simple way."""

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)

    def answer(self, kind: int, sector: int, sent: bytes, room: int) -> tuple[int, bytes | None]:
        """The byte of the answer, and what fills the room in front of it (None: unknown or nothing)."""
        start = sector * 512
        kind &= 0x7FFFFFFF
        if kind in (0, 1):
            size = len(sent) if kind else room
            if size % 512 or start + size > len(self.content):
                return 1, None
            if kind:
                self.content[start : start + size] = sent
                return 0, None
            return 0, bytes(self.content[start : start + size])
        if kind == 8:
            return 0, b"a-disk-with-a-long-n"[:room]
        return (0 if kind in (4, 5) else 2), None


def cut(chance: random.Random, at: int, size: int, write: bool) -> list[Buffer]:
    """The same bytes as one part or several, some of them empty."""
    places = [*sorted(chance.randrange(size + 1) for _ in range(chance.choice((0, 0, 1, 3)))), size]
    starts = [0, *places[:-1]]
    return [Buffer(at + start, end - start, write) for start, end in zip(starts, places, strict=True)]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_asked_is_answered_as_the_model_does(bench: Bench, image: Path, seed: int) -> None:
    chance = random.Random(seed)
    model = Model(CONTENT)
    for number in range(100):
        kind = chance.choice((0, 0, 1, 1, 1, 4, 5, 8, 2, chance.getrandbits(31)))
        kind |= chance.choice((0, 0, 0, 1 << 31))
        sector = chance.choice((chance.randrange(SECTORS + 2), chance.getrandbits(64)))
        size = chance.choice((0, 512, 1024, 4096, 20, chance.randrange(5000)))
        room = chance.choice((0, size))
        sent = chance.randbytes(size - room)
        bench.header(kind, sector)
        bench.guest.write(HEADER + bench.header_bytes, sent)
        bench.guest.write(DATA, bytes([UNTOUCHED]) * (room + 1))
        expected, filled = model.answer(kind, sector, sent, room)
        head = bench.driver.add(
            [
                *cut(chance, HEADER, bench.header_bytes + len(sent), False),
                *cut(chance, DATA, room + 1, True),
            ]
        )
        bench.queue.kick()
        assert bench.driver.take()[0] == head, f"request {number}"
        status = bench.guest.read(DATA + room, 1)[0]
        assert status == expected, f"request {number}: kind {kind:#x} at {sector:#x}"
        untouched = bytes([UNTOUCHED]) * room
        wanted = untouched if filled is None else filled + untouched[len(filled) :]
        assert bench.guest.read(DATA, room) == wanted, f"request {number}: kind {kind:#x} at {sector:#x}"
    assert image.read_bytes() == model.content
