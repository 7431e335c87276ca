"""Cases as the monitor's memory, and its results as Observations.

A Batch is what lies in memory from CONFORM_BATCH on: the table of cases, their patches and watches, room for
results, and the templates.  With the monitor's text and a header it is a whole image, the same for every
engine (native/abi/conform.h has the layout, and everything here asks it).

The header is the only thing that changes between two starts of an engine: which case is next, and why the one
before came to no end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from kvmhost._native import ffi, lib

from ..case import NO_ERROR, Case, Cpu, Observation, Outcome, Trap
from ..errors import MachineryBroke
from ..stage import ARENA, ARENA_SIZE, PAGE

Read = Callable[[int, int], bytes]
"""Bytes of the engine's memory: physical address, size."""

HEADER = int(lib.CONFORM_HEADER)
HEADER_BYTES = int(ffi.sizeof("struct conform_header"))
# Addresses in it that a runner looks at, or writes before it starts an engine again.
CURRENT = HEADER + int(ffi.offsetof("struct conform_header", "current"))
STATE = HEADER + int(ffi.offsetof("struct conform_header", "state"))
REASON = HEADER + int(ffi.offsetof("struct conform_header", "reason"))
IDLE, RUNNING, DONE = int(lib.CONFORM_IDLE), int(lib.CONFORM_RUNNING), int(lib.CONFORM_DONE)
SETUP = int(lib.CONFORM_SETUP)
TIMEOUT, REPORT = int(lib.CONFORM_TIMEOUT), int(lib.CONFORM_REPORT)
CASE_BYTES = int(ffi.sizeof("struct conform_case"))
_RESULT = int(ffi.sizeof("struct conform_result"))
OUTCOMES: dict[int, Outcome] = {
    int(lib.CONFORM_NOTHING): "broken",
    int(lib.CONFORM_TRAP): "trap",
    int(lib.CONFORM_SHUTDOWN): "shutdown",
    TIMEOUT: "timeout",
    REPORT: "report",
    int(lib.CONFORM_BAD_SETUP): "setup",
}
NEVER = 0xFFFFFFFF
TF, RF, VM = 0x100, 0x10000, 0x20000
# Vectors for which the CPU pushes an error code, unless they come by INT n.
ERROR_CODES = frozenset({8, 10, 11, 12, 13, 14, 17, 21, 29, 30})
# EFLAGS: bit 1 is always set; 3, 5, 15 and 22 to 31 never.
_EFLAGS_MASK, _EFLAGS_FIXED = 0xFFC0802A, 0x2
# So much that a batch stays small beside the memory of the machine that plays it.
BATCH_CASES = 2000
BATCH_BYTES = 48 << 20


@dataclass(frozen=True, slots=True)
class Monitor:
    """The program that plays a batch.  collector is the arena page COLLECT2 of every template."""

    text: bytes
    collector: bytes
    rom: bytes
    symbols: dict[str, int]


@cache
def monitor() -> Monitor:
    """The monitor that was built with this installation."""
    data = resources.files("kvmhost") / "data" / "conformance"
    try:
        pieces = [(data / f"{name}.bin").read_bytes() for name in ("monitor", "collector", "rom")]
        facts = json.loads((data / "monitor.json").read_text())
    except (OSError, ValueError) as error:
        raise MachineryBroke(
            "the conformance monitor is missing", cause=str(error), next_step="install kvmhost again"
        ) from error
    return Monitor(pieces[0], pieces[1], pieces[2], facts["symbols"])


@dataclass(frozen=True, slots=True)
class Batch:
    """Cases laid out from CONFORM_BATCH on: data, addresses and sizes of the results, where it all ends."""

    cases: tuple[Case, ...]
    data: bytes
    results: tuple[int, ...]
    sizes: tuple[int, ...]
    end: int

    def memory(self) -> Iterator[tuple[int, bytes]]:
        """All that must be in memory before the monitor starts, but the header."""
        yield int(lib.CONFORM_TEXT), monitor().text
        yield int(lib.CONFORM_BATCH), self.data

    def header(self, current: int = 0) -> bytes:
        """The header for memory that is new, to begin with some case."""
        head = ffi.new("struct conform_header *")
        head.magic, head.version = lib.CONFORM_MAGIC, lib.CONFORM_VERSION
        head.cases, head.count = lib.CONFORM_BATCH, len(self.cases)
        head.current, head.state, head.end = current, IDLE, self.end
        return bytes(ffi.buffer(head))

    def result_end(self, index: int) -> int:
        """The address after a case's result and its watched bytes."""
        return self.results[index] + self.sizes[index]

    def observe(self, index: int, read: Read) -> Observation:
        """What came of a case whose result is complete."""
        start = self.results[index]
        return observe(self.cases[index], read(start, self.result_end(index) - start))


def word(header: bytes, address: int) -> int:
    """A dword of a header that was read out of an engine, by its address there."""
    return int.from_bytes(header[address - HEADER :][:4], "little")


