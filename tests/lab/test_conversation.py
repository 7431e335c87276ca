"""The talk with a lab whose part is played here, one move at a time: before each time that our
side waits for something, the other makes its next move."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from kvmhost.lab import LabError, LabTimeout, Streams, conversation
from kvmhost.lab.conversation import Conversation
from kvmhost.lab.job import Job
from kvmhost.lab.session import PORTS

JOB = Job("/bin/true", ["true"], {}, "/", [])
Move = Callable[[], object]


class Lab:
    """The other ends of everything that a conversation has ends of, and files for its streams."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pairs = {name: socket.socketpair() for name in [*PORTS, "log"]}
        self.ours = {name: pair[0] for name, pair in pairs.items()}
        self.theirs = {name: pair[1] for name, pair in pairs.items()}
        for end in self.ours.values():
            end.setblocking(False)
        self.errors, self.errors_end = os.pipe()
        self.folder = folder
        self.moves: Iterator[Move] = iter(())
        self.real_wait = conversation.wait
        monkeypatch.setattr(conversation, "wait", self.wait)

    def wait(self, wishes: Iterable[tuple[int, int]], seconds: float | None) -> dict[int, int]:
        next(self.moves, lambda: None)()
        return self.real_wait(wishes, seconds)

    def say(self, port: str, words: bytes) -> Move:
        return lambda: self.theirs[port].sendall(words)

    def die(self) -> None:
        """All ends are closed at once, as when QEMU is killed."""
        for end in self.theirs.values():
            end.close()
        if self.errors_end >= 0:
            os.close(self.errors_end)
        self.errors_end = -1

    def talk(self, *moves: Move, stdin: bytes = b"", timeout: float | None = 60) -> int:
        """Holds the conversation and returns the exit code."""
        self.moves = iter(moves)
        (self.folder / "stdin").write_bytes(stdin)
        with (
            (self.folder / "stdin").open("rb") as stdin_file,
            (self.folder / "stdout").open("wb") as stdout_file,
            (self.folder / "stderr").open("wb") as stderr_file,
        ):
            streams = Streams(stdin_file.fileno(), stdout_file.fileno(), stderr_file.fileno())
            ports = {name: self.ours[name] for name in PORTS}
            talk = Conversation(ports, self.ours["log"], self.errors, streams, job=JOB, timeout=timeout)
            return talk.hold()

    def heard(self, port: str) -> tuple[bytes, bool]:
        """What has come for the lab through a port, and whether that was all there will be."""
        self.theirs[port].setblocking(False)
        words = b""
        while True:
            try:
                more = self.theirs[port].recv(65536)
            except BlockingIOError:
                return words, False
            if not more:
                return words, True
            words += more

    def close(self) -> None:
        self.die()
        for end in self.ours.values():
            end.close()
        os.close(self.errors)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    lab = Lab(tmp_path, monkeypatch)
    yield lab
    lab.close()


def test_the_exit_code_waits_for_the_streams(lab: Lab, tmp_path: Path) -> None:
    code = lab.talk(
        lab.say("control", b"started\n"),
        lab.say("stdout", b"he"),
        lab.say("control", b"exit 7 5"),
        lab.say("control", b" 3 0\n"),
        lab.say("stderr", b"err"),
        lab.say("stdout", b"llo"),
    )
    assert code == 7
    assert (tmp_path / "stdout").read_bytes() == b"hello"
    assert (tmp_path / "stderr").read_bytes() == b"err"
    assert lab.heard("control") == (JOB.packed(), False)


def test_the_end_of_stdin_waits_for_the_start(lab: Lab) -> None:
    before: list[tuple[bytes, bool]] = []
    lab.talk(
        *[lab.say("log", b"booting\n")] * 5,
        lambda: [before.append(lab.heard("stdin")), lab.say("control", b"started\n")()],
        lab.say("control", b"exit 0 0 0 0\n"),
        stdin=b"words",
    )
    assert before == [(b"words", False)]
    assert lab.heard("stdin") == (b"", True)


def test_a_lab_that_dies_before_it_has_started(lab: Lab) -> None:
    with pytest.raises(LabError, match="the lab died") as caught:
        lab.talk(
            lab.say("log", b"Kernel panic\r\n"),
            lambda: os.write(lab.errors_end, b"qemu: no more\n"),
            lab.die,
        )
    assert caught.value.log == "Kernel panic\nqemu: no more\n"


def test_a_lab_that_dies_with_words_left_to_say(lab: Lab) -> None:
    with pytest.raises(LabError, match="the lab died"):
        lab.talk(
            lab.say("control", b"started\n"),
            lab.say("control", b"exit 0 5 0 0\n"),
            lab.say("stdout", b"four"),
            lab.die,
        )


def test_a_lab_that_does_not_start(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "START_SECONDS", 0.0)
    with pytest.raises(LabError, match="did not start within 0 seconds") as caught:
        lab.talk(lab.say("log", b"still booting"))
    assert not isinstance(caught.value, LabTimeout)
    assert caught.value.log == "still booting"


def test_a_timeout_after_the_start(lab: Lab) -> None:
    with pytest.raises(LabTimeout, match=r"within 0\.01 seconds"):
        lab.talk(lab.say("control", b"started\n"), timeout=0.01)


def test_a_line_that_means_nothing_is_passed_over(lab: Lab) -> None:
    assert lab.talk(lab.say("control", b"\nmore\nstarted\nexit 3 0 0 0\n")) == 3
