"""From rows to Cases: every expression evaluated, every builder applied, nothing symbolic left.

A row that names layers of a Switcher becomes one Case for each that the caller has an image of.  Expectations
that override (any_of, deviation, layer) are laid over the row's own, key by key, so that a file says only
what is different.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from . import descriptors, expression, schema
from .case import (
    GPRS,
    NO_ERROR,
    Alternative,
    Case,
    Cpu,
    Deviation,
    Event,
    Expect,
    Masked,
    MemoryExpect,
    TrapExpect,
    Watch,
)
from .errors import RowError
from .families import spec as empty_spec
from .reference import Reference
from .row import NOTHING, CaseSpec, Row, Table
from .scene import Scene
from .stage import GUEST_FRAME, Stage, StageError, World, page_number
from .switcher_image import SwitcherImage, UnknownPlace
from .switchers import FOREIGN

if TYPE_CHECKING:
    from .families.layered import Layered

Switchers = Mapping[str, SwitcherImage]
# Families by name: from a row to the specs of its cases, in the order in which they are to run.
Family = Callable[[Row], Iterator[CaseSpec]]
MSRS: Mapping[str, int] = {
    "SYSENTER_CS": 0x174,
    "SYSENTER_ESP": 0x175,
    "SYSENTER_EIP": 0x176,
    "MISC_ENABLE": 0x1A0,
    "DEBUGCTL": 0x1D9,
    "PAT": 0x277,
    "EFER": 0xC0000080,
    "STAR": 0xC0000081,
}
# Bit numbers of the flags that rows may name (schema.CR0_FLAGS, CR4_FLAGS, EFER_FLAGS).
FLAG_BITS: Mapping[str, Mapping[str, int]] = {
    "cr0": dict(zip(schema.CR0_FLAGS, (0, 1, 2, 3, 4, 5, 16, 18, 29, 30, 31), strict=True)),
    "cr4": dict(zip(schema.CR4_FLAGS, (*range(12), 16, 17, 18, 20, 21, 22), strict=True)),
    "efer": dict(zip(schema.EFER_FLAGS, (0, 11), strict=True)),
}
_SEGMENT_SLOTS = ("gs", "fs", "ds", "es", "cs", "ss")
_STORED = ("trapnum", "errcode", "eip", "eflags")


def expand(
    row: Row,
    switchers: Switchers = NOTHING,
    references: Mapping[str, Reference] = NOTHING,
    *,
    seed: int = 1,
    stress: bool = False,
) -> list[Case]:
    """The Cases of a row, one for each of its specs and layers.

    switchers has the images of the layers other than L1; layers without one give no case.  references has,
    for layers whose image is that of a changed reference Switcher, this Switcher.  seed is for what a row
    draws; stress plays all that the catalogue asks for, and not what is enough for the core set.  A row that
    is not written has no cases.  Raises RowError with the case's name and the key that cannot be evaluated.
    """
    from .families.layered import LAYERED

    if row.program:
        return list(_programs(row, seed, stress))
    row = of_this_run(row, seed, stress)
    if row.family in LAYERED:
        generate = LAYERED[row.family]
        return [
            case
            for layer, switcher in switchers.items()
            if like(layer, switcher) in row.layers
            for case in _through(row, layer, switcher, generate, references.get(layer))
        ]
    specs = family(row)(row) if row.family else iter(row.cases)
    return [case for spec in specs for case in _layers(row, spec, switchers)]


def like(layer: str, switcher: SwitcherImage | None) -> str:
    """The layer whose cases and expectations a layer has: a foreign Switcher follows one of the product's."""
    return f"L3-{switcher.follows}" if layer == FOREIGN and switcher else layer


def _through(
    row: Row, layer: str, switcher: SwitcherImage, generate: Layered, reference: Reference | None
) -> Iterator[Case]:
    """The cases of a family that goes through the Switcher; of a foreign one places may not be known."""
    try:
        for spec, image in generate(row, like(layer, switcher), switcher, reference):
            yield from _made(row, spec, layer, image)
    except UnknownPlace as missing:
        yield _unknown(
            row, empty_spec(row, "every place", "trip", expect={}), layer, switcher, f"SW.{missing.place}"
        )