def batches(cases: Iterable[Case], most: int | None = None) -> Iterator[Batch]:
    """Cut cases into Batches of a size that fits everywhere.

    Those of one template come together: another template costs the monitor a copy of the whole arena.  most:
    how many cases at most, if not BATCH_CASES.
    """
    most = BATCH_CASES if most is None else most
    by_template: dict[str, list[Case]] = {}
    for case in cases:
        check(case)
        assert case.template is not None
        by_template.setdefault(case.template.key, []).append(case)
    taken: list[Case] = []
    templates: set[str] = set()
    size = 0
    for case in (case for together in by_template.values() for case in together):
        assert case.template is not None
        more = _size(case) + (ARENA_SIZE if case.template.key not in templates else 0)
        if taken and (len(taken) >= most or size + more > BATCH_BYTES):
            yield build(taken)
            taken, templates, size = [], set(), 0
            more = _size(case) + ARENA_SIZE
        taken.append(case)
        templates.add(case.template.key)
        size += more
    if taken:
        yield build(taken)


def _size(case: Case) -> int:
    parts = sum(len(patch.data) + 16 for patch in case.patches)
    return parts + sum(watch.size + 8 for watch in case.watched()) + CASE_BYTES + _RESULT + 256


def check(case: Case) -> None:
    """MachineryBroke if the monitor could not play this case as it is written."""

    def refuse(why: str) -> None:
        raise MachineryBroke(f"{case.id} cannot be played: {why}", next_step="correct the row")

    if case.template is None or case.cpu is None:
        refuse("it has no machine")
        return
    if not case.cpu.cs & 3 and case.cpu.eflags & (TF | RF | VM):
        refuse("a start at ring 0 has no TF, RF or VM; let its code set them by IRET")
    if case.cpu.eflags & VM:
        refuse("virtual-8086 mode is entered by the case's own IRET")
    for address, size in (
        *((patch.address, len(patch.data)) for patch in case.patches),
        *((watch.address, watch.size) for watch in case.watched()),
    ):
        if not (size > 0 and address >= ARENA and address + size <= ARENA + ARENA_SIZE):
            refuse(f"{size} bytes at {address:#x} are not in the arena")


class _Layout:
    """Memory from CONFORM_BATCH on, given out from below; the fixed-size tables come first."""

    def __init__(self, count: int) -> None:
        self.base = int(lib.CONFORM_BATCH)
        self.table = ffi.new("struct conform_case[]", count)
        self.pieces: list[bytes] = []
        self.place = self.base + count * CASE_BYTES

    def put(self, data: bytes, align: int = 4) -> int:
        """Lay bytes down; their address."""
        gap = -self.place % align
        self.pieces.append(bytes(gap) + data)
        at = self.place + gap
        self.place = at + len(data)
        return at

    def bytes(self) -> bytes:
        return b"".join((bytes(ffi.buffer(self.table)), *self.pieces))


def build(cases: Sequence[Case]) -> Batch:
    """Lay out a Batch."""
    layout = _Layout(len(cases))
    templates: dict[str, int] = {}
    results, sizes = [], []
    for entry, case in zip(layout.table, cases, strict=True):
        assert case.template is not None and case.cpu is not None
        key = case.template.key
        if key not in templates:
            templates[key] = layout.put(_with_collector(case.template.image), align=PAGE)
        entry.template = templates[key]
        entry.flags = lib.CONFORM_EXTERNAL if case.external else 0
        _fill_cpu(entry, case.cpu)
        _fill_lists(entry, case, layout)
        empty = ffi.new("struct conform_result *")
        empty.vector = empty.error = empty.eip = NEVER
        size = sum(watch.size for watch in case.watched())
        entry.result = layout.put(bytes(ffi.buffer(empty)) + bytes(size))
        results.append(int(entry.result))
        sizes.append(_RESULT + size)
    return Batch(tuple(cases), layout.bytes(), tuple(results), tuple(sizes), layout.place)


def _with_collector(image: bytes) -> bytes:
    offset = int(lib.CONFORM_COLLECT) - ARENA
    code = monitor().collector
    return image[:offset] + code + image[offset + len(code) :]


def _fill_cpu(entry: Any, cpu: Cpu) -> None:
    for name in ("tr", "ldtr", "cr0", "cr2", "cr3", "cr4", "gs", "fs", "es", "ds", "cs", "ss"):
        setattr(entry, name, getattr(cpu, name))
    for name in ("edi", "esi", "ebp", "ebx", "edx", "ecx", "eax", "eip", "eflags", "esp"):
        setattr(entry, name, getattr(cpu, name))
    registers = dict(cpu.dr)
    entry.dr = [registers.get(number, 0) for number in range(4)]
    entry.dr6 = registers.get(6, 0xFFFF0FF0)
    entry.dr7 = registers.get(7, 0x400)
    for name in ("gdt", "idt"):
        table = getattr(entry, name)
        base = getattr(cpu, f"{name}_base")
        table.limit = getattr(cpu, f"{name}_limit")
        table.base_low, table.base_high = base & 0xFFFF, base >> 16


