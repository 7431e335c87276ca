"""The run as JSON and back, without loss: the form that all the others can be made from.

What stands in the file follows the dataclasses of `results`; a value that is the default is left out, which
keeps a run of ten thousand cases small.  A file that comes back is somebody's input: everything in it is
checked against the types, and what does not fit is named by its place.
"""

from __future__ import annotations

import dataclasses
import json
import types
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from kvmhost.conformance.errors import ReportError
from kvmhost.conformance.results import Run

#: Changes when a reader of the old form could not read the new one.
SCHEMA = 1
#: What marks a file as ours.
FORMAT = "kvmhost conform"
MAKE_AGAIN = "make one with `kvmhost conform --json FILE`"

T = TypeVar("T")


def render(run: Run) -> str:
    """The whole run, as one line of JSON."""
    head = {"format": FORMAT, "schema": SCHEMA}
    return json.dumps(head | plain(run), separators=(",", ":"), ensure_ascii=True) + "\n"


def plain(value: Any) -> Any:
    """The value in what JSON has, without what is a default anyway."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: plain(part)
            for field in dataclasses.fields(value)
            if (part := getattr(value, field.name)) != field.default
        }
    if isinstance(value, tuple):
        return [plain(part) for part in value]
    return value.value if isinstance(value, Enum) else value


def parse(text: str | bytes, name: str) -> Run:
    """The run that a report of the name `name` tells of.

    Raises ReportError: no JSON, cut short, from something else or from a later version, or damaged.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ReportError(
            f"{name} is not a whole JSON file", cause=str(error), next_step=MAKE_AGAIN
        ) from None
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise ReportError(f"{name} is not a report of `{FORMAT}`", next_step=MAKE_AGAIN)
    schema = found.pop("schema", None)
    if schema != SCHEMA:
        raise ReportError(
            f"{name} is a report of another version",
            cause=f"its schema is {schema!r}, and this kvmhost knows {SCHEMA}",
            next_step="make it again with this version of kvmhost",
        )
    try:
        return built(Run, found, "the report")
    except Misfit as error:
        raise ReportError(f"{name} is damaged", cause=str(error), next_step=MAKE_AGAIN) from None


def read(path: Path) -> Run:
    """The run in this file.  Raises ReportError, also if the file cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ReportError(
            f"cannot read {path}", cause=str(error.strerror), next_step="name a file that --json wrote"
        ) from None
    return parse(content, str(path))


class Misfit(Exception):
    """A value that is not of its type, and where."""


@cache
def hints(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields."""
    return get_type_hints(kind)


def built(kind: type[T], found: object, place: str) -> T:
    """A dataclass of this kind from a JSON object; raises Misfit."""
    if not isinstance(found, dict):
        raise Misfit(f"{place} is no object")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if strangers := sorted(found.keys() - fields.keys()):
        raise Misfit(f"{place} has an unknown key {strangers[0]!r}")
    for name, field in fields.items():
        if name not in found and field.default is dataclasses.MISSING:
            raise Misfit(f"{place} lacks {name!r}")
    wanted = hints(kind)  # type: ignore[arg-type]  # a class is hashable
    return kind(**{name: checked(wanted[name], part, f"{place}: {name}") for name, part in found.items()})


def checked(wanted: Any, found: object, place: str) -> Any:
    """The value as its type wants it; raises Misfit."""
    origin = get_origin(wanted)
    if origin in (Union, types.UnionType):
        (inner,) = (part for part in get_args(wanted) if part is not type(None))
        return None if found is None else checked(inner, found, place)
    if origin is tuple:
        return parts(get_args(wanted), found, place)
    if dataclasses.is_dataclass(wanted):
        return built(wanted, found, place)  # type: ignore[arg-type]
    if issubclass(wanted, Enum):
        try:
            return wanted(found)
        except ValueError:
            raise Misfit(f"{place} is {found!r}") from None
    if wanted is float and type(found) is int:
        return float(found)
    if type(found) is not wanted:
        raise Misfit(f"{place} is {found!r}, not of type {wanted.__name__}")
    return found


def parts(wanted: tuple[Any, ...], found: object, place: str) -> tuple[Any, ...]:
    """A tuple: of one type and any length, or of these types."""
    if not isinstance(found, list):
        raise Misfit(f"{place} is no list")
    if wanted[-1] is Ellipsis:
        return tuple(checked(wanted[0], part, f"{place}[{number}]") for number, part in enumerate(found))
    if len(found) != len(wanted):
        raise Misfit(f"{place} has {len(found)} parts, not {len(wanted)}")
    return tuple(checked(kind, part, place) for kind, part in zip(wanted, found, strict=True))
