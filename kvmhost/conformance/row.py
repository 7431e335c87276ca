"""Rows: the catalogue as data files, one file a row, read and checked.

A row says what the manual promises: initial state, bytes, an event, and the state that must come out, each
with the section it was taken from.  This file only reads; expand.py makes the cases that an engine runs.  A
row that is not written yet says what it waits for, and counts as not written, never as passed.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from . import schema, store
from .errors import RowError

FOLDER = Path(__file__).parent / "rows"
DEVIATIONS = Path(__file__).parent / "deviations.toml"
Table = Mapping[str, Any]
NOTHING: Table = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Source:
    """Where a rule is written: publication, revision and the exact title of the section."""

    publication: str
    revision: str
    section: str

    def __str__(self) -> str:
        return f"{self.publication} ({self.revision}), {self.section}"


@dataclass(frozen=True, slots=True)
class Code:
    """Bytes at a place: the hex is what runs, the listing what it means (Intel syntax)."""

    at: schema.Value
    listing: str
    bytes: bytes
    labels: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class CaseSpec:
    """One run as the file tells it; numbers may still be expressions over the stage's symbols.

    Where a table stands, its keys are those of the schema.  kind, layers and requires are those of the row
    unless the case says otherwise (requires adds to the row's).
    """

    name: str
    kind: str
    start: str
    world: str
    paging: str
    layers: tuple[str, ...]
    requires: tuple[str, ...]
    why: str
    cpu: Table
    code: tuple[Code, ...]
    gdt: tuple[Table, ...]
    idt: tuple[Table, ...]
    tss: Table
    pages: tuple[Table, ...]
    memory: tuple[Table, ...]
    frame: Table
    event: Table
    watch: tuple[Table, ...]
    expect: Table
    any_of: tuple[Table, ...]
    deviation: Mapping[str, Table]
    layer: Mapping[str, Table]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the catalogue.

    does and expects are the catalogue's own words.  Exactly one of cases, family, program and waits_for is
    filled in; expect and deviation belong to family and program, controls to program: each names a defect of
    the product's Host and the values that are found while it is planted.  remains tells which variants of the
    catalogue's line a written row does not cover yet.
    """

    id: str
    title: str
    kind: str
    core: bool
    layers: tuple[str, ...]
    sources: tuple[Source, ...]
    requires: tuple[str, ...]
    does: str
    expects: str
    why: str
    waits_for: str
    remains: str
    family: str
    program: str
    controls: tuple[Table, ...]
    parameters: Table
    expect: Table
    deviation: Mapping[str, Table]
    cases: tuple[CaseSpec, ...] = field(repr=False)
    path: Path = field(repr=False)

    @property
    def group(self) -> str:
        """The id without its number: "SW-ENT" of SW-ENT-001."""
        return self.id.rpartition("-")[0]

    @property
    def written(self) -> bool:
        return not self.waits_for


@dataclass(frozen=True, slots=True)
class Deviation:
    """A known departure of some environments: its id, the class codes, the fact, and how it is known.

    mask lists (field of the observation, bits) that are not compared in those classes.
    """

    id: str
    classes: tuple[str, ...]
    fact: str
    known: str
    mask: tuple[tuple[str, int], ...]


def parse(path: Path) -> dict[str, Any]:
    """One data file of the catalogue as tables; RowError if it cannot be read or is no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RowError(
            str(path), "file", "does not exist", "one file for each row of the catalogue"
        ) from None
    except OSError as error:
        raise RowError(str(path), "file", str(error.strerror), "a file that can be read") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RowError(str(path), "file", f"is not TOML: {error}", "TOML 1.0 in UTF-8") from None


def load(path: Path) -> Row:
    """Reads and checks one row file; RowError with file, key and what is allowed.

    >>> load(FOLDER / "SEN" / "SEN-010.toml").title
    'LAR, LSL of DPL-0 descriptors'
    """
    return _row(_checked(path), path)


def _checked(path: Path) -> dict[str, Any]:
    """The content of a row file, which fits the schema."""
    data = parse(path)
    schema.ROW(data, str(path), "")
    if data["id"] != path.stem:
        raise RowError(str(path), "id", f"{data['id']} in a file called {path.name}", "the file's own name")
    filled = [key for key in ("case", "family", "program", "waits_for") if key in data]
    if len(filled) != 1:
        raise RowError(
            str(path),
            "case",
            f"found {' and '.join(filled) or 'none of them'}",
            "exactly one of case, family, program, waits_for",
        )
    if ("program" in data) != ("expect" in data):
        raise RowError(str(path), "expect", "program and expect belong together", "both or neither")
    _names_are_unique(data, path)
    _controls_show_something(data, path)
    return data


def _row(data: Table, path: Path) -> Row:
    return Row(
        id=data["id"],
        title=data["title"],
        kind=data["kind"],
        core=data["core"],
        layers=tuple(data["layers"]),
        sources=tuple(Source(**each) for each in data["sources"]),
        requires=tuple(data.get("requires", ())),
        does=data.get("does", ""),
        expects=data.get("expects", ""),
        why=data.get("why", ""),
        waits_for=data.get("waits_for", ""),
        remains=data.get("remains", ""),
        family=data.get("family", ""),
        program=data.get("program", ""),
        controls=tuple(data.get("control", ())),
        parameters=data.get("parameters", NOTHING),
        expect=data.get("expect", NOTHING),
        deviation=data.get("deviation", NOTHING),
        cases=tuple(_case(each, data) for each in data.get("case", ())),
        path=path,
    )


def _names_are_unique(data: Table, path: Path) -> None:
    seen: set[str] = set()
    for place, each in enumerate(data.get("case", ())):
        if each["name"] in seen:
            raise RowError(
                str(path), f"case[{place}].name", repr(each["name"]), "a name that no other case has"
            )
        seen.add(each["name"])


def _controls_show_something(data: Table, path: Path) -> None:
    """A control says what is found instead of what the row expects, by the same names."""
    good = data.get("expect", NOTHING).get("values", NOTHING)
    names = {data.get("program", "")}
    for place, each in enumerate(data.get("control", ())):
        key = f"control[{place}]"
        if "program" not in data:
            raise RowError(str(path), key, "a control of no program", "a row with a program")
        if each["name"] in names:
            raise RowError(str(path), f"{key}.name", repr(each["name"]), "a name that no other case has")
        names.add(each["name"])
        alike = [name for name, value in each["values"].items() if good.get(name, value) == value]
        if alike or not each["values"]:
            raise RowError(
                str(path),
                f"{key}.values",
                ", ".join(alike) or "none",
                "values of expect that are not as there",
            )


def _case(data: Table, row: Table) -> CaseSpec:
    start = data["start"]
    return CaseSpec(
        name=data["name"],
        kind=data.get("kind", row["kind"]),
        start=start,
        world=data.get("world", "pair" if start == "trip" else "L1"),
        paging=data.get("paging", "legacy"),
        layers=tuple(data.get("layers", row["layers"])),
        requires=tuple(dict.fromkeys((*row.get("requires", ()), *data.get("requires", ())))),
        why=data.get("why", row.get("why", "")),
        cpu=data.get("cpu", NOTHING),
        code=tuple(_code(each) for each in data.get("code", ())),
        gdt=tuple(data.get("gdt", ())),
        idt=tuple(data.get("idt", ())),
        tss=data.get("tss", NOTHING),
        pages=tuple(data.get("pages", ())),
        memory=tuple(data.get("memory", ())),
        frame=data.get("frame", NOTHING),
        event=data.get("event", NOTHING),
        watch=tuple(data.get("watch", ())),
        expect=data["expect"],
        any_of=tuple(data.get("any_of", ())),
        deviation=data.get("deviation", NOTHING),
        layer=data.get("layer", NOTHING),
    )


def _code(data: Table) -> Code:
    return Code(data["at"], data["listing"], bytes.fromhex(data["hex"]), data.get("labels", NOTHING))


def paths(folder: Path = FOLDER) -> Iterator[Path]:
    """Every row file, group by group."""
    yield from sorted(folder.glob("*/*.toml"))


@cache
def catalogue() -> tuple[Row, ...]:
    """All rows, sorted by id; RowError at the first file that does not fit."""
    every = list(paths())
    try:
        told = json.loads(store.read(_name(every)) or b"null")
        if told is not None:
            return tuple(_row(data, path) for data, path in zip(told, every, strict=True))
    except (OSError, ValueError, TypeError, KeyError):
        pass  # load() says what is wrong, if anything is
    return tuple(load(path) for path in every)


def keep() -> None:
    """For the next run: reading TOML takes twenty times as long as reading the same as JSON."""
    every = list(paths())
    if store.read(_name(every)) is None:
        store.write(_name(every), json.dumps([_checked(path) for path in every]).encode())


def _name(every: Sequence[Path]) -> str:
    """By every byte of every file."""
    found = hashlib.sha256()
    for path in every:
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return store.key("rows", found.hexdigest())


def find(row_id: str) -> Row:
    """One row by its id, without reading the others; RowError if there is none.

    >>> find("SW-NMI-001").id
    'NMI-001'
    """
    known = row_id.removeprefix("SW-") if row_id.startswith("SW-NMI-") else row_id
    path = FOLDER / known.rpartition("-")[0] / f"{known}.toml"
    if not path.is_file():
        raise RowError(
            str(path), "id", f"no row is called {row_id}", "an id of the catalogue, as `--list` prints"
        )
    return load(path)


@cache
def deviations(path: Path = DEVIATIONS) -> Mapping[str, Deviation]:
    """The known deviations by id, checked like the rows."""
    found = {}
    for name, data in parse(path).items():
        schema.matching(r"DV-\d\d", "an id like DV-02")(name, str(path), name)
        schema.DEVIATION(data, str(path), name)
        mask = tuple((each["field"], each["bits"]) for each in data.get("mask", ()))
        found[name] = Deviation(name, tuple(data["classes"]), data["fact"], data["known"], mask)
    return MappingProxyType(found)
