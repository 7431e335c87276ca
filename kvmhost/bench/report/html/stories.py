"""Which benchmarks tell a story together: names, in the one place where this page knows any.

A world switch is what its parts add up to, and a way out of the VM is what each layer adds to the one below.
A name that a result file does not have is left out of its story, and the story says so.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Parts of one world switch, in the order in which they happen.
PARTS = "switch/part-"
#: What they must add up to.
WHOLE = "switch/round-trip-hardened"
#: Whole round trips of other Switchers, and what else crosses rings, for comparison.
BESIDE = (
    "switch/round-trip-seed",
    "switch/round-trip-foreign",
    "switch/ring0-ring3",
    "switch/sysenter",
    "switch/task-switch",
)
#: What the headline's figure is told against.
COMPARED = {
    "switch/round-trip-seed": "The Switcher of 2007",
    "switch/ring0-ring3": "A plain way to ring 3 and back",
    "switch/sysenter": "SYSENTER and SYSEXIT",
}


@dataclass(frozen=True, slots=True)
class Layer:
    """One way to wait for an exit.  on: the layer that it stands on, "" for the ground."""

    name: str
    title: str
    on: str = ""


#: Each stands on one before it.
LAYERS = (
    Layer("exit/c-loop", "bare C loop"),
    Layer("exit/shim-loop", "shim, called from C", "exit/c-loop"),
    Layer("exit/cffi-shim", "shim, called from Python", "exit/shim-loop"),
    Layer("exit/python-handler", "with a Python handler", "exit/cffi-shim"),
    Layer("exit/python-hook", "and a hook of the user's", "exit/python-handler"),
    Layer("exit/cffi", "KVM_RUN by cffi", "exit/c-loop"),
    Layer("exit/ctypes", "KVM_RUN by ctypes", "exit/c-loop"),
    Layer("exit/fcntl", "KVM_RUN by fcntl", "exit/c-loop"),
)
