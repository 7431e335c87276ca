"""The error code of a page fault that is handed on to the Guest.

The CPU walked the shadow, not the Guest's tables, and two bits of what it reported are about the shadow
alone.  An entry may be missing there only because nobody has used it yet, so Present would be 0 where the
Guest's tables say "present, and you may not": a write to a read-only page looks like one to no page.  And
instruction fetches are reported because the shadow is always PAE with NX, which a two-level Guest's CPU could
not know.
(Intel SDM vol. 3, "Page-Fault Exceptions", describes both bits.)
"""

from kvmhost._native import lib
from kvmhost.host.page_bits import FAULT_FETCH, FAULT_PROTECTION, PRESENT
from kvmhost.host.paging import ShadowTables


def for_the_guest(tables: ShadowTables, address: int, code: int) -> int:
    """What a CPU walking the Guest's own tables would have reported for the fault at linear `address`.

    `code` is what the CPU that walked the shadow reported. The Switcher's addresses are in no tables of the
    Guest's; what the shadow says about them stands. Raises GuestBroke for tables that break a rule.
    """
    if not tables.state.pae:
        code &= ~FAULT_FETCH
    if address >= lib.SWITCHER_BASE:
        return code
    if tables.state.linear:
        present = address < tables.state.limit_bytes
    else:
        found = tables.guest.find(address)
        present = found is not None and bool(found[2] & PRESENT)
    return code | FAULT_PROTECTION if present else code & ~FAULT_PROTECTION
