"""The bits of page tables, under the manual's names, for both formats.

A Guest's own tables have two levels (32-bit paging) or three (PAE); the shadow tables are always PAE.  The
low twelve bits mean the same in both.  (Intel SDM vol. 3, "Paging", tables of entry formats; abi 7.1.)
"""

from typing import Final

PRESENT: Final = 0x001
RW: Final = 0x002
USER: Final = 0x004
PWT: Final = 0x008
PCD: Final = 0x010
ACCESSED: Final = 0x020
DIRTY: Final = 0x040
# In an upper entry: maps a large page.  In the lowest level the same bit is PAT.
PAGE_SIZE: Final = 0x080
GLOBAL: Final = 0x100
# Execute-disable, PAE only.
NX: Final = 1 << 63

# Page-fault error code (Intel SDM vol. 3, "Interrupt 14—Page-Fault Exception (#PF)").
FAULT_PROTECTION: Final = 1
FAULT_WRITE: Final = 2
FAULT_USER: Final = 4
FAULT_RESERVED: Final = 8
FAULT_FETCH: Final = 16

PAGE: Final = 0x1000
LARGE_PAGE: Final = 0x200000
# The frame of an entry whose frame lies below 4 GiB, as all of ours do.
FRAME: Final = 0xFFFFF000
FLAGS: Final = 0xFFF

# What a Guest may set in an entry that leads to a table (abi 7.1).
TABLE_FLAGS: Final = PRESENT | RW | USER | ACCESSED | DIRTY
TABLE_BITS_FORBIDDEN: Final = FLAGS & ~TABLE_FLAGS
# What the shadow takes over from a Guest's lowest entry.  Cache control stays out: a Guest's memory is the
# host's ordinary memory, and an uncached alias of it would only be slow.  Global stays out: two kernels
# alternate, and nothing may survive a CR3 write.
SHADOW_FLAGS: Final = PRESENT | RW | USER | ACCESSED | DIRTY
