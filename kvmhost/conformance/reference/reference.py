"""A reference Switcher as it lies in its file: parts of labelled instructions, and one rule for all stubs."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

NAMES = ("seed", "hardened")
VECTORS = 256


class ReferenceFileError(Exception):
    """A reference Switcher's file cannot be used; says where and what is expected there."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"reference Switcher {name}: {what}")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction.  code is what runs; with a target it is the opcode of a jump, and a rel32 follows.

    name is what rows call it, where they speak of it.
    """

    label: str
    code: bytes
    listing: str
    target: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Instructions that run from the first to the last, under one of the Switcher's names."""

    symbol: str
    code: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Stubs:
    """How the 256 entry points are made.  number_bytes is the width of push_number's immediate."""

    push_zero: bytes
    push_number: bytes
    number_bytes: int
    jump: bytes
    error_codes: frozenset[int]
    exits: tuple[str, ...]
    """The exit of each vector, by its number."""

    def pushes_zero(self, vector: int) -> bool:
        """Whether the stub must make up an error code."""
        return vector not in self.error_codes

    def number(self, vector: int) -> bytes:
        """The instruction that pushes the vector."""
        return self.push_number + vector.to_bytes(4, "little")[: self.number_bytes]


@dataclass(frozen=True, slots=True)
class Reference:
    """A Switcher: frame is the order of its register frame ("2.6.23", "2.6.24"), descriptors the bytes that
    a pseudo-descriptor takes in its state page (8, 6)."""

    name: str
    frame: str
    descriptors: int
    parts: tuple[Part, ...]
    stubs: Stubs

    def instruction(self, label: str) -> Instruction:
        """The instruction with a label; KeyError if there is none."""
        return {i.label: i for part in self.parts for i in part.code}[label]

    def edited(self, edits: Mapping[str, tuple[Instruction, ...]]) -> Reference:
        """A copy in which the instructions of some labels are replaced by others (or by none).

        >>> len(load("seed").edited({"B16": ()}).parts[0].code) - len(load("seed").parts[0].code)
        -1
        """
        for label in edits:
            self.instruction(label)
        return replace(
            self,
            parts=tuple(
                replace(part, code=tuple(new for old in part.code for new in edits.get(old.label, (old,))))
                for part in self.parts
            ),
        )


@cache
def load(name: str) -> Reference:
    """Read "seed" or "hardened".  Raises ReferenceFileError if its file is not what it should be.

    >>> load("seed").instruction("B30").listing
    'iret'
    """
    if name not in NAMES:
        raise ReferenceFileError(name, f"there is none; there are {', '.join(NAMES)}")
    text = resources.files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return parse(name, text)


def parse(name: str, text: str) -> Reference:
    """Make a Reference of a file's text.  Raises ReferenceFileError."""
    try:
        data = tomllib.loads(text)
        if data["schema"] != 1:
            raise ReferenceFileError(name, f"its schema is {data['schema']}, this program reads 1")
        reference = Reference(
            name=data["name"],
            frame=data["frame"],
            descriptors=data["descriptors"],
            parts=tuple(_part(part) for part in data["part"]),
            stubs=_stubs(data["stubs"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ReferenceFileError(name, f"{type(error).__name__}: {error}") from error
    _check(name, reference)
    return reference


def _part(data: Mapping[str, Any]) -> Part:
    return Part(
        symbol=data["symbol"],
        code=tuple(
            Instruction(i["label"], bytes.fromhex(i["hex"]), i["listing"], i.get("target"), i.get("name"))
            for i in data["code"]
        ),
    )


def _stubs(data: Mapping[str, Any]) -> Stubs:
    exits: dict[int, str] = {}
    for way in data["exits"]:
        for first, last in way["vectors"]:
            exits |= dict.fromkeys(range(first, last + 1), way["target"])
    return Stubs(
        push_zero=bytes.fromhex(data["push_zero"]),
        push_number=bytes.fromhex(data["push_number"]),
        number_bytes=data["number_bytes"],
        jump=bytes.fromhex(data["jump"]),
        error_codes=frozenset(data["error_codes"]),
        exits=tuple(exits[vector] for vector in range(VECTORS)),
    )


def _check(name: str, reference: Reference) -> None:
    labels = [i.label for part in reference.parts for i in part.code]
    twice = {label for label in labels if labels.count(label) > 1}
    if twice:
        raise ReferenceFileError(name, f"labels occur twice: {', '.join(sorted(twice))}")
    targets = {i.target for part in reference.parts for i in part.code if i.target} | set(
        reference.stubs.exits
    )
    unknown = targets - set(labels) - {part.symbol for part in reference.parts}
    if unknown:
        raise ReferenceFileError(name, f"jumps lead to {', '.join(sorted(unknown))}, which nothing is called")
