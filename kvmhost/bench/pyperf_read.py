"""Reading a file of results back: ours gives the report it was made of, any other one a clear error.

Whatever is wrong with a file is told in terms of the file: that it is empty or ends in the middle, that it is
of another tool, or which of its benchmarks lacks what.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

from kvmhost.bench.benchmark import Unit
from kvmhost.bench.errors import ResultFileError
from kvmhost.bench.figures import RATIO
from kvmhost.bench.pyperf_file import FACT, FORMAT, HASH, OWN, SCALE, VERSION
from kvmhost.bench.results import Provenance, Report, Result, Series, Spoiler

#: Larger than any result; whoever names a device should not wait for its end.
LARGEST = 1 << 28
MEASURE_AGAIN = "measure again with --json, and name that file"
#: Signals have numbers below that.
SIGNALS = 65

Json = Mapping[str, Any]


class Wrong(Exception):
    """Something in the file is not as it has to be; says what."""


def read(path: Path) -> Report:
    """The report in a file that `pyperf_file.write` made.  Raises ResultFileError."""
    try:
        return parse(content(path))
    except ResultFileError:
        raise
    except OSError as error:
        refuse(f"cannot read {path}", error.strerror or str(error), "name a file that you can read")
    except Wrong as error:
        refuse(f"{path} is not a result of kvmhost bench", str(error), MEASURE_AGAIN)


def refuse(message: str, cause: str, next_step: str) -> NoReturn:
    """Raise what people read."""
    raise ResultFileError(message, cause=cause, next_step=next_step) from None


def content(path: Path) -> str:
    """The text of the file.  Raises OSError or Wrong."""
    with path.open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise Wrong("it is larger than any result could be")
    if not data.strip():
        raise Wrong("it is empty")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Wrong("it is not text") from None


def parse(text: str) -> Report:
    """The report in the text of a file.  Raises Wrong, or ResultFileError for what has its own advice."""
    whole = table(load(text), "it")
    if "benchmarks" not in whole or "version" not in whole:
        raise Wrong("it is JSON, but no file of pyperf's: it has no benchmarks or no version")
    if whole["version"] != VERSION:
        raise Wrong(f"its format is version {whole['version']!r} of pyperf's, and we know {VERSION!r}")
    common = table(whole.get("metadata", {}), "its metadata")
    entries = [table(entry, f"benchmark {number}") for number, entry in enumerate(rows(whole, "benchmarks"))]
    check_maker(common, entries)
    series: dict[str, dict[int, Series]] = {}
    for number, entry in enumerate(entries):
        add(series, entry, common, f"benchmark {number}")
    return report(common, series)


def load(text: str) -> object:
    """Decode JSON without what JSON does not have.  Raises Wrong."""

    def no_number(word: str) -> NoReturn:
        raise Wrong(f"it has {word} where a number must be")

    try:
        return json.loads(text, parse_constant=no_number)
    except json.JSONDecodeError as error:
        over = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        if over and text.lstrip()[:1] in ("{", "["):
            raise Wrong("it ends in the middle: it was cut off") from None
        raise Wrong(f"it is not JSON: {error.msg} in line {error.lineno}, column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise Wrong(f"it is not JSON that anybody would write: {error}") from None


def check_maker(common: Json, entries: list[Json]) -> None:
    """Refuse what another tool measured, and what a later kvmhost wrote."""
    made = common.get(OWN + "format")
    if made is None:
        names = [
            str({**common, **table(one.get("metadata", {}), "its metadata")}.get("name")) for one in entries
        ]
        refuse(
            "the file is pyperf's, but not of kvmhost bench",
            f"it has other benchmarks: {', '.join(names[:3]) or 'none'}{', ...' if names[3:] else ''}",
            "let `python -m pyperf compare_to` compare it, and name one that kvmhost bench --json wrote",
        )
    if not isinstance(made, int) or made != FORMAT:
        refuse(
            "the file is of another kvmhost",
            f"its own part has format {made!r}, and this kvmhost knows {FORMAT}",
            "read it with the kvmhost that wrote it, or measure again",
        )


def add(series: dict[str, dict[int, Series]], entry: Json, common: Json, where: str) -> None:
    """Put what one benchmark of pyperf's has where it belongs.  Raises Wrong."""
    facts = {**common, **table(entry.get("metadata", {}), f"the metadata of {where}")}
    name, kind = word(facts, OWN + "benchmark", where), word(facts, OWN + "kind", where)
    where = f"{name} ({kind})"
    unit = unit_of(facts.get(OWN + "unit"), where)
    shift = number(facts.get(OWN + "shift", 0.0), f"the shift of {where}")
    scale = SCALE.get(str(facts.get("unit", "second")), 1.0)
    runs = series.setdefault(name, {})
    for row in rows(entry, "runs", where):
        run = table(row, f"a run of {where}")
        own = {**facts, **table(run.get("metadata", {}), f"the metadata of a run of {where}")}
        at = whole_number(own, OWN + "run", where)
        values = tuple(
            (number(value, f"a value of {where}") - shift) * scale for value in rows(run, "values", where)
        )
        empty = Series(name, unit, whole_number(own, "loops", where), (), (), counts={})
        known = runs.get(at, replace(empty, stable=bool(own.get(OWN + "stable", 1))))
        if kind == RATIO:
            runs[at] = replace(known, ratios=values)
        elif kind != "value":
            runs[at] = replace(known, counts={**known.counts, kind: values})
        else:
            warmups = tuple(
                (number(pair[1], f"a warm-up of {where}") - shift) * scale
                for pair in rows(run, "warmups", where, optional=True)
                if isinstance(pair, list) and len(pair) == 2
            )
            overhead = number(own.get(OWN + "overhead", 0.0), f"the overhead of {where}")
            runs[at] = replace(known, unit=unit, values=values, warmups=warmups, overhead=overhead)