def _made(row: Row, spec: CaseSpec, layer: str, switcher: SwitcherImage | None) -> Iterator[Case]:
    """The Case of a spec.  If a foreign Switcher has no such place, nobody can run it, and it says so."""
    try:
        yield _Maker(row, spec, layer, switcher).case()
    except RowError as error:
        symbol = getattr(error.__cause__, "symbol", "")
        if layer != FOREIGN or switcher is None or not symbol.startswith("SW."):
            raise
        yield _unknown(row, spec, layer, switcher, symbol)


def _unknown(row: Row, spec: CaseSpec, layer: str, switcher: SwitcherImage, symbol: str) -> Case:
    """A case that no runner can play: it requires what this Switcher does not have."""
    world: World = "pair" if spec.world == "pair" else "L1"
    stage = Stage.of(world, "legacy", switcher)
    requires = frozenset({f"{symbol} among the offsets of {switcher.name}"})
    return Case(row.id, spec.name, layer, spec.kind, stage.template, stage.cpu("trip"), requires=requires)


def family(row: Row) -> Family:
    """The generator that a row names; RowError if there is none of that name."""
    from .families.registry import FAMILIES

    if row.family not in FAMILIES:
        raise RowError(str(row.path), "family", repr(row.family), "one of " + ", ".join(sorted(FAMILIES)))
    return FAMILIES[row.family]


def of_this_run(row: Row, seed: int, stress: bool = False) -> Row:
    """The row with the parameters of this run: stress has those that are others then."""
    told = dict(row.parameters)
    more = told.pop("stress", NOTHING)
    if stress:
        told |= more
    if "seed" in told and seed != 1:
        told["seed"] = f"{told['seed']}/{seed}"
    return replace(row, parameters=told)


def _programs(row: Row, seed: int, stress: bool) -> Iterator[Case]:
    """A program's case for each layer, and its controls: those once, and not in full, for that is enough."""
    for layer in row.layers:
        yield _program(of_this_run(row, seed, stress), layer, NOTHING)
    for control in row.controls:
        yield _program(of_this_run(row, seed, stress=False), row.layers[-1], control)


def _program(row: Row, layer: str, control: Table) -> Case:
    parameters = dict(row.parameters)
    if layer != "L1":
        parameters["switcher"] = layer
    if row.controls:
        parameters["planted"] = control.get("plants", "")
    expect = _values(row.expect, control)
    deviations = {
        environment: Deviation(
            each["dev"],
            None if each.get("demonstrable") is False else _values(row.expect, each["expect"], control),
        )
        for environment, each in row.deviation.items()
    }
    return Case(
        row=row.id,
        name=control.get("name", row.program),
        layer=layer,
        kind="N" if control else row.kind,
        template=None,
        cpu=None,
        expect=expect,
        # A defect may hide what is otherwise seen of a deviation.
        deviations={name: known for name, known in deviations.items() if known.expect != expect},
        requires=frozenset(row.requires),
        program=row.program,
        parameters=parameters,
    )


def _values(stated: Table, *over: Table) -> Expect:
    """What a program must find: the row's own values, with others laid over them."""
    values = dict(stated.get("values", NOTHING))
    for each in over:
        values |= each.get("values", NOTHING)
    return Expect(outcome=stated.get("outcome", "values"), values=values)


def _layers(row: Row, spec: CaseSpec, switchers: Switchers) -> Iterator[Case]:
    layers = list(spec.layers)
    if FOREIGN in switchers and like(FOREIGN, switchers[FOREIGN]) in layers and spec.world != "L1":
        layers.append(FOREIGN)
    for layer in dict.fromkeys(layers):
        if spec.world == "L1":
            yield _Maker(row, spec, layer, None).case()
        elif layer in switchers:
            yield from _boundaries(row, spec, layer, switchers[layer])


def _boundaries(row: Row, spec: CaseSpec, layer: str, switcher: SwitcherImage) -> Iterator[Case]:
    """at = "every boundary" is one case for each labelled instruction of the Switcher under test."""
    if spec.event.get("at") != "every boundary":
        yield from _made(row, spec, layer, switcher)
        return
    for name in switcher.boundaries:
        event = {**spec.event, "at": f"SW.{name}"}
        yield from _made(row, replace(spec, name=f"{spec.name} at {name}", event=event), layer, switcher)


