"""PROBE: what an engine is and can do, asked of the CPU itself before anything is judged.

A few cases at ring 0: CPUID, whose bits say which requirements can be met, and some of the catalogue's
section 4, whose answers tell classes of environments apart and go into every report.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from .. import row
from ..case import Case, Observation, Watch
from ..errors import MachineryBroke
from ..scene import Scene
from ..stage import ADDRESS, FREE_SELECTORS, Stage
from .base import Heard

# (leaf, register, bit): Intel SDM vol. 2, CPUID; AMD APM vol. 3, appendix E.
_BITS = {
    "pse": (1, "edx", 3),
    "pae": (1, "edx", 6),
    "mce": (1, "edx", 7),
    "sysenter": (1, "edx", 11),
    "pge": (1, "edx", 13),
    "fxsr": (1, "edx", 24),
    "sse": (1, "edx", 25),
    "monitor": (1, "ecx", 3),
    "vmx": (1, "ecx", 5),
    "xsave": (1, "ecx", 26),
    "rdrand": (1, "ecx", 30),
    "smep": (7, "ebx", 7),
    "invpcid": (7, "ebx", 10),
    "smap": (7, "ebx", 20),
    "umip": (7, "ecx", 2),
    "pku": (7, "ecx", 3),
    "rdpid": (7, "ecx", 22),
    "svm": (0x80000001, "ecx", 2),
    "syscall": (0x80000001, "edx", 11),
    "nx": (0x80000001, "edx", 20),
    "rdtscp": (0x80000001, "edx", 27),
    "rdpru": (0x80000008, "ebx", 4),
    "wbnoinvd": (0x80000008, "ebx", 9),
}
_LEAVES = (0, 1, 7, 0xA, 0x80000001, 0x80000008, 0x80000002, 0x80000003, 0x80000004)
_REGISTERS = ("eax", "ebx", "ecx", "edx")
_STOP = b"\xcd\x2f"


class Plays(Protocol):
    """As much of a runner as a probe needs."""

    def run(self, cases: Sequence[Case], heard: Heard) -> None: ...


@dataclass(frozen=True, slots=True)
class Probed:
    """features are the requirements met, cpu the CPU's own name for itself, facts what a report shows."""

    features: frozenset[str]
    cpu: str
    facts: tuple[tuple[str, str], ...] = field(default=())


def probe(runner: Plays) -> Probed:
    """Ask.  MachineryBroke if not even this comes back."""
    cases = [_cpuid(), _limits(), _flags()]
    seen: dict[str, Observation] = {}
    runner.run(cases, lambda case, observation: seen.__setitem__(case.name, observation))
    lost = [name for name in ("cpuid", "limits", "fault flags") if seen[name].outcome != "trap"]
    if lost:
        raise MachineryBroke(
            f"the probe of {', '.join(lost)} did not come back",
            cause="; ".join(f"{seen[name].outcome} {seen[name].detail}".strip() for name in lost),
            next_step="run `kvmhost doctor`; if it finds nothing, report this",
        )
    leaves = _leaves(seen["cpuid"])
    features = {name for name, (leaf, register, bit) in _BITS.items() if leaves[leaf][register] >> bit & 1}
    features.add("paging32")
    if leaves[0xA]["eax"] & 0xFF:
        features.add("pmu")
    trap = seen["limits"].trap
    enforced = trap is not None and trap.vector == 13
    if enforced:
        features.add("hw-limits")
    if leaves[0x80000008]["eax"] & 0xFF < 52:
        features.add("pae-reserved")
    flags = seen["fault flags"].trap
    resume = flags is not None and bool(flags.eflags & 0x10000)
    facts = (
        ("CPUID vendor", _vendor(leaves[0])),
        ("segment limits enforced", "yes" if enforced else "no"),
        ("RF in a fault's pushed EFLAGS", "1" if resume else "0"),
        ("physical address bits", str(leaves[0x80000008]["eax"] & 0xFF)),
        ("features", " ".join(sorted(features))),
    )
    return Probed(frozenset(features), _name(leaves), facts)


def masked(class_code: str) -> tuple[str, ...]:
    """The deviations that are expected of a class."""
    return tuple(name for name, deviation in row.deviations().items() if class_code in deviation.classes)


def _case(name: str, code: bytes, scene: Scene, watches: Iterable[Watch] = ()) -> Case:
    stage = scene.stage
    scene.write(ADDRESS["HOST_CODE"], code)
    cpu = replace(stage.cpu("ring0"), esi=0)
    return Case(
        "PROBE", name, "L1", "P", stage.template, cpu, patches=scene.patches(), watches=tuple(watches)
    )


def _cpuid() -> Case:
    """For each leaf: mov eax, leaf; xor ecx, ecx; cpuid; mov [X0 + 16 n + ...], eax, ebx, ecx, edx."""
    code = b""
    for place, leaf in enumerate(_LEAVES):
        at = ADDRESS["X0"] + 16 * place
        code += b"\xb8" + struct.pack("<I", leaf) + b"\x31\xc9\x0f\xa2"
        code += b"\xa3" + struct.pack("<I", at)
        for number, modrm in ((1, 0x1D), (2, 0x0D), (3, 0x15)):
            code += bytes([0x89, modrm]) + struct.pack("<I", at + 4 * number)
    watch = Watch(ADDRESS["X0"], 16 * len(_LEAVES))
    return _case("cpuid", code + _STOP, Scene(Stage.of("L1")), [watch])


def _limits() -> Case:
    """mov eax, D22; mov fs, eax; mov eax, fs:[0x10], with a limit of 15 bytes: #GP, or no limits here."""
    scene = Scene(Stage.of("L1"))
    selector = FREE_SELECTORS[0] * 8
    scene.descriptor(selector, type="data-rw", base=ADDRESS["X0"], limit=0xF, g=0)
    code = b"\xb8" + struct.pack("<I", selector) + b"\x8e\xe0" + b"\x64\xa1" + struct.pack("<I", 0x10)
    return _case("limits", code + _STOP, scene)


def _flags() -> Case:
    """ud2: what EFLAGS does the CPU push?"""
    return _case("fault flags", b"\x0f\x0b", Scene(Stage.of("L1")))


def _leaves(observation: Observation) -> dict[int, dict[str, int]]:
    data = observation.memory[ADDRESS["X0"], 16 * len(_LEAVES)]
    words = struct.iter_unpack("<4I", data)
    leaves = {leaf: dict(zip(_REGISTERS, row, strict=True)) for leaf, row in zip(_LEAVES, words, strict=True)}
    # A CPU asked for a leaf it does not have answers with another one.
    if leaves[0]["eax"] < 0xA:
        leaves[0xA] = dict.fromkeys(_REGISTERS, 0)
    if leaves[0]["eax"] < 7:
        leaves[7] = dict.fromkeys(_REGISTERS, 0)
    return leaves


def _vendor(leaf: dict[str, int]) -> str:
    return struct.pack("<3I", leaf["ebx"], leaf["edx"], leaf["ecx"]).decode("ascii", "replace")


def _name(leaves: dict[int, dict[str, int]]) -> str:
    brand = b"".join(
        struct.pack("<4I", *(leaves[leaf][register] for register in _REGISTERS))
        for leaf in (0x80000002, 0x80000003, 0x80000004)
    )
    return " ".join(brand.split(b"\0")[0].decode("ascii", "replace").split())
