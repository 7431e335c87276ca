"""A Guest's first page tables, where it needs some before its first instruction.

From 3.1 on the Host pretends until the Guest brings tables of its own.  Before, a
table stood ready in the Guest's own RAM, below the initrd, mapping all of RAM at
its physical address and, from 2.6.30 on, at PAGE_OFFSET as well.  It is ordinary
memory that the Guest does not know of; it is told where by lguest_data.pgdir, and
forgets it with its first NEW_PGTABLE (abi 9.3).
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from kvmhost._native import lib
from kvmhost.host.abi import BootTables
from kvmhost.host.errors import BootError
from kvmhost.host.page_bits import PAGE, PRESENT, RW, USER

if TYPE_CHECKING:
    from kvmhost.host.guest import Guest

FLAGS: Final = PRESENT | RW | USER
# The last entry of a two-level table is the Switcher's.
SWITCHER_ENTRY: Final = lib.SWITCHER_BASE >> 22
BELOW: Final = lib.BOOT_LOW_END


def build(guest: Guest) -> None:
    """Write the tables and make them the Guest's current ones; nothing where the generation has none.

    The boot parameters must be in memory already: they say how much RAM there is and how large the initrd is.
    Raises BootError if they do not, or if the tables would not fit below the initrd.
    """
    if guest.abi.tables is BootTables.LINEAR:
        return
    memory = _word(guest, lib.BOOT_E820_SIZE, 8)
    initrd = _word(guest, lib.BOOT_RAMDISK_SIZE, 4)
    pages = memory // PAGE
    if not 0 < memory <= guest.state.mem_bytes or pages * PAGE != memory:
        raise BootError(
            f"a kernel of {guest.abi.releases} needs boot parameters before it can be started",
            cause=f"they say that it has {memory:#x} bytes of RAM, and it has {guest.state.mem_bytes:#x}",
            next_step="load it with Machine.load(), or write boot_params before set_entry()",
        )
    top = memory - initrd - PAGE
    build_pae = guest.pae and guest.abi.tables is BootTables.IDENTITY_AND_KERNEL
    tables = -(-pages // (512 if build_pae else 1024))
    start = top - tables * PAGE
    if start - PAGE < BELOW:
        raise BootError(
            f"{memory} bytes of memory are too few",
            cause=f"{tables + 2} pages of page tables and {initrd} bytes of initrd do not fit in it",
            next_step="give the Guest more memory",
        )
    (_build_pae if build_pae else _build)(guest, pages, top, start)
    state = guest.state
    state.linear, state.pae, state.current_root, state.pgdir[0] = 0, int(build_pae), 0, top


def _word(guest: Guest, address: int, size: int) -> int:
    return int.from_bytes(guest.ram.read(address, size), "little")


def _build(guest: Guest, pages: int, top: int, start: int) -> None:
    """Two levels: tables from `start` on, their directory at `top`."""
    guest.ram.write(start, _padded(array("I", range(FLAGS, pages * PAGE, PAGE)).tobytes()))
    leads = array("I", range(start | FLAGS, top, PAGE))
    directory = array("I", bytes(PAGE))
    directory[: len(leads)] = leads
    if guest.abi.tables is BootTables.IDENTITY_AND_KERNEL:
        first = guest.page_offset >> 22
        room = leads[: max(SWITCHER_ENTRY - first, 0)]
        directory[first : first + len(room)] = room
    guest.ram.write(top, directory.tobytes())


def _build_pae(guest: Guest, pages: int, top: int, start: int) -> None:
    """Three levels: one directory, below the tables, serves both places, so it maps at most 1 GiB."""
    guest.ram.write(start, _padded(array("Q", range(FLAGS, pages * PAGE, PAGE)).tobytes()))
    middle = start - PAGE
    leads = array("Q", range(start | FLAGS, top, PAGE))[:512]
    guest.ram.write(middle, _padded(leads.tobytes()))
    directory = array("Q", bytes(PAGE))
    directory[0] = directory[guest.page_offset >> 30] = middle | PRESENT
    guest.ram.write(top, directory.tobytes())


def _padded(data: bytes) -> bytes:
    """To whole pages: what is behind the last entry is zero, whatever was there before."""
    return data + bytes(-len(data) % PAGE)