def _fill_lists(entry: Any, case: Case, layout: _Layout) -> None:
    def put(kind: str, rows: Sequence[tuple[int, ...]]) -> int:
        return layout.put(bytes(ffi.buffer(ffi.new(f"struct {kind}[]", rows)))) if rows else 0

    assert case.cpu is not None
    patches = [(patch.address, len(patch.data), layout.put(patch.data, 1)) for patch in case.patches]
    watches = [(watch.address, watch.size) for watch in case.watched()]
    msrs = [(number, value & 0xFFFFFFFF, value >> 32, 0, 0) for number, value in case.cpu.msrs]
    entry.patches, entry.patch_count = put("conform_patch", patches), len(patches)
    entry.watches, entry.watch_count = put("conform_watch", watches), len(watches)
    entry.msrs, entry.msr_count = put("conform_msr", msrs), len(msrs)


def observe(case: Case, raw: bytes) -> Observation:
    """A result and its watched bytes, as an Observation."""
    result = ffi.from_buffer("struct conform_result *", raw)
    outcome = OUTCOMES.get(result.outcome, "broken")
    memory = _memory(case, raw[_RESULT:])
    pages = int(result.changed[0]) | int(result.changed[1]) << 32
    changed = frozenset(page for page in range(pages.bit_length()) if pages >> page & 1)
    if outcome != "trap":
        detail = _detail(outcome, result)
        return Observation(outcome, memory=memory, changed=changed, detail=detail, raw=raw)
    saved = result.saved
    stack = tuple(saved.stack[0 : min(saved.stack_words, len(saved.stack))])
    if len(stack) < 4:
        detail = f"a trap whose frame has only {len(stack)} words before its stack's page ends"
        return Observation("broken", memory=memory, changed=changed, stack=stack, detail=detail, raw=raw)
    trap, esp = frame(stack, int(saved.esp))
    if trap.cs == lib.CONFORM_CS and _in_launch(trap.eip):
        detail = f"vector {trap.vector}, error {trap.error:#x}, while segments were loaded and the start made"
        return Observation("setup", trap, memory=memory, changed=changed, stack=stack, detail=detail, raw=raw)
    names = ("eax", "ecx", "edx", "ebx", "ebp", "esi", "edi")
    return Observation(
        "trap",
        trap,
        regs={
            **{name: int(getattr(saved, name)) for name in names},
            "esp": esp,
            "eflags": trap.eflags,
            "handler_eflags": int(saved.eflags),
        },
        segs={name: int(getattr(saved, name)) for name in ("es", "cs", "ss", "ds", "fs", "gs")},
        cr={name: int(getattr(saved, name)) for name in ("cr0", "cr2", "cr3", "cr4")},
        dr={
            **{f"dr{number}": int(saved.dr[number]) for number in range(4)},
            "dr6": int(saved.dr6),
            "dr7": int(saved.dr7),
        },
        tables=_tables(saved),
        stack=stack,
        memory=memory,
        changed=changed,
        raw=raw,
    )


def frame(stack: Sequence[int], esp: int) -> tuple[Trap, int]:
    """The trap that a stack begins with, and the trapped program's ESP.

    stack[0] is the vector.  Whether the CPU pushed an error code does not follow from the vector alone (INT n
    pushes none), so a word must look like EFLAGS where they would be.
    """
    words = [*stack, *(0,) * (8 - len(stack))]
    vector = words[0]
    coded = vector in ERROR_CODES and words[4] & _EFLAGS_MASK == _EFLAGS_FIXED
    first = 2 if coded else 1
    eip, cs, eflags, outer_esp, outer_ss = words[first : first + 5]
    error = words[1] if coded else NO_ERROR
    if cs & 3 or eflags & VM:
        return Trap(vector, error, eip, cs & 0xFFFF, eflags, outer_ss & 0xFFFF, outer_esp), outer_esp
    return Trap(vector, error, eip, cs & 0xFFFF, eflags, None, None), esp + 4 * (first + 3) & 0xFFFFFFFF


def _memory(case: Case, data: bytes) -> dict[tuple[int, int], bytes]:
    found = {}
    place = 0
    for watch in case.watched():
        found[watch.address, watch.size] = data[place : place + watch.size]
        place += watch.size
    return found


def _tables(saved: Any) -> dict[str, int]:
    tables = {"tr": int(saved.tr), "ldtr": int(saved.ldtr)}
    for name in ("gdt", "idt"):
        table = getattr(saved, name)
        tables[f"{name}_base"] = int(table.base_low) | int(table.base_high) << 16
        tables[f"{name}_limit"] = int(table.limit)
    return tables


def _in_launch(address: int) -> bool:
    symbols = monitor().symbols
    return symbols["launch"] <= address < symbols["launch_end"]


def _detail(outcome: Outcome, result: Any) -> str:
    if outcome == "broken":
        return "the engine left no result"
    if outcome != "setup":
        return ""
    vector, error, eip = (int(getattr(result, name)) for name in ("vector", "error", "eip"))
    if vector == NEVER:
        return "the CPU was reset while the machine of this case was being made"
    symbols = monitor().symbols
    where = max((name for name, at in symbols.items() if at <= eip), key=lambda name: symbols[name])
    return f"vector {vector}, error {error:#x}, at {where}+{eip - symbols[where]:#x} of the monitor"
