"""Runners: each plays the same cases on another engine.  The only files of conformance that know kvmhost."""

from __future__ import annotations

from typing import Literal

from ..errors import SelectionError
from .base import Runner

NAMES = ("kvm", "tcg", "bochs", "model")


def make(name: str, *, backend: Literal["auto", "native", "lab"] = "auto") -> Runner:
    """A runner by its name, not entered yet.  backend is for kvm.

    Raises SelectionError for a name that no runner has.
    """
    if name == "tcg":
        from .tcg import TcgRunner

        return TcgRunner()
    if name == "bochs":
        from .bochs import BochsRunner

        return BochsRunner()
    if name == "kvm":
        from .kvm import KvmRunner

        return KvmRunner(backend)
    if name == "model":
        from .model import ModelRunner

        return ModelRunner()
    raise SelectionError(f"there is no runner {name}", next_step=f"choose from {', '.join(NAMES)}")
