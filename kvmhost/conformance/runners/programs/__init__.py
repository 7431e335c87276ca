"""Checks of KVM's own interface (catalogue, kind K): each does something and tells what came.

They run in the kvm runner's worker.  What must come stands in the rows; here is only what is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from kvmhost.kvm import CpuidEntry, Kvm

Program = Callable[[Kvm, tuple[CpuidEntry, ...], Mapping[str, Any]], dict[str, Any]]
# Where each is: the module of this package, loaded when it is asked for.
PLACES = {"int-004": "entry", "kvm-003": "entry", "kvm-004": "entry"}


def run(name: str, kvm: Kvm, cpuid: tuple[CpuidEntry, ...], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Do what a row's program says; its values by name.  KeyError for a name that no program has."""
    module = import_module(f"{__name__}.{PLACES[name]}")
    program: Program = getattr(module, name.replace("-", "_"))
    return program(kvm, cpuid, parameters)
