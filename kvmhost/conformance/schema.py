"""The shape of a row file, told once: which keys there are and what each may hold.

A shape is a small tree of checks.  Walking it over a parsed TOML file ends at the first thing that does not
fit with the file, the key's whole path and what would be allowed, so that the author of a row need not read
this file.  Numbers are integers or expressions over the stage's symbols ("G_CODE+5", "D22|1", "fault"); their
form is checked here, their symbols when a row is expanded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from .errors import RowError

Value = int | str
Check = Callable[[Any, str, str], None]

# Terms joined by + - * |; a term is a number, a symbol of the stage, or a label of the case's code.
_TERM = r"(?:0[xX][0-9a-fA-F]+|\d+|[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)?)"
EXPRESSION = re.compile(rf"{_TERM}(?:\s*[-+*|]\s*{_TERM})*")
NUMBER = "a number or an expression ('G_CODE+5')"


def number(value: Any, file: str, key: str) -> None:
    """An integer or an expression.

    >>> number("HOST_GDT+8*22", "f", "k")
    >>> number("G_CODE+", "f", "k")
    Traceback (most recent call last):
    ...
    kvmhost.conformance.errors.RowError: f: k: 'G_CODE+'; allowed: a number or an expression ('G_CODE+5')
    """
    good = isinstance(value, int) and not isinstance(value, bool)
    if not good and not (isinstance(value, str) and EXPRESSION.fullmatch(value)):
        raise RowError(file, key, repr(value), NUMBER)


def integer(value: Any, file: str, key: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise RowError(file, key, repr(value), "a number")


def text(value: Any, file: str, key: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise RowError(file, key, repr(value), "a text that is not empty")


def flag(value: Any, file: str, key: str) -> None:
    if not isinstance(value, bool):
        raise RowError(file, key, repr(value), "true or false")


def bit(value: Any, file: str, key: str) -> None:
    if isinstance(value, bool) or value not in (0, 1):
        raise RowError(file, key, repr(value), "0 or 1")


def hexes(value: Any, file: str, key: str) -> None:
    if not isinstance(value, str) or not re.fullmatch(r"(?:[0-9a-f]{2}\s*)*", value):
        raise RowError(file, key, repr(value), "pairs of lower-case hexadecimal digits")


def anything(value: Any, file: str, key: str) -> None:
    """For the parameters of a generated family, which the family checks itself."""


def one_of(*allowed: object) -> Check:
    def check(value: Any, file: str, key: str) -> None:
        if value not in allowed or isinstance(value, bool):
            raise RowError(file, key, repr(value), "one of " + ", ".join(str(each) for each in allowed))

    return check


def either(*checks: Check) -> Check:
    """The first check that passes; the refusals of all of them together are what is allowed."""

    def check(value: Any, file: str, key: str) -> None:
        refused = []
        for each in checks:
            try:
                return each(value, file, key)
            except RowError as error:
                refused.append(error.allowed)
        raise RowError(file, key, repr(value), ", or ".join(refused))

    return check


def matching(pattern: str, said: str) -> Check:
    def check(value: Any, file: str, key: str) -> None:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise RowError(file, key, repr(value), said)

    return check


def list_of(inner: Check, at_least: int = 0) -> Check:
    def check(value: Any, file: str, key: str) -> None:
        if not isinstance(value, list) or len(value) < at_least:
            raise RowError(file, key, repr(value), f"a list of at least {at_least}" if at_least else "a list")
        for place, each in enumerate(value):
            inner(each, file, f"{key}[{place}]")

    return check


def table(required: Mapping[str, Check] | None = None, /, **optional: Check) -> Check:
    """A table with these keys and no other."""
    needed = dict(required or {})
    known = needed | optional

    def check(value: Any, file: str, key: str) -> None:
        if not isinstance(value, dict):
            raise RowError(file, key, repr(value), "a table")
        prefix = f"{key}." if key else ""
        for name, each in value.items():
            if name not in known:
                raise RowError(file, f"{prefix}{name}", "no such key", ", ".join(sorted(known)))
            known[name](each, file, f"{prefix}{name}")
        for name in needed:
            if name not in value:
                raise RowError(file, f"{prefix}{name}", "is missing", f"it is needed beside {sorted(value)}")

    return check


def table_of(names: Check, inner: Check) -> Check:
    """A table whose keys are free, each fitting names."""

    def check(value: Any, file: str, key: str) -> None:
        if not isinstance(value, dict):
            raise RowError(file, key, repr(value), "a table")
        for name, each in value.items():
            names(name, file, f"{key}.{name}")
            inner(each, file, f"{key}.{name}")

    return check


def names(*keys: str) -> Check:
    """A table of numbers with these keys: registers, mostly."""
    return table(**dict.fromkeys(keys, number))


KINDS = ("P", "E", "K", "S", "N")
LAYERS = ("L1", "L2-seed", "L2-hardened", "L3-seed", "L3-hardened", "L3-foreign")
CLASSES = ("IU", "IN", "IS", "AN", "AS", "NST", "TCG", "EMU", "BX", "LAB", "UC")
GPR = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "eip", "eflags")
SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs", "ldtr", "tr")
CONTROL = ("cr0", "cr2", "cr3", "cr4", "efer")
DEBUG = ("dr0", "dr1", "dr2", "dr3", "dr6", "dr7")
TABLES = ("gdt_base", "gdt_limit", "idt_base", "idt_limit", "tr", "ldtr")
FRAME = (
    *("ebx", "ecx", "edx", "esi", "edi", "ebp", "gs", "eax", "fs", "ds", "es"),
    *("trapnum", "errcode", "eip", "cs", "eflags", "esp", "ss"),
)
CR0_FLAGS = ("PE", "MP", "EM", "TS", "ET", "NE", "WP", "AM", "NW", "CD", "PG")
CR4_FLAGS = (
    *("VME", "PVI", "TSD", "DE", "PSE", "PAE", "MCE", "PGE", "PCE", "OSFXSR", "OSXMMEXCPT", "UMIP"),
    *("FSGSBASE", "PCIDE", "OSXSAVE", "SMEP", "SMAP", "PKE"),
)
EFER_FLAGS = ("SCE", "NXE")
MSRS = ("SYSENTER_CS", "SYSENTER_ESP", "SYSENTER_EIP", "STAR", "EFER", "DEBUGCTL", "PAT", "MISC_ENABLE")

# What scene.py's builders take, by name; descriptors.py has the numbers.
SEGMENT_TYPES = (
    *("data-ro", "data-rw", "data-ro-down", "data-rw-down"),
    *("code-x", "code-rx", "code-x-conforming", "code-rx-conforming"),
    *("tss16", "tss16-busy", "tss32", "tss32-busy", "ldt"),
)
GATE_TYPES = ("call16", "call32", "task", "interrupt16", "interrupt32", "trap16", "trap32")
TSS_FIELDS = (
    *("link", "esp0", "ss0", "esp1", "ss1", "esp2", "ss2", "cr3", "eip", "eflags"),
    *("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "es", "cs", "ss", "ds", "fs", "gs"),
    *("ldt", "trap", "io_bitmap_base"),
)
REQUIREMENTS = (
    *("paging32", "pae", "pse", "nx", "pge", "smep", "smap", "umip", "rdtscp", "syscall", "sysenter", "pmu"),
    *("fxsr", "sse", "xsave", "mce", "pku", "monitor", "port-exit", "nmi-injection", "intr-injection"),
    *("snapshot", "hidden-state", "kvm", "irqchip", "hw-limits", "hw-breakpoints", "single-step", "tss-addr"),
    *("vmx", "svm", "invpcid", "rdpru", "rdpid", "rdrand", "wbnoinvd", "pae-reserved"),
)

_where = {"table": one_of("host", "guest")}
_gdt = table(
    {"selector": number},
    **_where,
    type=either(one_of(*SEGMENT_TYPES, *GATE_TYPES), integer),
    raw=hexes,
    **dict.fromkeys(("base", "limit", "dpl", "offset", "target", "count"), number),
    **dict.fromkeys(("s", "g", "b", "p", "a", "l", "avl"), bit),
)
_idt = table(
    {"vector": number},
    **_where,
    type=either(one_of(*GATE_TYPES), integer),
    raw=hexes,
    p=bit,
    **dict.fromkeys(("selector", "offset", "dpl"), number),
)
_tss = table(**_where, **dict.fromkeys(TSS_FIELDS, number))
_page = table(
    {"linear": number},
    **_where,
    phys=number,
    level=one_of("4k", "large", "pde", "pdpte"),
    raw=number,
    **dict.fromkeys(("present", "rw", "us", "nx", "g", "a", "d", "pwt", "pcd"), bit),
)
_memory = table({"at": number}, hex=hexes, u32=list_of(number, 1), fill=number, size=number)
_code = table(
    {"at": number, "listing": text, "hex": hexes}, labels=table_of(matching(r"[a-z_]\w*", "a label"), number)
)
_cpu = table(
    **dict.fromkeys((*GPR, *SEGMENTS, *CONTROL, *DEBUG, *TABLES[:4]), number),
    cr0_set=list_of(one_of(*CR0_FLAGS)),
    cr0_clear=list_of(one_of(*CR0_FLAGS)),
    cr4_set=list_of(one_of(*CR4_FLAGS)),
    cr4_clear=list_of(one_of(*CR4_FLAGS)),
    efer_set=list_of(one_of(*EFER_FLAGS)),
    efer_clear=list_of(one_of(*EFER_FLAGS)),
    msr=names(*MSRS),
)
_trap = table(
    vector=number,
    error=either(one_of("none"), number),
    eip=number,
    cs=number,
    eflags=number,
    eflags_mask=number,
    ss=number,
    esp=number,
)
_hidden = table_of(
    one_of(*SEGMENTS, "gdt", "idt"),
    names("selector", "base", "limit", "type", "s", "dpl", "present", "db", "g", "unusable"),
)
_values = table_of(matching(r"[\w.-]+", "a name"), anything)
_expect = table(
    outcome=one_of("trap", "shutdown", "report", "values", "timeout", "setup"),
    trap=_trap,
    kept=flag,
    regs=names(*GPR, *(f"{name}_mask" for name in GPR)),
    segs=names(*SEGMENTS),
    cr=names(*CONTROL, *DEBUG, *(f"{name}_mask" for name in (*CONTROL, *DEBUG))),
    tables=names(*TABLES),
    frame=names(*FRAME, *(f"{name}_mask" for name in FRAME)),
    frame_kept=flag,
    memory=list_of(
        table({"at": number}, u32=list_of(number, 1), hex=hexes, mask=either(number, list_of(number, 1)))
    ),
    changed=list_of(number),
    hidden=_hidden,
    values=_values,
    report=table_of(matching(r"\w+", "a name"), anything),
)
_deviation = table(
    {"dev": matching(r"DV-\d\d", "an id of deviations.toml, like DV-02")}, expect=_expect, demonstrable=flag
)
_case = table(
    {"name": text, "start": one_of("ring0", "ring1", "ring3", "trip"), "expect": _expect},
    kind=one_of(*KINDS),
    world=one_of("L1", "pair"),
    paging=one_of("legacy", "pae"),
    layers=list_of(one_of(*LAYERS), 1),
    requires=list_of(one_of(*REQUIREMENTS)),
    why=text,
    cpu=_cpu,
    code=list_of(_code),
    gdt=list_of(_gdt),
    idt=list_of(_idt),
    tss=_tss,
    pages=list_of(_page),
    memory=list_of(_memory),
    frame=names(*FRAME),
    event=table(
        {"kind": one_of("nmi", "intr", "mce", "snapshot", "inspect")},
        at=text,
        hit=number,
        steps=number,
        vector=number,
        count=number,
        after=anything,
    ),
    watch=list_of(table({"at": number}, size=number)),
    any_of=list_of(table({"reason": text, "expect": _expect}, layers=list_of(one_of(*LAYERS), 1))),
    deviation=table_of(one_of(*CLASSES), _deviation),
    layer=table_of(one_of(*LAYERS), table(expect=_expect)),
)
ID = r"[A-Z0-9]+(?:-[A-Z0-9]+)?-\d{3}"
_control = table(
    {"name": text, "plants": matching(r"[a-z][a-z-]*", "the name of a defect"), "values": _values}
)
_source = table({"publication": text, "revision": text, "section": text})

ROW = table(
    {
        "schema": one_of(1),
        "id": matching(ID, "the catalogue's id, like SW-ENT-001"),
        "title": text,
        "kind": one_of(*KINDS),
        "core": flag,
        "layers": list_of(one_of(*LAYERS), 1),
        "sources": list_of(_source, 1),
    },
    requires=list_of(one_of(*REQUIREMENTS)),
    does=text,
    expects=text,
    why=text,
    waits_for=text,
    remains=text,
    case=list_of(_case, 1),
    family=matching(r"[a-z][a-z0-9-]*", "the name of a generated family"),
    parameters=table_of(matching(r"\w+", "a name"), anything),
    program=matching(r"[a-z][a-z0-9-]*", "the name of a program"),
    control=list_of(_control, 1),
    expect=_expect,
    deviation=table_of(one_of(*CLASSES), _deviation),
)
DEVIATION = table(
    {
        "classes": list_of(one_of(*CLASSES), 1),
        "fact": text,
        "known": text,
    },
    mask=list_of(table({"field": text, "bits": number})),
)
PUBLICATION = table(
    {
        "title": text,
        "texts": list_of(table({"revision": text, "read": text}, date=text), 1),
        "sections": table_of(text, table({"seen": list_of(text)}, number=text, note=text)),
    }
)
