"""Small Guests for the rows that audit the product's Host: a few instructions, put together by name.

A Script is what a Guest does at ring 1, one thing after the other.  Before it has page tables of its own its
linear addresses are its physical ones, so data is laid where the code will look for it.  What the CPU sees
the Guest copies itself: SGDT and SIDT tell where its live tables are, and it may read them.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kvmhost._native import ffi
from kvmhost.host.hypercalls import NAMES
from kvmhost.host.machine import Machine
from kvmhost.host.outcome import OutcomeKind
from kvmhost.switcher.blobs import Blob
from kvmhost.switcher.layout import Layout

from ...reference import image as reference_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmhost.host.guest import Guest
    from kvmhost.kvm import Kvm

NUMBERS = {name: number for number, name in NAMES.items()}
MEGABYTE = 1 << 20
DATA_AT, STACK_TOP, CODE_AT, ROOM_AT = 0x2000, 0x80000, 0x100000, 0x200000
MEMORY = 4 * MEGABYTE
PAGE_OFFSET = 0xC0000000
# struct lguest_data of the kernels that a Guest is taken for who does not say what it is.
DATA = "struct lguest_data_31"
LAP = 64
SECONDS = 60

Call = Sequence[int]
"""A hypercall: its number and up to four arguments."""

_LOADS = (0xB8, 0xBB, 0xB9, 0xBA, 0xBE)  # mov eax, ebx, ecx, edx, esi, imm32
_MOV_ESI, _MOV_EDI, _MOV_ECX = b"\xbe", b"\xbf", b"\xb9"
_REP_MOVSD, _REP_STOSB, _XOR_EAX = b"\xf3\xa5", b"\xf3\xaa", b"\x31\xc0"
_SGDT, _SIDT, _MOV_ESI_FROM = b"\x0f\x01\x05", b"\x0f\x01\x0d", b"\x8b\x35"
GDT_BYTES, IDT_BYTES = 256, 2048


def dword(value: int) -> bytes:
    return struct.pack("<I", value & 0xFFFFFFFF)


def entries(table: bytes) -> list[tuple[int, int]]:
    """A descriptor table as pairs of dwords, low and high."""
    return list(struct.iter_unpack("<II", table))


@dataclass
class Script:
    """What a Guest does.  It begins with a stack and LGUEST_INIT, and ends with end()."""

    code: bytearray = field(default_factory=bytearray)
    data: list[tuple[int, bytes]] = field(default_factory=list)
    room: int = ROOM_AT

    def __post_init__(self) -> None:
        self.raw(b"\xbc" + dword(STACK_TOP))  # mov esp
        self.call("LGUEST_INIT", DATA_AT)

    @property
    def here(self) -> int:
        """The address of the instruction that comes next."""
        return CODE_AT + len(self.code)

    def raw(self, code: bytes) -> None:
        self.code += code

    def call(self, name: str, *arguments: int) -> None:
        """A hypercall, at once."""
        for opcode, value in zip(_LOADS, (NUMBERS[name], *arguments), strict=False):
            self.raw(bytes([opcode]) + dword(value))
        self.raw(b"\xcd\x1f")

    def queue(self, calls: Iterable[Call]) -> None:
        """Hypercalls through the async ring, a lap of 64 for each trap; the last lap is filled up."""
        todo = list(calls)
        ring, status = (DATA_AT + ffi.offsetof(DATA, name) for name in ("hcalls", "hcall_status"))
        for start in range(0, len(todo), LAP):
            lap = [(*call, 0, 0, 0, 0)[:5] for call in todo[start : start + LAP]]
            lap += [(NUMBERS["FLUSH_ASYNC"], 0, 0, 0, 0)] * (LAP - len(lap))
            words = b"".join(dword(word) for call in lap for word in call)
            self._copy(self.lay(words), ring, len(words) // 4)
            self.raw(_MOV_EDI + dword(status) + _MOV_ECX + dword(LAP) + _XOR_EAX + _REP_STOSB)
            self.call("FLUSH_ASYNC")

    def lay(self, data: bytes) -> int:
        """Put data into the Guest's memory before it runs; its address."""
        at = self.room
        self.data.append((at, data))
        self.room += len(data) + 15 & -16
        return at

    def keep_gdt(self) -> int:
        """Copy the table that the CPU has now; where the copy will be."""
        return self._keep(_SGDT, GDT_BYTES)

    def keep_idt(self) -> int:
        """The same for the IDT."""
        return self._keep(_SIDT, IDT_BYTES)

    def _keep(self, store: bytes, size: int) -> int:
        pointer, copy = self.lay(bytes(8)), self.lay(bytes(size))
        self.raw(store + dword(pointer) + _MOV_ESI_FROM + dword(pointer + 2))
        self.raw(_MOV_EDI + dword(copy) + _MOV_ECX + dword(size // 4) + _REP_MOVSD)
        return copy

    def _copy(self, source: int, target: int, dwords: int) -> None:
        self.raw(_MOV_ESI + dword(source) + _MOV_EDI + dword(target) + _MOV_ECX + dword(dwords) + _REP_MOVSD)

    def store(self, address: int, value: int) -> None:
        """mov dword [address], value"""
        self.raw(b"\xc7\x05" + dword(address) + dword(value))

    def load(self, address: int) -> None:
        """mov eax, [address]"""
        self.raw(b"\xa1" + dword(address))

    def end(self) -> None:
        """Ask for a restart: that is how a Guest ends to whom nothing has happened."""
        self.call("SHUTDOWN", 0, 2)

    def guest(self, machine: Machine, memory: int = MEMORY) -> Guest:
        """A Guest that will do all this."""
        guest = machine.add_guest(memory, "audited")
        guest.ram.write(CODE_AT, bytes(self.code))
        data = ffi.new(f"{DATA} *")
        ffi.memmove(data.hcall_status, b"\xff" * LAP, LAP)
        data.kernel_address, data.syscall_vec = PAGE_OFFSET, 0x80
        guest.ram.write(DATA_AT, bytes(ffi.buffer(data)))
        for at, content in self.data:
            guest.ram.write(at, content)
        guest.set_entry(CODE_AT)
        return guest


@contextmanager
def machine_of(kvm: Kvm, parameters: Mapping[str, Any]) -> Iterator[Machine]:
    """A machine of the product's with the Switcher of the case's layer."""
    with Machine(MEMORY, switcher=switcher(parameters.get("switcher", "L3-hardened")), kvm=kvm) as machine:
        yield machine


def switcher(layer: str) -> str | Blob:
    """The product's own by its name; a reference as any foreign one that the Host must get on with.

    >>> switcher("L3-seed"), len(switcher("L2-seed").default_idt_entries)
    ('seed', 256)
    """
    kind, _, name = layer.partition("-")
    if kind == "L3":
        return name
    image = reference_image(name)
    digest = hashlib.sha256(image.text).hexdigest()
    layout = Layout.of(image.frame, image.descriptors)
    return Blob(image.name, image.text, image.symbols, image.entries, layout, digest)


def ended(guest: Guest) -> str:
    """Let a Guest do what it has to do; how it ended, "as it should" if it came to its end."""
    outcome = guest.run(timeout=SECONDS)
    return (
        "as it should" if outcome.kind is OutcomeKind.RESTARTED else f"{outcome.kind.value}: {outcome.reason}"
    )


def share(those: Iterable[bool]) -> str:
    """How many of some: all, some or none.

    >>> share([True, False]), share([True]), share([])
    ('some', 'all', 'none')
    """
    found = set(those)
    return "some" if len(found) == 2 else "all" if found == {True} else "none"


def spans(numbers: Iterable[int]) -> str:
    """Numbers as a text, neighbours together; "none" if there are none.

    >>> spans([3, 1, 2, 9]), spans([])
    ('1-3 9', 'none')
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return " ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs) or "none"


def numbers(text: str) -> list[int]:
    """The other way round.

    >>> numbers("1-3 9")
    [1, 2, 3, 9]
    """
    found: list[int] = []
    for part in text.split():
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
