"""The model as a runner: a second opinion on the expectations themselves, wherever Python runs.

It has no opinion on what it has no rule for: such a case is skipped, and says what was met.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from platform import python_version
from types import TracebackType
from typing import Self

from ..case import Case, Observation
from ..model.faults import Unknown
from ..model.play import play
from ..results import Environment
from . import base

#: What rows may require of it.
FEATURES = frozenset(
    {"paging32", "pae", "pse", "nx", "pge", "umip", "smep", "smap", "hw-limits", "pae-reserved"}
)


class ModelRunner:
    """Plays cases on kvmhost.conformance.model."""

    name = "model"

    def __init__(self) -> None:
        self.engine_seconds = 0.0
        self.starts = 0
        self._seen: dict[str, Observation] = {}

    @property
    def environment(self) -> Environment:
        """Nothing is masked for it: what it does was written from the manuals too."""
        return Environment("model", "", f"the model, in Python {python_version()}")

    def __enter__(self) -> Self:
        self.starts = 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._seen.clear()

    def unmet(self, case: Case) -> str:
        """What the model does not know is only found by playing, so it plays here."""
        missing = base.unmet(case, FEATURES)
        if missing:
            return missing
        began = time.monotonic()
        try:
            self._seen[case.id] = play(case)
        except Unknown as unknown:
            return f"the model does not know {unknown}"
        finally:
            self.engine_seconds += time.monotonic() - began
        return ""

    def run(self, cases: Sequence[Case], heard: base.Heard) -> None:
        """Tell what was seen; a case that nobody asked about is played now."""
        for case in cases:
            heard(case, self._seen[case.id] if case.id in self._seen else play(case))
