"""What Guests say, on standard output: at once where there is one, in whole lines where there are several.

A Guest hands over its words in small pieces (16 characters in lguest's early console), and two that share a
machine would talk into each other's sentences.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

# A Guest that never ends its line is heard all the same.
LONGEST_LINE = 4096


def speak(words: bytes) -> None:
    """The Guest's own words, as they are and at once."""
    sys.stdout.buffer.write(words)
    sys.stdout.buffer.flush()


class Lines:
    """One of several Guests: it is heard when a line is complete, or too long to wait for.

    >>> said = []
    >>> voice = Lines(said.append)
    >>> voice(b"Hello fr")
    >>> voice(b"om ring 1.\\nI h")
    >>> voice.finish()
    >>> said
    [b'Hello from ring 1.\\n', b'I h']
    """

    def __init__(self, say: Callable[[bytes], object]) -> None:
        self._say = say
        self._held = b""

    def __call__(self, words: bytes) -> None:
        lines, newline, self._held = (self._held + words).rpartition(b"\n")
        if newline:
            self._say(lines + newline)
        if len(self._held) >= LONGEST_LINE:
            self.finish()

    def finish(self) -> None:
        """Say what is left."""
        if self._held:
            self._say(self._held)
            self._held = b""