def report(common: Json, series: Mapping[str, Mapping[int, Series]]) -> Report:
    """All of it.  Raises Wrong."""
    results = []
    for row in inner(common, "results"):
        name, unit, reason = texts(row, 3, "its list of results")
        kind = unit_of(unit, name)
        runs = tuple(replace(one, unit=kind) for _, one in sorted(series.get(name, {}).items()))
        results.append(Result(name, kind, runs, reason))
    missing = set(series) - {result.name for result in results}
    if missing:
        raise Wrong(f"its list of results lacks {', '.join(sorted(missing))}")
    return Report(
        provenance(common),
        tuple(results),
        tuple(Spoiler(*texts(row, 3, "its list of spoilers")) for row in inner(common, "spoilers")),
        tuple(str(row) for row in inner(common, "words")),
        number(common.get(OWN + "seconds", 0.0), "its seconds"),
        signal_of(common),
        tuple(str(row) for row in inner(common, "troubles")),
    )


def provenance(common: Json) -> Provenance:
    """Where the figures come from; what is not in the file is unknown."""

    def known(name: str) -> str:
        value = common.get(name)
        return value if isinstance(value, str) and value else "unknown"

    tsc = common.get(OWN + "tsc_hz", 0)
    return Provenance(
        backend=known(OWN + "backend"),
        cpu=known("cpu_model_name"),
        microcode=known(OWN + "microcode"),
        kernel=known("platform"),
        kvmhost=known(OWN + "version"),
        tsc_hz=tsc if isinstance(tsc, int) and 0 <= tsc < 1 << 40 else 0,
        made=known(OWN + "made"),
        icount=common.get(OWN + "icount") == 1,
        hashes={key.removeprefix(HASH): str(common[key]) for key in common if key.startswith(HASH)},
        facts={key.removeprefix(FACT): str(common[key]) for key in common if key.startswith(FACT)},
    )


def signal_of(common: Json) -> int:
    """The signal that ended the run, 0 for none."""
    found = common.get(OWN + "interrupted", 0)
    if not isinstance(found, int) or not 0 <= found < SIGNALS:
        raise Wrong(f"it was interrupted by {found!r}, which is no signal")
    return found


def inner(common: Json, key: str) -> list[Any]:
    """A list that is kept as text, because metadata of pyperf's are no lists."""
    value = common.get(OWN + key)
    if not isinstance(value, str):
        raise Wrong(f"its metadata lack {OWN + key}")
    found = load(value)
    if not isinstance(found, list):
        raise Wrong(f"{OWN + key} is no list")
    return found


def texts(row: object, count: int, where: str) -> list[str]:
    """A row of so many strings."""
    if not isinstance(row, list) or len(row) != count or not all(isinstance(one, str) for one in row):
        raise Wrong(f"{where} has an entry that is none")
    return row


def table(value: object, where: str) -> Json:
    """A JSON object."""
    if not isinstance(value, dict):
        raise Wrong(f"{where} is {kind_of(value)} and no object")
    return value


def rows(holder: Json, key: str, where: str = "it", *, optional: bool = False) -> list[Any]:
    """A JSON array in an object; one that need not be there is empty."""
    value = holder.get(key, [] if optional else None)
    if not isinstance(value, list):
        raise Wrong(f"{where} has no list of {key}")
    return value


def word(facts: Json, key: str, where: str) -> str:
    """A string that must be there."""
    value = facts.get(key)
    if not isinstance(value, str) or not value:
        raise Wrong(f"{where} lacks {key}")
    return value


def unit_of(value: object, where: str) -> Unit:
    """A unit of ours."""
    try:
        return Unit(str(value))
    except ValueError:
        raise Wrong(f"{where} is measured in {value!r}, which is no unit of ours") from None


def whole_number(facts: Json, key: str, where: str) -> int:
    """A count that must be there, from 0 on."""
    value = facts.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise Wrong(f"{where} lacks {key}, or it is no count")
    return value


def number(value: object, where: str) -> float:
    """A finite number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:
            raise Wrong(f"{where} is too large a number") from None
        if isfinite(found):
            return found
        raise Wrong(f"{where} is too large a number")
    raise Wrong(f"{where} is {kind_of(value)} and no number")


def kind_of(value: object) -> str:
    """What JSON calls it."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
