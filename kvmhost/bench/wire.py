"""What the measuring process and the one that asked for it say to each other.

The plan goes there as one word of the command line, for a lab hands those on unchanged; what was seen comes
back as lines of JSON on standard output.  Each line is complete in itself, so whatever ends the worker, what
it had said by then is kept.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvmhost.bench.benchmark import Setting, Unit
from kvmhost.bench.errors import WorkerBroke
from kvmhost.bench.results import Provenance, Series, Spoiler

VERSION = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure: names of the catalogue in its order, and how thoroughly, a name of method.MODES.

    strict: end before measuring if anything would spoil a figure.
    """

    names: tuple[str, ...]
    mode: str
    setting: Setting = field(default_factory=Setting)
    strict: bool = False

    def as_word(self) -> str:
        """One word of a command line."""
        setting = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in dataclasses.asdict(self.setting).items()
        }
        return json.dumps(
            {"version": VERSION, "names": self.names, "mode": self.mode, "strict": self.strict, **setting}
        )

    @staticmethod
    def from_word(word: str) -> Plan:
        """The same plan again.

        >>> plan = Plan(("exit/c-loop",), "quick", Setting(cpu=1))
        >>> Plan.from_word(plan.as_word()) == plan
        True
        """
        told = json.loads(word)
        if told.pop("version") != VERSION:
            raise WorkerBroke("the plan is of another version of kvmhost")
        names, mode, strict = tuple(told.pop("names")), told.pop("mode"), told.pop("strict")
        for name in ("switcher", "kernel", "initrd"):
            told[name] = None if told[name] is None else Path(told[name])
        return Plan(names, mode, Setting(**told), strict)


@dataclass(frozen=True, slots=True)
class Step:
    """How far the worker is with a group: what is under way, and which part of its work is done, 0 to 1."""

    group: str
    doing: str
    done: float


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """A benchmark that cannot be measured here, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """A group that broke; the others go on."""

    group: str
    what: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nothing can be measured as asked: the words of an error.  usage: what was asked for makes no sense."""

    message: str
    cause: str
    next_step: str
    usage: bool = False

    @staticmethod
    def of(error: Exception) -> Refusal:
        """The words of an error of ours, or of another."""
        return Refusal(
            str(getattr(error, "message", error)),
            str(getattr(error, "cause", "") or ""),
            str(getattr(error, "next_step", "")),
            bool(getattr(error, "usage", False)),
        )


@dataclass(frozen=True, slots=True)
class End:
    """The worker's last line.  interrupted: by which signal, 0 if it came to its end."""

    seconds: float
    interrupted: int = 0


Message = Provenance | Spoiler | Step | Series | Unmeasured | Trouble | Refusal | End
_TYPES = (Provenance, Spoiler, Step, Series, Unmeasured, Trouble, Refusal, End)
_KINDS: Mapping[str, type[Any]] = {kind.__name__.lower(): kind for kind in _TYPES}


def as_line(message: Message) -> str:
    """One line, without its end.

    >>> as_line(Unmeasured("boot/linux", "no --kernel"))
    '{"kind": "unmeasured", "name": "boot/linux", "why": "no --kernel"}'
    """
    return json.dumps({"kind": type(message).__name__.lower(), **dataclasses.asdict(message)})


def from_line(line: str) -> Message:
    """The message of a line.  Raises WorkerBroke for anything else.

    >>> from_line('{"kind": "unmeasured", "name": "boot/linux", "why": "no --kernel"}').name
    'boot/linux'
    """
    try:
        told = json.loads(line)
        kind = _KINDS[told.pop("kind")]
        if kind is Series:
            told = _series(told)
        message: Message = kind(**told)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WorkerBroke("the measuring process said what nobody understands", cause=line[:200]) from error
    return message


def _series(told: dict[str, Any]) -> dict[str, Any]:
    told["unit"] = Unit(told["unit"])
    for name in ("warmups", "values", "ratios"):
        told[name] = tuple(told[name])
    told["counts"] = {name: tuple(values) for name, values in told["counts"].items()}
    return told
