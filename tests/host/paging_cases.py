"""Small Guests for the case-by-case tests: two-level tables with one page in user and one in kernel space."""

from typing import Any

from host.paging_model import RAM, RW, US, Fault, Hit, Mmu, P, make

from kvmhost.host.memory import VmMemory

READ, WRITE, USER, FETCH = 0, 2, 4, 16
TOP, TABLE, KERNEL_TABLE, OTHER = 0x100000, 0x101000, 0x102000, 0x103000


def put32(memory: VmMemory, physical: int, entry: int) -> None:
    memory.write(RAM + physical, entry.to_bytes(4, "little"))


def put64(memory: VmMemory, physical: int, entry: int) -> None:
    memory.write(RAM + physical, entry.to_bytes(8, "little"))


def get32(memory: VmMemory, physical: int) -> int:
    return int.from_bytes(memory.read(RAM + physical, 4), "little")


def two_level(memory: VmMemory, last: int = 0x400000 | P | RW | US, **options: Any) -> Any:
    """A Guest with linear 0x1000 and KERNEL + 0x1000 mapped by `last`, its first NEW_PGTABLE done."""
    tables = make(memory, **options)
    put32(memory, TOP, TABLE | 0x67)
    put32(memory, TOP + 0x300 * 4, KERNEL_TABLE | 0x67)
    put32(memory, TABLE + 4, last)
    put32(memory, KERNEL_TABLE + 4, last)
    tables.new_pgtable(TOP)
    return tables


def access(tables: Any, address: int, write: bool = False, user: bool = False) -> Hit | Fault:
    return Mmu(tables.memory).access(tables.root, address, write, user, False)


def spaces(memory: VmMemory, count: int, **options: Any) -> tuple[Any, list[int]]:
    """Address spaces whose kernel half is the same, and whose linear 0x1000 is a page of their own."""
    tables = make(memory, **options)
    tops = []
    for number in range(count):
        top, table = 0x110000 + number * 0x2000, 0x111000 + number * 0x2000
        put32(memory, top, table | 0x67)
        put32(memory, top + 0x300 * 4, KERNEL_TABLE | 0x67)
        put32(memory, table + 4, 0x400000 + number * 0x1000 | P | RW | US)
        tops.append(top)
    put32(memory, KERNEL_TABLE + 4, 0x500000 | P | RW)
    return tables, tops
