"""Checks that a CPU in a stage cannot make: of KVM's own interface, and of what the product's Host does.

They run in the kvm runner's worker.  What must come stands in the rows; here is only what is done.  A row's
control says which defect the Host has meanwhile (defects.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from kvmhost.kvm import CpuidEntry, Kvm

Program = Callable[[Kvm, tuple[CpuidEntry, ...], Mapping[str, Any]], dict[str, Any]]
# Where each is: the module of this package, loaded when it is asked for.
PLACES = {
    "dbf-006": "shutdowns",
    "int-004": "entry",
    "int-006": "storm",
    "iop-005": "ports",
    "kvm-003": "entry",
    "kvm-004": "entry",
    "sec-024": "reach",
    "sec-025": "frames",
    "sec-026": "gates",
    "sec-027": "gates",
    "sec-028": "gates",
    "sw-rog-007": "gdt",
    "sw-rog-008": "gdt",
}


def run(name: str, kvm: Kvm, cpuid: tuple[CpuidEntry, ...], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Do what a row's program says; its values by name.  KeyError for a name that no program has.

    parameters may have "planted", the name of a defect that the Host has meanwhile.
    """
    module = import_module(f"{__name__}.{PLACES[name]}")
    program: Program = getattr(module, name.replace("-", "_"))
    if "planted" not in parameters:
        return program(kvm, cpuid, parameters)
    from .defects import planted

    with planted(parameters["planted"]):
        return program(kvm, cpuid, parameters)
