"""What CPUID answers to a Guest.

CPUID is not privileged, so a Guest's user space would see the machine beneath:
KVM's own leaves, features whose doors are shut, a family that makes old kernels
touch MSRs.  With CPUID faulting on, every CPUID at ring 1 and 3 is a trap and is
answered from a table of the Guest's own (abi 9.5; Intel SDM vol. 3, "CPUID
Faulting").
"""

from __future__ import annotations

from collections.abc import Mapping

Registers = tuple[int, int, int, int]

VENDOR_LEAF = 0
FEATURE_LEAF = 1
EXTENDED_LEAF = 0x80000000
EXTENDED_FEATURE_LEAF = 0x80000001
BRAND_LEAVES = (0x80000002, 0x80000003, 0x80000004)

# Family 5, as every Guest since 2.6.31 pretends to itself: no MSR is touched for its sake.
SIGNATURE = 0x00000543
# SSE3, SSSE3, CMPXCHG16B; FPU, TSC, PAE, CMPXCHG8B, CMOV, MMX, FXSR, SSE, SSE2 (abi 9.5).
FEATURES_ECX = 0x00002201
FEATURES_EDX = 0x07808151


def guest_table(host: Mapping[int, Registers]) -> dict[int, Registers]:
    """Make a Guest's table from what the host's CPU answers (leaf to EAX, EBX, ECX, EDX).

    >>> table = guest_table({0: (0x1F, 1, 2, 3), 1: (0x806F8, 0x10800, 0xFFFFFFFF, 0xFFFFFFFF)})
    >>> [hex(value) for value in table[1]]
    ['0x543', '0x0', '0x2201', '0x7808151']
    """
    _, ebx, ecx, edx = host.get(VENDOR_LEAF, (0, 0, 0, 0))
    _, _, features_c, features_d = host.get(FEATURE_LEAF, (0, 0, 0, 0))
    table: dict[int, Registers] = {
        VENDOR_LEAF: (FEATURE_LEAF, ebx, ecx, edx),
        FEATURE_LEAF: (SIGNATURE, 0, features_c & FEATURES_ECX, features_d & FEATURES_EDX),
        EXTENDED_LEAF: (max(BRAND_LEAVES), 0, 0, 0),
        EXTENDED_FEATURE_LEAF: (0, 0, 0, 0),
    }
    for leaf in BRAND_LEAVES:
        table[leaf] = host.get(leaf, (0, 0, 0, 0))
    return table


def answer(table: Mapping[int, Registers], leaf: int) -> Registers:
    """EAX, EBX, ECX, EDX for a leaf; a leaf beyond the table reads as zero."""
    return table.get(leaf, (0, 0, 0, 0))
