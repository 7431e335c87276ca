"""The terminal a person sits at, lent to a Guest and always given back.

A Guest with a console wants every key as it is typed: no line editing, no echo, no signal for Ctrl-C.  But
until its driver is up nobody in it listens, so the terminal is taken in two steps.  LISTENING: keys come one
by one and unseen, Ctrl-C still is a signal to kvmhost, and the output still gets its carriage returns, since
small Guests never send them.  RAW: every key is the Guest's, and what it prints is shown as it is.  One key
stays ours in both: after Ctrl-A comes a word for kvmhost.  The flags are those of termios(3).
"""

from __future__ import annotations

import os
import termios
import threading
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum
from types import TracebackType
from typing import Any, Final, Self

CTRL_A: Final = 0x01
CTRL_C: Final = 0x03
#: So many Ctrl-C, with no other key between them, within so many seconds end a Guest that has a raw terminal.
CTRL_C_COUNT: Final = 3
CTRL_C_SECONDS: Final = 1.0

HELP: Final = (
    "Ctrl-A x       end the Guest\n"
    "Ctrl-A Ctrl-A  send Ctrl-A to the Guest\n"
    "Ctrl-A h       this help\n"
    "Ctrl-C         is the Guest's; three within a second end it\n"
)


class Word(Enum):
    """What a person says to kvmhost, not to the Guest."""

    END = "end the Guest"
    HELP = "tell what can be said"


class Mode(Enum):
    """Whose the terminal is."""

    OURS = "as it was found"
    LISTENING = "keys one by one, Ctrl-C a signal"
    RAW = "everything as it is"


class Keys:
    """Tells a Guest's keys from words to kvmhost.

    >>> keys = Keys()
    >>> list(keys.feed(b"ls" + bytes([1, 1]) + b"l" + bytes([1]), now=0.0))
    [b'ls\\x01l']
    >>> list(keys.feed(b"xy", now=9.0))
    [<Word.END: 'end the Guest'>, b'y']
    >>> list(keys.feed(bytes([3, 3, 3]), now=10.0))
    [b'\\x03\\x03\\x03', <Word.END: 'end the Guest'>]
    """

    def __init__(self) -> None:
        self._after_ctrl_a = False
        self._ctrl_c: list[float] = []

    def feed(self, typed: bytes, now: float) -> Iterator[bytes | Word]:
        """What was typed at `now` (seconds of any clock), in order: pieces for the Guest, and words."""
        piece = bytearray()
        for key in typed:
            word = self._word(key, piece, now)
            if word is not None:
                if piece:
                    yield bytes(piece)
                    piece.clear()
                yield word
        if piece:
            yield bytes(piece)

    def _word(self, key: int, piece: bytearray, now: float) -> Word | None:
        """Take one key: the word it completes, if it does; what is for the Guest goes to `piece`."""
        if self._after_ctrl_a:
            self._after_ctrl_a = False
            if key in b"xX":
                return Word.END
            if key in b"hH?":
                return Word.HELP
            piece.append(CTRL_A)
            if key == CTRL_A:
                return None
        elif key == CTRL_A:
            self._after_ctrl_a = True
            return None
        piece.append(key)
        return self._count_ctrl_c(key, now)

    def _count_ctrl_c(self, key: int, now: float) -> Word | None:
        recent = [pressed for pressed in self._ctrl_c if now - pressed < CTRL_C_SECONDS]
        self._ctrl_c = [*recent, now] if key == CTRL_C else []
        if len(self._ctrl_c) < CTRL_C_COUNT:
            return None
        self._ctrl_c.clear()
        return Word.END


class Terminal:
    """The terminal at `fd`, a context manager: whatever happens inside, at the end it is as it was found.

    Only a terminal that this process may use is touched: one of a background job stays as it is until the
    job is brought to the foreground and resume() is called.  All methods may be called from any thread.
    Raises OSError if `fd` is no terminal.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.mode = Mode.OURS
        self._found = _attributes(fd)
        self._lock = threading.Lock()
        self._suspended = not self.is_foreground()

    def is_foreground(self) -> bool:
        """Whether this process may read it: a background job may not."""
        try:
            return os.tcgetpgrp(self.fd) == os.getpgrp()
        except OSError:
            return True  # a terminal, but not the one that controls us: nobody stops us there

    def size(self) -> tuple[int, int]:
        """Columns and rows; 80 and 24 where it does not know."""
        try:
            columns, rows = os.get_terminal_size(self.fd)
        except OSError:
            return 80, 24
        return columns or 80, rows or 24

    def become(self, mode: Mode) -> None:
        """Change whose it is."""
        with self._lock:
            self.mode = mode
            if not self._suspended:
                self._apply(mode)

    def suspend(self) -> None:
        """As it was found, until resume()."""
        with self._lock:
            if not self._suspended:
                self._suspended = True
                self._apply(Mode.OURS)

    def resume(self) -> None:
        """Back to its mode, if we are in the foreground."""
        with self._lock:
            if self._suspended and self.is_foreground():
                self._suspended = False
                self._found = _attributes(self.fd)
                self._apply(self.mode)

    @property
    def suspended(self) -> bool:
        """Whether keys are not ours to read."""
        return self._suspended

    def text(self, words: str) -> bytes:
        """Words of kvmhost's, with the carriage returns that the mode asks for."""
        raw = self.mode is Mode.RAW and not self._suspended
        return words.replace("\n", "\r\n").encode() if raw else words.encode()

    def _apply(self, mode: Mode) -> None:
        with suppress(termios.error):  # it was hung up: there is nothing left to give back
            termios.tcsetattr(self.fd, termios.TCSANOW, _changed(self._found, mode))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.become(Mode.OURS)


def _attributes(fd: int) -> list[Any]:
    try:
        return termios.tcgetattr(fd)
    except termios.error as error:
        raise OSError(*error.args) from error


def _changed(found: list[Any], mode: Mode) -> list[Any]:
    """The attributes of a mode, made from those that were found."""
    iflag, oflag, cflag, lflag, ispeed, ospeed, characters = found
    characters = list(characters)
    if mode is not Mode.OURS:
        iflag &= ~(termios.ICRNL | termios.INLCR | termios.IGNCR | termios.ISTRIP | termios.BRKINT)
        lflag &= ~(termios.ICANON | termios.ECHO | termios.ECHONL | termios.IEXTEN)
        characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    if mode is Mode.RAW:
        iflag &= ~(termios.IXON | termios.PARMRK | termios.INPCK)
        oflag &= ~termios.OPOST
        lflag &= ~termios.ISIG
        cflag = cflag & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    return [iflag, oflag, cflag, lflag, ispeed, ospeed, characters]
