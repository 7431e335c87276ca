"""A Scene is a stage being changed for one case: the symbolic builders that rows use, and what they come to.

Each builder starts from what is there (so `{selector = "LCS", p = 0}` means LCS as it is, but not present)
and changes what it is told.  patches() is the difference to the template.  Builders take numbers: whoever
reads a row evaluates its expressions first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

from . import descriptors, page_tables
from .case import Patch
from .stage import ADDRESS, ARENA, ARENA_SIZE, HOST_TSS, PAGE, Stage, StageError

Table: TypeAlias = Literal["host", "guest"]
Level: TypeAlias = Literal["4k", "large", "pde", "pdpte"]
# Two differences that lie closer than this become one patch.
_NEAR = 8
_PIECE = 64


class Scene:
    """The arena of one case in the making.

    >>> scene = Scene(Stage.of("L1"))
    >>> scene.descriptor(0x50, p=0)
    >>> [(hex(patch.address), patch.data.hex()) for patch in scene.patches()]
    [('0x40a055', '1b')]
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        # Only pages that were written are copied: a case touches a few of forty.
        self._pages: dict[int, bytearray] = {}
        self._written: list[tuple[int, int]] = []

    def read(self, address: int, size: int) -> bytes:
        """Bytes of the arena as it is now, by physical address."""
        offset = self._offset(address, size)
        return b"".join(
            self._pages[page][start:end]
            if page in self._pages
            else self.stage.template.image[page * PAGE + start : page * PAGE + end]
            for page, start, end in _pages(offset, size)
        )

    def write(self, address: int, data: bytes) -> None:
        """Lay bytes into the arena, by physical address; StageError outside of it."""
        offset = self._offset(address, len(data))
        for page, start, end in _pages(offset, len(data)):
            if page not in self._pages:
                self._pages[page] = bytearray(self.stage.template.image[page * PAGE : page * PAGE + PAGE])
            place = page * PAGE + start
            self._pages[page][start:end] = data[place - offset : place - offset + end - start]
            self._written.append((place, place + end - start))

    def descriptor(
        self, selector: int, table: Table = "host", raw: bytes | None = None, **fields: int | str
    ) -> None:
        """Change a descriptor of a GDT: the keys of descriptors.segment(), or for a gate those of gate().

        raw is a whole descriptor, 8 bytes.
        """
        if not 0 < selector >> 3 < 32 or selector & 4:
            raise StageError(f"selector {selector:#x}: the tables have descriptors 1 to 31")
        place = self._gdt(table) + (selector & ~7)
        if raw is not None:
            self._whole(place, raw)
            return
        if fields.get("type") in descriptors.GATE_TYPES or "offset" in fields:
            self._gate(place, fields)
            return
        _known(fields, descriptors.SEGMENT_KEYS, "descriptor")
        now: dict[str, int | str] = {}
        if any(self.read(place, 8)):
            now.update(descriptors.segment_fields(self.read(place, 8)))
            if "type" in fields:
                del now["s"]
            elif "a" in fields and now["s"]:
                # A type that is a number brings its accessed bit along.
                now["type"] = int(now["type"]) & 14 | int(fields["a"])
        self.write(place, descriptors.segment(**{**now, **fields}))  # type: ignore[arg-type]

    def gate(self, vector: int, table: Table = "host", raw: bytes | None = None, **fields: int | str) -> None:
        """Change a gate of an IDT: the keys of descriptors.gate(), or raw, its 8 bytes."""
        if not 0 <= vector < 256:
            raise StageError(f"vector {vector}: there are 0 to 255")
        if raw is not None:
            self._whole(self._idt(table) + vector * 8, raw)
            return
        self._gate(self._idt(table) + vector * 8, fields)

    def tss(self, table: Table = "host", **fields: int) -> None:
        """Change fields of the Host's or the Guest's TSS."""
        base = HOST_TSS if table == "host" else ADDRESS["STATE_PAGE"] + self._state("guest_tss")
        for name, value in fields.items():
            offset, width = descriptors.tss_field(name)
            if not 0 <= value < 1 << width * 8:
                raise descriptors.DescriptorError(f"tss {name} {value:#x} does not fit {width * 8} bits")
            self.write(base + offset, value.to_bytes(width, "little"))

    def page(
        self,
        linear: int,
        phys: int | None = None,
        table: Table = "host",
        level: Level = "4k",
        raw: int | None = None,
        **flags: int,
    ) -> None:
        """Change the entry that maps linear.

        level "4k" is the entry of a 4 KiB page; "large" makes its directory entry a 4 MiB (PAE: 2 MiB) page;
        "pde" and "pdpte" change those as they are.  flags: present rw us pwt pcd a d g nx.  Entries that
        were empty start as present, writable, supervisor, accessed, dirty, linear = physical.  raw is a whole
        entry.
        """
        _known(flags, frozenset(page_tables.FLAGS), "page")
        slot = self._slot(linear, table, level)
        if raw is None:
            now = int.from_bytes(self.read(slot.address, slot.width), "little")
            raw = self._entry(now, linear, phys, level, flags)
        if not 0 <= raw < 1 << slot.width * 8:
            raise StageError(f"page {linear:#x}: {raw:#x} needs wider entries than this paging has")
        self.write(slot.address, raw.to_bytes(slot.width, "little"))

    def frame(self, **registers: int) -> None:
        """Change the Guest's register frame: registers, trapnum, errcode."""
        if self.stage.switcher is None:
            raise StageError("a frame needs world pair")
        places = self.stage.switcher.frame_offsets()
        for name, value in registers.items():
            if name not in places:
                raise StageError(f"the frame has no {name!r}: it has {', '.join(places)}")
            self.write(ADDRESS["REGS_PAGE"] + places[name], (value & 0xFFFFFFFF).to_bytes(4, "little"))

    def patches(self) -> tuple[Patch, ...]:
        """What differs from the template, in order of addresses; no patch goes over the end of a page."""
        template = self.stage.template.image
        stretches: list[tuple[int, int]] = []
        end = 0
        for first, last in sorted(self._written):
            for place in _differences(template, self._pages[first // PAGE], max(first, end), last):
                near = stretches and place - stretches[-1][1] < _NEAR
                if near and stretches[-1][0] // PAGE == place // PAGE:
                    stretches[-1] = (stretches[-1][0], place + 1)
                else:
                    stretches.append((place, place + 1))
            end = max(end, last)
        return tuple(Patch(ARENA + a, self.read(ARENA + a, b - a)) for a, b in stretches)

    def _offset(self, address: int, size: int) -> int:
        if not ARENA <= address <= address + size <= ARENA + ARENA_SIZE:
            raise StageError(
                f"{address:#x} and {size} bytes: not in the arena, {ARENA:#x} to {ARENA + ARENA_SIZE:#x};"
                " memory is named by physical addresses, so REGS_PAGE rather than P"
            )
        return address - ARENA

    def _state(self, field: str) -> int:
        if self.stage.switcher is None:
            raise StageError("table guest needs world pair: the L1 world has only the Host's tables")
        return self.stage.switcher.state_offsets()[field]

    def _gdt(self, table: Table) -> int:
        return ADDRESS["HOST_GDT"] if table == "host" else ADDRESS["STATE_PAGE"] + self._state("guest_gdt")

    def _idt(self, table: Table) -> int:
        return ADDRESS["HOST_IDT"] if table == "host" else ADDRESS["STATE_PAGE"] + self._state("guest_idt")

    def _whole(self, place: int, raw: bytes) -> None:
        if len(raw) != 8:
            raise StageError(f"raw has {len(raw)} bytes; a descriptor has 8")
        self.write(place, raw)

    def _gate(self, place: int, fields: dict[str, int | str]) -> None:
        _known(fields, descriptors.GATE_KEYS, "gate")
        now = descriptors.gate_fields(self.read(place, 8))
        start: dict[str, int | str] = dict(now) if any(now.values()) else {}
        self.write(place, descriptors.gate(**{**start, **fields}))  # type: ignore[arg-type]

    def _slot(self, linear: int, table: Table, level: Level) -> page_tables.Slot:
        if table == "guest":
            self._state("guest_gdt")
        prefix = "HOST" if table == "host" else "GUEST"
        pages = {name: ADDRESS[f"{prefix}_{name}"] for name in ("TOP", "PD0", "PD3", "PT", "SWPT")}
        find = {
            "4k": page_tables.table_slot,
            "large": page_tables.directory_slot,
            "pde": page_tables.directory_slot,
            "pdpte": page_tables.top_slot,
        }
        slot = find[level](self.stage.paging, pages, linear)
        if slot is None:
            raise StageError(
                f"page {linear:#x}: under {self.stage.paging} paging the stage has no {level} entry for it"
            )
        return slot

    def _entry(self, now: int, linear: int, phys: int | None, level: Level, flags: dict[str, int]) -> int:
        size = page_tables.reach(self.stage.paging) if level == "large" else PAGE
        if not now or (level == "large" and not now & page_tables.LARGE):
            now = linear & -size | page_tables.PRESENT
            if level != "pdpte":  # which has no such bits
                now |= page_tables.RW | page_tables.ACCESSED | page_tables.DIRTY
        if level == "large":
            now |= page_tables.LARGE
        if phys is not None:
            now = now & (page_tables.NX | PAGE - 1) | phys
        for name, value in flags.items():
            bit = page_tables.FLAGS[name]
            now = now | bit if value else now & ~bit
        return now


def _pages(offset: int, size: int) -> Iterator[tuple[int, int, int]]:
    """The pages of a range of the arena, each with the part [start, end) of it."""
    while size > 0:
        page, start = divmod(offset, PAGE)
        part = min(size, PAGE - start)
        yield page, start, start + part
        offset, size = offset + part, size - part


def _differences(before: bytes, page: bytearray, first: int, last: int) -> Iterator[int]:
    """The offsets in [first, last), all in one page, at which that page is not as it was before."""
    base = first // PAGE * PAGE
    for start in range(first, last, _PIECE):
        end = min(start + _PIECE, last)
        if before[start:end] != page[start - base : end - base]:
            yield from (place for place in range(start, end) if before[place] != page[place - base])


def _known(fields: dict[str, int] | dict[str, int | str], allowed: frozenset[str], what: str) -> None:
    for name in fields:
        if name not in allowed:
            raise StageError(f"{what}: unknown key {name!r}: there is {', '.join(sorted(allowed))}")