def overlaid(under: Table, over: Table) -> Table:
    """A table with another one's keys laid over it, tables within tables too; lists are replaced.

    >>> overlaid({"trap": {"vector": 13, "error": 0}}, {"trap": {"vector": 6}})
    {'trap': {'vector': 6, 'error': 0}}
    """
    both = dict(under)
    for key, value in over.items():
        old = both.get(key)
        both[key] = overlaid(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return both


def _instead(stated: Table, other: Table) -> Table:
    """Another expectation laid over the stated one; one with another outcome stands alone."""
    same = other.get("outcome", stated.get("outcome", "trap")) == stated.get("outcome", "trap")
    return overlaid(stated, other) if same else other


class _Maker:
    """One spec on one layer being turned into a Case."""

    def __init__(self, row: Row, spec: CaseSpec, layer: str, switcher: SwitcherImage | None) -> None:
        self.row, self.spec, self.layer = row, spec, layer
        world: World = "pair" if spec.world == "pair" else "L1"
        self.stage = Stage.of(world, "pae" if spec.paging == "pae" else "legacy", switcher)
        # With the labels of its own code, which most cases do not have.
        self.symbols: Mapping[str, int] = {}
        for each in spec.code:
            if each.labels:
                start = self.number(each.at, "code.at")
                own = {name: start + offset for name, offset in each.labels.items()}
                self.symbols = {**(self.symbols or self.stage.symbols), **own}
        self.cpu = self._cpu()

    def number(self, value: schema.Value, key: str) -> int:
        if isinstance(value, int):
            return value
        try:
            if self.symbols:
                return expression.evaluate(value, self.symbols)
            return self.stage.evaluate(value)
        except expression.ExpressionError as error:
            raise self.error(key, str(error), "numbers, and symbols of the stage") from error

    def error(self, key: str, problem: str, allowed: str) -> RowError:
        return RowError(str(self.row.path), f"case {self.spec.name!r}: {key}", problem, allowed)

    def numbers(self, table: Table, key: str) -> dict[str, int]:
        return {name: self.number(value, f"{key}.{name}") for name, value in table.items()}

    def case(self) -> Case:
        spec = self.spec
        followed = like(self.layer, self.stage.switcher)
        stated = _instead(spec.expect, spec.layer.get(followed, NOTHING).get("expect", NOTHING))
        scene = Scene(self.stage)
        try:
            self._build(scene)
        except (descriptors.DescriptorError, ValueError) as error:
            if isinstance(error, RowError):
                raise
            raise self.error("scene", str(error), "what the stage has") from error
        return Case(
            row=self.row.id,
            name=spec.name,
            layer=self.layer,
            kind=spec.kind,
            template=self.stage.template,
            cpu=self.cpu,
            patches=scene.patches(),
            watches=tuple(
                Watch(self.number(each["at"], "watch.at"), self.number(each.get("size", 4), "watch.size"))
                for each in spec.watch
            ),
            event=self._event(spec.event) if spec.event else None,
            expect=self._expect(stated),
            any_of=tuple(
                Alternative(each["reason"], self._expect(_instead(stated, each["expect"])))
                for each in spec.any_of
                if self.layer in each.get("layers", (self.layer,))
            ),
            deviations={
                environment: Deviation(
                    each["dev"],
                    None
                    if each.get("demonstrable") is False
                    else self._expect(_instead(stated, each.get("expect", NOTHING))),
                )
                for environment, each in spec.deviation.items()
            },
            requires=frozenset(spec.requires),
        )

    def _build(self, scene: Scene) -> None:
        spec = self.spec
        for each in spec.pages:
            fields = self.numbers({k: v for k, v in each.items() if k not in ("table", "level")}, "pages")
            scene.page(table=each.get("table", "host"), level=each.get("level", "4k"), **fields)
        for each in spec.gdt:
            self._descriptor(scene, each)
        for each in spec.idt:
            fields = self.numbers({k: v for k, v in each.items() if k not in ("table", "type", "raw")}, "idt")
            extra = self._typed(each, "idt")
            vector = fields.pop("vector")
            scene.gate(vector, each.get("table", "host"), **extra, **fields)  # type: ignore[arg-type]
        if spec.tss:
            fields = self.numbers({k: v for k, v in spec.tss.items() if k != "table"}, "tss")
            scene.tss(spec.tss.get("table", "host"), **fields)
        if spec.frame:
            scene.frame(**self.numbers(spec.frame, "frame"))
        for code in spec.code:
            scene.write(self.number(code.at, "code.at"), code.bytes)
        for each in spec.memory:
            scene.write(self.number(each["at"], "memory.at"), self._data(each, "memory"))

    def _typed(self, each: Table, key: str) -> dict[str, Any]:
        extra: dict[str, Any] = {}
        if "type" in each:
            named = each["type"] in (*schema.SEGMENT_TYPES, *schema.GATE_TYPES)
            extra["type"] = each["type"] if named else self.number(each["type"], f"{key}.type")
        if "raw" in each:
            extra["raw"] = bytes.fromhex(each["raw"])
        return extra

    def _descriptor(self, scene: Scene, each: Table) -> None:
        fields = self.numbers({k: v for k, v in each.items() if k not in ("table", "type", "raw")}, "gdt")
        extra = self._typed(each, "gdt")
        selector = fields.pop("selector")
        if "target" in fields:
            gate: dict[str, Any] = {**fields, **extra, "selector": fields["target"]}
            del gate["target"]
            extra, fields = {"raw": descriptors.gate(**gate)}, {}
        scene.descriptor(selector, each.get("table", "host"), **extra, **fields)  # type: ignore[arg-type]

    def _data(self, each: Table, key: str) -> bytes:
        if "hex" in each:
            return bytes.fromhex(each["hex"])
        if "u32" in each:
            values = (self.number(value, f"{key}.u32") for value in each["u32"])
            return b"".join((value & 0xFFFFFFFF).to_bytes(4, "little") for value in values)
        if "fill" in each and "size" in each:
            byte, size = (self.number(each[name], f"{key}.{name}") for name in ("fill", "size"))
            return bytes([byte]) * size
        raise self.error(key, f"nothing to put at {each['at']}", "hex, u32, or fill with size")

    def _cpu(self) -> Cpu:
        told = dict(self.spec.cpu)
        cpu = self.stage.cpu(self.spec.start)  # type: ignore[arg-type]
        start = {"cr0": cpu.cr0, "cr4": cpu.cr4, "efer": 0}
        for name, flags in FLAG_BITS.items():
            for suffix, value in (("set", 1), ("clear", 0)):
                for flag in told.pop(f"{name}_{suffix}", ()):
                    start[name] = start[name] & ~(1 << flags[flag]) | value << flags[flag]
        msrs = [(MSRS[name], self.number(value, "cpu.msr")) for name, value in told.pop("msr", {}).items()]
        if start["efer"] or "efer" in told:
            msrs.append((MSRS["EFER"], self.number(told.pop("efer", start["efer"]), "cpu.efer")))
        debug = [(int(name[2]), self.number(told.pop(name), name)) for name in schema.DEBUG if name in told]
        fields: dict[str, Any] = {"cr0": start["cr0"], "cr4": start["cr4"], **self.numbers(told, "cpu")}
        fields = {name: value & 0xFFFFFFFF for name, value in fields.items()}
        return replace(cpu, **fields, dr=tuple(sorted(debug)), msrs=tuple(msrs))

    def _event(self, told: Table) -> Event:
        return Event(
            kind=told["kind"],
            at=self.number(told["at"], "event.at") if "at" in told else None,
            hit=self.number(told.get("hit", 1), "event.hit"),
            steps=self.number(told["steps"], "event.steps") if "steps" in told else None,
            vector=self.number(told.get("vector", 0), "event.vector"),
            count=self.number(told.get("count", 1), "event.count"),
            after=self._event(told["after"]) if told.get("after") else None,
        )

    def _expect(self, told: Table) -> Expect:
        cr: dict[str, Masked] = {}
        dr: dict[str, Masked] = {}
        for name, masked in self._masked(told.get("cr", NOTHING), "cr").items():
            (dr if name.startswith("dr") else cr)[name] = masked
        changed = told.get("changed")
        return Expect(
            outcome=told.get("outcome", "trap"),
            trap=self._trap(told["trap"]) if "trap" in told else None,
            regs=self._kept(told) | self._masked(told.get("regs", NOTHING), "regs"),
            segs=self.numbers(told.get("segs", NOTHING), "segs"),
            cr=cr,
            dr=dr,
            tables=self.numbers(told.get("tables", NOTHING), "tables"),
            memory=(*self._memory(told.get("memory", ())), *self._frame(self._kept_frame(told))),
            changed=None if changed is None else self._pages(changed),
            hidden={name: self.numbers(each, "hidden") for name, each in told.get("hidden", NOTHING).items()},
            values={**told.get("values", {}), **told.get("report", {})},
        )

    def _kept(self, told: Table) -> dict[str, Masked]:
        """kept = true: every general register but ESP is as it was at the start."""
        if not told.get("kept"):
            return {}
        return {name: Masked(getattr(self.cpu, name)) for name in GPRS if name != "esp"}

    def _kept_frame(self, told: Table) -> Table:
        """frame_kept = true: what a Guest's own code has not changed is in its frame as it was at the start.

        What a trap makes of trapnum, errcode, EIP and EFLAGS is for the row to say.
        """
        said: Table = told.get("frame", NOTHING)
        if not told.get("frame_kept"):
            return said
        before = {**GUEST_FRAME, **self.spec.frame}
        kept = {name: value for name, value in before.items() if name not in _STORED}
        return {**kept, **said}

    def _trap(self, told: Table) -> TrapExpect:
        fields = {key: value for key, value in told.items() if not (key == "error" and value == "none")}
        numbers = {name: value & 0xFFFFFFFF for name, value in self.numbers(fields, "trap").items()}
        if told.get("error") == "none":
            numbers["error"] = NO_ERROR
        return TrapExpect(**numbers)

    def _masked(self, told: Table, key: str) -> dict[str, Masked]:
        numbers = self.numbers(told, key)
        return {
            name: Masked(value & 0xFFFFFFFF, numbers.get(f"{name}_mask", 0xFFFFFFFF))
            for name, value in numbers.items()
            if not name.endswith("_mask")
        }

    def _memory(self, told: Any) -> Iterator[MemoryExpect]:
        for each in told:
            data = self._data(each, "expect.memory")
            mask = each.get("mask")
            if mask is not None:
                masks = mask if isinstance(mask, list) else [mask] * (len(data) // 4)
                mask = self._data({"at": each["at"], "u32": masks}, "expect.memory.mask")
            yield MemoryExpect(self.number(each["at"], "expect.memory.at"), data, mask, str(each["at"]))

    def _frame(self, told: Table) -> Iterator[MemoryExpect]:
        """A saved segment is 16 bits wide: CPUs differ in what they leave in the upper half (DV-11)."""
        for name, masked in self._masked(told, "frame").items():
            mask = masked.mask & (0xFFFF if name in _SEGMENT_SLOTS else 0xFFFFFFFF)
            yield MemoryExpect(
                self.number(f"FRAME.{name}", "expect.frame"),
                masked.value.to_bytes(4, "little"),
                mask.to_bytes(4, "little"),
                f"regs.{name}",
            )

    def _pages(self, told: Any) -> frozenset[int]:
        try:
            return frozenset(page_number(self.number(each, "expect.changed")) for each in told)
        except StageError as error:
            raise self.error("expect.changed", str(error), "physical addresses in the arena") from error


def parameters(row: Row, *names: str) -> Iterator[tuple[Any, ...]]:
    """All combinations of a family's parameters, in the order of the names; RowError if one is missing."""
    lists = []
    for name in names:
        if not isinstance(row.parameters.get(name), list):
            raise RowError(str(row.path), f"parameters.{name}", "is missing", "a list")
        lists.append(row.parameters[name])
    yield from product(*lists)
