"""What helps a person whose Guest died: its last words translated, or what can be guessed without.

A kernel with too little memory dies before it can say a word; then what it needs is looked up in its image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmhost.host.outcome import OutcomeKind
from kvmhost.launcher.hints import LAST_WORDS, hint

if TYPE_CHECKING:
    from kvmhost.host.outcome import Outcome
    from kvmhost.launcher.images import OpenImage


class LastWords:
    """The end of what a Guest says. Listens to its console."""

    def __init__(self) -> None:
        self._words = bytearray()

    def __call__(self, words: bytes) -> None:
        self._words += words
        if len(self._words) > 2 * LAST_WORDS:
            del self._words[:-LAST_WORDS]

    def __bytes__(self) -> bytes:
        return bytes(self._words)


def advise(
    outcome: Outcome, last_words: bytes, image: OpenImage, memory: str, initrd: OpenImage | None
) -> str | None:
    """One sentence on a Guest that panicked, or was killed before it said anything; None if there is nothing.

    A panic that nothing is known about, in little memory, is taken for what it most often is.

    `memory` is as it was typed. Files are read again; what cannot be read is not judged.
    """
    crashed = outcome.kind is OutcomeKind.CRASHED
    known = hint(outcome.reason, last_words) if crashed else None
    silent = outcome.kind is OutcomeKind.KILLED and not last_words
    if known or not (crashed or silent):
        return known
    from kvmhost.launcher.errors import ImageError
    from kvmhost.launcher.images import parse
    from kvmhost.launcher.memory import parse_memory
    from kvmhost.launcher.remarks import tight_memory
    from kvmhost.launcher.verdict import guest_options

    try:
        ramdisk = None if initrd is None else initrd.read()
        kernel = parse(image.read(), image.name)
    except ImageError:
        return None
    if silent and kernel.release is not None and not kernel.lguest:
        options = " and ".join(f"CONFIG_{option}" for option in guest_options(kernel.release))
        return f"it was probably not built as a Guest: that takes {options}"
    remark = tight_memory(kernel, parse_memory(memory), ramdisk)
    return f"it may have died of too little memory. {remark}" if remark else None
