"""The machine: registers, memory through segments and pages, and the way into a handler.

Everything that the CPU does by itself is here; instructions.py has what programs make it do.  A method's name
is the manual's word for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..case import GPRS, Case, Cpu
from ..stage import ADDRESS, ARENA, ARENA_SIZE, PAGE
from . import paging, segments
from .faults import DF, GP, NP, SS, TS, Fault, Shutdown, Unknown, second
from .segments import Descriptor

CF, PF, AF, ZF, SF, TF, IF, DIRECTION, OF = 1, 4, 16, 64, 128, 0x100, 0x200, 0x400, 0x800
IOPL, NT, RF, VM, AC = 0x3000, 0x4000, 0x10000, 0x20000, 0x40000
CR0_AM, WP, PG = 1 << 18, 1 << 16, 1 << 31
PSE, PAE, PGE, UMIP, SMEP, SMAP = 1 << 4, 1 << 5, 1 << 7, 1 << 11, 1 << 20, 1 << 21
#: The bits of CR4 that the model knows, or that change nothing for it: all but VME, PVI and the later ones.
KNOWN_CR4 = PSE | PAE | SMEP | SMAP | UMIP | 0x7CC
EFER, NXE = 0xC0000080, 1 << 11
ALL = 0xFFFFFFFF
NO_PAGE = (-1, 0)


@dataclass(slots=True)
class Segment:
    """A segment register: its selector and what was loaded with it; None for a null one."""

    selector: int
    descriptor: Descriptor | None


@dataclass(slots=True)
class Machine:
    """One vCPU with the memory of a case.

    memory is the arena, cpl the ring, coded the error code of the last delivery, None if it had none.
    code_page is where the instruction's page is, linear and physical: looked up once for its bytes.
    """

    memory: bytearray
    cpu: Cpu
    regs: dict[str, int] = field(default_factory=dict)
    segs: dict[str, Segment] = field(default_factory=dict)
    eip: int = 0
    eflags: int = 2
    cpl: int = 0
    cr0: int = 0
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0
    efer: int = 0
    tr: Segment = field(default_factory=lambda: Segment(0, None))
    ldtr: Segment = field(default_factory=lambda: Segment(0, None))
    gdt: tuple[int, int] = (0, 0)
    idt: tuple[int, int] = (0, 0)
    coded: int | None = None
    code_page: tuple[int, int] = NO_PAGE

    # Memory, from the physical upwards.

    def physical_read(self, address: int, size: int) -> int:
        """Little-endian.  What is not in the arena is not known."""
        self._in_arena(address, size)
        return int.from_bytes(self.memory[address - ARENA : address - ARENA + size], "little")

    def physical_write(self, address: int, size: int, value: int) -> None:
        """Little-endian, cut to the size."""
        self._in_arena(address, size)
        data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        self.memory[address - ARENA : address - ARENA + size] = data

    def _in_arena(self, address: int, size: int) -> None:
        if not ARENA <= address <= address + size <= ARENA + ARENA_SIZE:
            raise Unknown(f"memory at {address:#x}")

    def mode(self) -> paging.Mode:
        """The paging that the control registers choose."""
        return paging.Mode(
            self.cr3,
            pae=bool(self.cr4 & PAE),
            pse=bool(self.cr4 & PSE),
            write_protect=bool(self.cr0 & WP),
            no_execute=bool(self.efer & NXE and self.cr4 & PAE),
            smep=bool(self.cr4 & SMEP),
            smap=bool(self.cr4 & SMAP),
        )

    def places(self, linear: int, size: int, access: paging.Access) -> list[tuple[int, int]]:
        """Physical address and length of each page's part of a linear range."""
        if not self.cr0 & PG:
            return [(linear, size)]
        found, mode = [], self.mode()
        while size:
            linear &= ALL
            part = min(size, PAGE - linear % PAGE)
            found.append((paging.translate(self, mode, linear, access), part))
            linear, size = linear + part, size - part
        return found

    def linear_read(self, linear: int, size: int, access: paging.Access) -> bytes:
        """Bytes at a linear address."""
        places = self.places(linear, size, access)
        return b"".join(self.physical_read(at, part).to_bytes(part, "little") for at, part in places)

    def linear_write(self, linear: int, data: bytes, access: paging.Access) -> None:
        """Both pages are translated before a byte is written."""
        done = 0
        for at, part in self.places(linear, len(data), access):
            self.physical_write(at, part, int.from_bytes(data[done : done + part], "little"))
            done += part

    def access(self, *, write: bool = False) -> paging.Access:
        """An access by the running program."""
        return paging.Access(write=write, user=self.cpl == 3, ac=bool(self.eflags & AC))

    def read(self, segment: str, offset: int, size: int) -> int:
        """By way of a segment register."""
        linear = self.segmented(segment, offset, size, write=False)
        return int.from_bytes(self.linear_read(linear, size, self.access()), "little")

    def read_to_write(self, segment: str, offset: int, size: int) -> int:
        """For an instruction that reads and then writes: the rights of a write are asked for at once."""
        linear = self.segmented(segment, offset, size, write=True)
        return int.from_bytes(self.linear_read(linear, size, self.access(write=True)), "little")

    def write(self, segment: str, offset: int, size: int, value: int) -> None:
        """By way of a segment register."""
        linear = self.segmented(segment, offset, size, write=True)
        data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        self.linear_write(linear, data, self.access(write=True))

    def segmented(self, segment: str, offset: int, size: int, *, write: bool) -> int:
        """The linear address, after limit and type: SDM vol. 3, "Limit Checking" and "Type Checking"."""
        found, vector = self.segs[segment].descriptor, SS if segment == "ss" else GP
        if found is None:
            raise Fault(GP, 0)
        if (write and not found.writable) or (not write and not found.readable):
            raise Fault(GP, 0)
        if not found.holds(offset & ALL, size):
            raise Fault(vector, 0)
        return (found.base + offset) & ALL

    def fetch(self, offset: int) -> int:
        """One byte of code.  Each byte of an instruction is fetched before the instruction does anything."""
        code = self.segs["cs"].descriptor
        assert code is not None
        if offset > code.limit:
            raise Fault(GP, 0)
        linear = (code.base + offset) & ALL
        page = linear & -PAGE
        if page != self.code_page[0]:
            access = paging.Access(user=self.cpl == 3, fetch=True)
            ((at, _),) = self.places(linear, 1, access)
            self.code_page = page, at - linear + page
        return self.physical_read(self.code_page[1] + linear - page, 1)

    # The stack.

    def stack_mask(self) -> int:
        """How much of ESP counts, by SS.B."""
        stack = self.segs["ss"].descriptor
        return ALL if stack is None or stack.big else 0xFFFF

    def push(self, value: int, size: int = 4) -> None:
        """One item; ESP changes only if it could be written."""
        mask = self.stack_mask()
        top = self.regs["esp"] - size & mask
        self.write("ss", top, size, value)
        self.regs["esp"] = self.regs["esp"] & ~mask & ALL | top

    def peek(self, depth: int, size: int = 4) -> int:
        """An item so many bytes above the top of the stack."""
        return self.read("ss", self.regs["esp"] + depth & self.stack_mask(), size)

    def drop(self, size: int) -> None:
        """Take so many bytes off."""
        mask = self.stack_mask()
        self.regs["esp"] = self.regs["esp"] & ~mask & ALL | (self.regs["esp"] + size & mask)

    # Descriptors.

    def descriptor_place(self, selector: int) -> int | None:
        """The linear address of a selector's descriptor; None beyond its table."""
        index = selector & 0xFFF8
        if selector & 4:
            table = self.ldtr.descriptor
            if table is None:
                return None
            return table.base + index & ALL if index + 7 <= table.limit else None
        return self.gdt[0] + index & ALL if index + 7 <= self.gdt[1] else None

    def descriptor(self, selector: int, vector: int = GP, ext: int = 0) -> Descriptor:
        """What a selector names; the fault carries it where its table is too short."""
        place = self.descriptor_place(selector)
        if place is None:
            raise Fault(vector, selector & ~3 | ext)
        return segments.decode(self.linear_read(place, 8, paging.Access()))

    def touch(self, selector: int, found: Descriptor) -> Descriptor:
        """Set the accessed bit of a code or data descriptor that has just been loaded."""
        place = self.descriptor_place(selector)
        if found.accessed or place is None:
            return found
        byte = self.linear_read(place + 5, 1, paging.Access())[0]
        self.linear_write(place + 5, bytes([byte | 1]), paging.Access(write=True))
        return segments.decode(self.linear_read(place, 8, paging.Access()))

    def load_data(self, name: str, selector: int) -> None:
        """DS, ES, FS, GS or SS, as MOV and POP do."""
        if selector & ~3 == 0:
            if name == "ss":
                raise Fault(GP, 0)
            self.segs[name] = Segment(selector, None)
            return
        found = self.descriptor(selector)
        check = segments.check_stack if name == "ss" else segments.check_data
        check(selector, found, self.cpl)
        self.segs[name] = Segment(selector, self.touch(selector, found))

    # The way into a handler.

    def raise_fault(self, fault: Fault) -> None:
        """Deliver an exception, and whatever comes of trying.  Raises Shutdown."""
        vector, error, cr2 = fault.vector, fault.error, fault.cr2
        while True:
            if cr2 is not None:
                self.cr2 = cr2
            before = self.snapshot()
            self.eflags |= RF  # in the image only: delivery clears it
            try:
                self.deliver(vector, error, ext=1)
                return
            except Fault as again:
                self.restore(before)
                becomes = second(vector, again.vector)
                if becomes is None:
                    raise Shutdown from None
                if becomes == DF:
                    if again.cr2 is not None:
                        self.cr2 = again.cr2
                    vector, error, cr2 = DF, 0, None
                else:
                    vector, error, cr2 = again.vector, again.error, again.cr2

    def snapshot(self) -> tuple[dict[str, int], dict[str, Segment], int, int, int]:
        """What a delivery changes before it can fail."""
        return dict(self.regs), dict(self.segs), self.eip, self.eflags, self.cpl

    def restore(self, saved: tuple[dict[str, int], dict[str, Segment], int, int, int]) -> None:
        """As if it had not been tried; what was written to memory stays."""
        regs, segs, self.eip, self.eflags, self.cpl = saved
        self.regs, self.segs = dict(regs), dict(segs)

    def deliver(self, vector: int, error: int | None, *, ext: int, software: bool = False) -> None:
        """By way of the IDT: INT n/INTO/INT3/INT1, "Operation", and SDM vol. 3 on exceptions.

        software is INT n, INT3 or INTO: for these the gate's DPL counts.  Raises Fault.
        """
        code = vector * 8 + 2 + ext
        if vector * 8 + 7 > self.idt[1]:
            raise Fault(GP, code)
        gate = segments.decode_gate(self.linear_read(self.idt[0] + vector * 8 & ALL, 8, paging.Access()))
        if not gate.system or gate.type not in segments.IN_THE_IDT:
            raise Fault(GP, code)
        if software and gate.dpl < self.cpl:
            raise Fault(GP, vector * 8 + 2)
        if not gate.present:
            raise Fault(NP, code)
        if gate.type == segments.TASK:
            raise Unknown("a task gate")
        self.through(gate, error, ext)

    def through(self, gate: segments.Gate, error: int | None, ext: int) -> None:
        """An interrupt or trap gate that may be used."""
        selector = gate.selector
        if selector & ~3 == 0:
            raise Fault(GP, ext)
        target = self.descriptor(selector, GP, ext)
        if not target.code or target.dpl > self.cpl:
            raise Fault(GP, selector & ~3 | ext)
        if not target.present:
            raise Fault(NP, selector & ~3 | ext)
        size = 4 if gate.type in (segments.INTERRUPT32, segments.TRAP32) else 2
        outer = [self.eflags, self.segs["cs"].selector, self.eip]
        inner = not target.conforming and target.dpl < self.cpl
        if inner:
            outer = [self.segs["ss"].selector, self.regs["esp"], *outer]
            self.inner_stack(target.dpl, ext)
        if gate.offset > target.limit:
            raise Fault(GP, ext)
        try:
            for value in outer + ([] if error is None else [error]):
                self.push(value, size)
        except Fault as fault:
            raise self.on_new_stack(fault, inner, ext) from None
        self.coded = error
        self.segs["cs"] = Segment(selector & ~3 | self.cpl, self.touch(selector, target))
        self.eip = gate.offset
        self.eflags &= ~(TF | NT | RF | VM)
        if gate.type in (segments.INTERRUPT16, segments.INTERRUPT32):
            self.eflags &= ~IF

    def on_new_stack(self, fault: Fault, inner: bool, ext: int) -> Fault:
        """A stack that is too small: #SS with the new selector, or with nothing but EXT on the old one."""
        if fault.vector == SS:
            return Fault(SS, (self.segs["ss"].selector & ~3 if inner else 0) | ext)
        return fault

    def inner_stack(self, ring: int, ext: int) -> None:
        """SS and ESP of an inner ring from the TSS, checked; the CPU is in that ring afterwards."""
        task = self.tr.descriptor
        if task is None:
            raise Unknown("a trap without a TSS")
        wide = task.type in (segments.TSS32, segments.TSS32_BUSY)
        place, size = (4 + 8 * ring, 4) if wide else (2 + 4 * ring, 2)
        if place + size + 1 > task.limit:
            raise Fault(TS, self.tr.selector & ~3 | ext)
        raw = self.linear_read(task.base + place & ALL, size + 2, paging.Access())
        esp, selector = int.from_bytes(raw[:size], "little"), int.from_bytes(raw[size : size + 2], "little")
        if selector & ~3 == 0:
            raise Fault(TS, ext)
        found = self.descriptor(selector, TS, ext)
        if selector & 3 != ring or found.dpl != ring or not found.writable:
            raise Fault(TS, selector & ~3 | ext)
        if not found.present:
            raise Fault(SS, selector & ~3 | ext)
        self.cpl = ring
        self.segs["ss"] = Segment(selector, self.touch(selector, found))
        self.regs["esp"] = esp

    # The start.

    @classmethod
    def of(cls, case: Case) -> Machine:
        """The machine as the case's first instruction finds it.  Raises Fault where it cannot be built."""
        cpu, template = case.cpu, case.template
        assert cpu is not None and template is not None
        memory = bytearray(template.image)
        for patch in case.patches:
            memory[patch.address - ARENA : patch.address - ARENA + len(patch.data)] = patch.data
        # What the start loads it loads before paging is on: the stage's addresses are physical ones.
        made = cls(memory, cpu, eip=cpu.eip, cr2=cpu.cr2, cr3=cpu.cr3, cr4=cpu.cr4)
        made.regs = {name: getattr(cpu, name) for name in GPRS}
        made.gdt, made.idt = (cpu.gdt_base, cpu.gdt_limit), (cpu.idt_base, cpu.idt_limit)
        made.efer = dict(cpu.msrs).get(EFER, 0)
        if cpu.ldtr & ~3:
            made.ldtr = Segment(cpu.ldtr, made.descriptor(cpu.ldtr))
        if cpu.tr:
            made.load_task(cpu.tr)
        for name in ("ds", "es", "fs", "gs"):
            made.load_data(name, getattr(cpu, name))
        made.segs["cs"] = Segment(cpu.cs, made.touch(cpu.cs, made.descriptor(cpu.cs)))
        made.segs["ss"] = Segment(cpu.ss, made.touch(cpu.ss, made.descriptor(cpu.ss)))
        made.cpl, made.eflags = cpu.cs & 3, cpu.eflags | 2
        made.forget_inner_segments()
        made.cr0 = cpu.cr0
        return made

    def load_task(self, selector: int) -> None:
        """LTR, after its checks of ring and table: the descriptor becomes busy."""
        place = self.descriptor_place(selector)
        if selector & ~3 == 0:
            raise Fault(GP, 0)
        if place is None or selector & 4:
            raise Fault(GP, selector & ~3)
        found = self.descriptor(selector)
        if found.code_or_data or found.type not in (segments.TSS16, segments.TSS32):
            raise Fault(GP, selector & ~3)
        if not found.present:
            raise Fault(NP, selector & ~3)
        byte = self.linear_read(place + 5, 1, paging.Access())[0]
        self.linear_write(place + 5, bytes([byte | 2]), paging.Access(write=True))
        self.tr = Segment(selector, segments.decode(self.linear_read(place, 8, paging.Access())))

    def forget_inner_segments(self) -> None:
        """Null what an outer ring may not keep: IRET and far RET, "RETURN-TO-OUTER-PRIVILEGE-LEVEL"."""
        for name in ("ds", "es", "fs", "gs"):
            found = self.segs[name].descriptor
            if found is not None and found.dpl < self.cpl and not found.conforming:
                self.segs[name] = Segment(0, None)


#: Where the collector's stubs are: a handler there ends the case.
COLLECT = range(ADDRESS["COLLECT"], ADDRESS["COLLECT"] + PAGE)
